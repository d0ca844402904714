"""Products of feature rows in blocks, by torch whatever the library of the array, and in a precision that is stated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from rapids_slr.engine.arrays import Array, array_module

BLOCK = 1024  # rows of a block of the product
STRIP = 4096  # columns: 16 MB of similarities, which stay in the cache


def similarity_blocks(x_ND: Array, y_MD: Array, upper: bool = False) -> Iterator[tuple[int, int, Array]]:
    """Yield (row, column, block) over the product x y^T in float32; a block is overwritten by the next one.

    Args:
        upper: leave out what lies below the diagonal; the squares on it come first.
    """
    x, y = as_tensor(x_ND), as_tensor(y_MD)
    space = array_module(x_ND).empty(min(BLOCK, len(x)) * min(STRIP, len(y)), np.float32)
    rows = range(0, len(x), BLOCK)
    diagonal = [(row, row, row + BLOCK) for row in rows] if upper else []
    strips = [(row, c, c + STRIP) for row in rows for c in range(row + BLOCK if upper else 0, len(y), STRIP)]
    for row, column, end in diagonal + strips:
        left, right = x[row : row + BLOCK], y[column:end]
        block = space[: len(left) * len(right)].reshape(len(left), len(right))
        product(left, right, as_tensor(block), "ieee")
        yield row, column, block


def product(x_ID: torch.Tensor, y_JD: torch.Tensor, out_IJ: torch.Tensor, precision: str) -> None:
    """x y^T, "ieee" or on CUDA "tf32", whatever is set for torch; its settings are as they were afterwards."""
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = precision
        with on_cupy_stream() if x_ID.is_cuda else nullcontext():
            torch.mm(x_ID, y_JD.T, out=out_IJ)
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = "none"  # which follows torch.backends.fp32_precision
            if setting.fp32_precision != value:
                setting.fp32_precision = value


def on_cupy_stream() -> AbstractContextManager:
    """Puts torch on CuPy's current stream, where the kernels run."""
    import cupy

    stream = cupy.cuda.get_current_stream().ptr
    return torch.cuda.stream(torch.cuda.ExternalStream(stream) if stream else torch.cuda.default_stream())


def as_tensor(x_ND: Array) -> torch.Tensor:
    """A tensor that shares memory; torch cannot mark it as read-only, but nothing writes to features."""
    if array_module(x_ND) is not np:
        return torch.from_dlpack(x_ND)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(x_ND)
