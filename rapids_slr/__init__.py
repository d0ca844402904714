"""Pseudo-label refinement (SLR) for unsupervised domain adaptation."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapids_slr.clustering import JaccardDBSCAN
    from rapids_slr.refinement import SLR

# Threads of torch that wait for the next product leave their core to the loops in between after some microseconds, not
# after milliseconds. OpenMP reads it when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.2.0"
__all__ = ["SLR", "JaccardDBSCAN", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the estimators when they are first asked for, so that the command line need not wait for torch."""
    if name == "JaccardDBSCAN":
        from rapids_slr.clustering import JaccardDBSCAN

        return JaccardDBSCAN
    if name == "SLR":
        from rapids_slr.refinement import SLR

        return SLR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
