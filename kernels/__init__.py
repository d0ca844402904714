"""Numeric kernels: one step a file, imported as rapids_slr.kernels. `runtime.py` holds what they are made with."""

from rapids_slr.kernels.runtime import warm_up

__all__ = ["warm_up"]
