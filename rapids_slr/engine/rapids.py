"""cuML and cuDF where they are installed: the CUDA engine does without them, and nobody else notices their import."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from types import ModuleType

import torch

from rapids_slr.errors import InputError

NAMES = {"cuml": "cuML", "cudf": "cuDF"}
"""Module and name."""


def installed(module: str) -> bool:
    """Whether cuML or cuDF is installed; nothing is imported."""
    return importlib.util.find_spec(module) is not None


def import_rapids(name: str, instead: str) -> ModuleType:
    """A module of cuML or cuDF. CuPy keeps its allocator: both set it to RMM's at their import, which without a pool
    of RMM asks the driver for every array.

    Args:
        instead: what to do without the library, for the message.
    Raises: InputError if it is not installed, or cannot be imported.
    """
    import cupy

    allocator = cupy.cuda.get_allocator()
    try:
        return import_module(name)
    except ImportError as fault:
        raise InputError(f"{lacks(name.partition('.')[0], fault)}; or {instead}") from fault
    finally:
        if cupy.cuda.get_allocator() != allocator:
            cupy.cuda.set_allocator(allocator)


def lacks(module: str, fault: ImportError | str = "not installed") -> str:
    """That a library is not to be had, why, and the command that brings it."""
    return f"needs {NAMES[module]}: {fault} (pip install 'rapids-slr[{cuda_extra()}]')"


def cuda_extra() -> str:
    """The extra of this package that fits the CUDA version of torch."""
    return "cuda12" if (torch.version.cuda or "").startswith("12.") else "cuda13"
