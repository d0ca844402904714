"""What several tests of CUDA code share."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_same(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    """The same arrays, number by number and type by type."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def dense(indptr: Any, indices: Any, values: Any, columns: int) -> np.ndarray:
    """A CSR matrix with all its zeros."""
    out = np.zeros((len(indptr) - 1, columns))
    for row in range(len(indptr) - 1):
        for e in range(indptr[row], indptr[row + 1]):
            out[row, indices[e]] = values[e]
    return out
