"""`python -m rapids_slr` is `rapids-slr`."""

import sys

from rapids_slr.cli import main

sys.exit(main())
