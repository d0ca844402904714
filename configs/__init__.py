"""Run specs that come with the package; rapids_slr.settings.specfile reads them."""
