"""Products of feature rows in blocks, by torch whatever the library of the array, and in a precision that is stated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.engine.backend import has_bfloat16

BLOCK = 1024  # rows of a block of the product
STRIP = 4096  # columns: 16 MB of similarities, which stay in the cache
PROBE_D, PROBES = 512, 5  # what tells whether bfloat16 pays
PAYS = 0.75  # time of a product in bfloat16, in parts of one in float32, up to which it pays


def similarity_blocks(x_ND: Array, y_MD: Array) -> Iterator[tuple[int, int, Array]]:
    """Yield (row, column, block) over the product x y^T in float32; a block is overwritten by the next one."""
    x, y = as_tensor(x_ND), as_tensor(y_MD)
    space = array_module(x_ND).empty(min(BLOCK, len(x)) * min(STRIP, len(y)), np.float32)
    for column in range(0, len(y), STRIP):
        right = y[column : column + STRIP]
        for row in range(0, len(x), BLOCK):
            left = x[row : row + BLOCK]
            block = space[: len(left) * len(right)].reshape(len(left), len(right))
            product(left, right, as_tensor(block), "ieee")
            yield row, column, block


class Speed(NamedTuple):
    """Seconds of a multiplication and addition in products on this CPU, by all threads of torch."""

    float32: float
    bfloat16: float | None
    """None where the processor has no instructions for it."""


@cache
def speed() -> Speed:
    """Tried out once: a product in either, in turn. What is computed from it does not depend on the answer."""
    rows = torch.linspace(-1, 1, BLOCK * PROBE_D).reshape(BLOCK, PROBE_D)
    seconds: dict[torch.dtype, list[float]] = {torch.float32: []}
    if has_bfloat16(torch.device("cpu")):
        seconds[torch.bfloat16] = []
    for _ in range(PROBES):
        for dtype, taken in seconds.items():
            x = rows.to(dtype)
            started = perf_counter()
            torch.mm(x, x.T)
            taken.append(perf_counter() - started)
    best = {dtype: min(taken) / (BLOCK * BLOCK * PROBE_D) for dtype, taken in seconds.items()}
    return Speed(best[torch.float32], best.get(torch.bfloat16))


def bfloat16_pays() -> tuple[bool, str]:
    """Whether this processor multiplies in bfloat16 so much faster than in float32 that it pays, and why."""
    tried = speed()
    if tried.bfloat16 is None:
        return False, "the processor has no instructions for bfloat16"
    ratio = tried.bfloat16 / tried.float32
    return ratio <= PAYS, f"a product in bfloat16 takes {ratio:.2f} of one in float32"


def product(x_ID: torch.Tensor, y_JD: torch.Tensor, out_IJ: torch.Tensor, precision: str) -> None:
    """x y^T, "ieee" or on CUDA "tf32", whatever is set for torch; its settings are as they were afterwards."""
    with in_precision(precision), on_cupy_stream() if x_ID.is_cuda else nullcontext():
        torch.mm(x_ID, y_JD.T, out=out_IJ)


@contextmanager
def in_precision(precision: str) -> Iterator[None]:
    """Products of all threads are "ieee" or "tf32" in here."""
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = precision
        yield
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
