"""The sum of the smallest positive values of a large array, without sorting or copying it."""

from __future__ import annotations

import numpy as np

from rapids_slr.kernels import cpu

BINS = 2**15  # by the upper half of a float's bits, which orders positive floats


@cpu("void(int32[::1], int64[::1])")
def _histogram(bits, count_B):
    for e in range(bits.size):
        count_B[bits[e] >> 16] += 1


@cpu("float64(float32[::1], int32[::1], int64, float32[::1])")
def _split(values, bits, border, at_border):
    """Sum of the values in bins 1 .. border - 1; those in bin `border` are copied."""
    total, found = 0.0, 0
    for e in range(bits.size):
        b = bits[e] >> 16
        if 0 < b < border:
            total += values[e]
        elif b == border:
            at_border[found] = values[e]
            found += 1
    return total


def sum_of_smallest(values: np.ndarray, count: int) -> float:
    """Sum in float64 of the `count` smallest positive values.

    Args:
        values: float32, none negative, those above 0 at least 1e-30.
        count: at most the number of values above 0.
    """
    bits, count_B = values.view(np.int32), np.zeros(BINS, np.int64)
    _histogram(bits, count_B)
    count_B[0] = 0
    before_B = np.cumsum(count_B)
    border = int(np.searchsorted(before_B, count))
    at_border = np.empty(count_B[border], np.float32)
    total = _split(values, bits, border, at_border)
    at_border.sort()
    return total + float(at_border[: count - (before_B[border] - count_B[border])].sum(dtype=np.float64))
