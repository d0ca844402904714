"""Run specs that come with the package; rapids_slr.specfile reads them."""
