"""Numeric kernels: one file each, imported as rapids_slr.kernels."""
