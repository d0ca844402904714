"""Products of feature rows in blocks, by torch whatever the library of the array, and in a precision that is stated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
import torch

from rapids_slr.engine.arrays import Array, array_module

BLOCK = 1024  # rows of a block of the product
STRIP = 4096  # columns: 16 MB of similarities, which stay in the cache
PROBE_D, PROBES = 512, 5  # what tells whether bfloat16 pays
PAYS = 0.75  # time of a product in bfloat16, in parts of one in float32, up to which it pays


def similarity_blocks(
    x_ND: Array, y_MD: Array, upper: bool = False, bfloat16: bool = False
) -> Iterator[tuple[int, int, Array]]:
    """Yield (row, column, block) over the product x y^T in float32; a block is overwritten by the next one.

    Args:
        upper: leave out what lies below the diagonal; the squares on it come first.
        bfloat16: round rows to bfloat16 first, sum in float32, and give sums in bfloat16: blocks are int16, their bits.
    """
    x, y = as_tensor(x_ND), as_tensor(y_MD)
    dtype, bits = (torch.bfloat16, np.int16) if bfloat16 else (torch.float32, np.float32)
    space = array_module(x_ND).empty(min(BLOCK, len(x)) * min(max(STRIP, BLOCK), len(y)), bits)

    def block_of(row: int, column: int, right: torch.Tensor) -> tuple[int, int, Array]:
        left = x[row : row + BLOCK].to(dtype)
        block = space[: len(left) * len(right)].reshape(len(left), len(right))
        product(left, right, as_tensor(block).view(dtype), "ieee")
        return row, column, block

    if upper:
        for row in range(0, len(x), BLOCK):
            yield block_of(row, row, y[row : row + BLOCK].to(dtype))
    # No more than a strip of rows is rounded at a time: features may lie in a file.
    for first in range(0, len(y), STRIP):
        right = y[first : first + STRIP].to(dtype)
        for row in range(0, len(x), BLOCK):
            column = max(first, row + BLOCK) if upper else first
            if column - first >= len(right):
                break
            yield block_of(row, column, right[column - first :])


@cache
def bfloat16_pays() -> tuple[bool, str]:
    """Whether this processor multiplies in bfloat16 so much faster than in float32 that it pays, and why.

    It is tried out once: a product in either, in turn. What is computed from it does not depend on the answer.
    """
    if not any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile")):
        return False, "the processor has no instructions for bfloat16"
    rows = torch.linspace(-1, 1, BLOCK * PROBE_D).reshape(BLOCK, PROBE_D)
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(PROBES):
        for dtype, taken in seconds.items():
            x = rows.to(dtype)
            started = perf_counter()
            torch.mm(x, x.T)
            taken.append(perf_counter() - started)
    ratio = min(seconds[torch.bfloat16]) / min(seconds[torch.float32])
    return ratio <= PAYS, f"a product in bfloat16 takes {ratio:.2f} of one in float32"


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
