"""Query expansion: every row of V becomes the mean of the rows of its nearest images."""

from __future__ import annotations

import numpy as np

from rapids_slr.kernels import cpu, in_parallel


@cpu("void(int64, int64, int32[:, ::1], int64, int64[::1], int32[::1], int64[::1])")
def _count(start, stop, index_NK, k2, indptr, indices, size_N):
    stamp_N = np.full(index_NK.shape[0], -1, np.int32)
    for i in range(start, stop):
        size = 0
        for p in range(k2):
            j = index_NK[i, p]
            for e in range(indptr[j], indptr[j + 1]):
                if stamp_N[indices[e]] != i:
                    stamp_N[indices[e]] = i
                    size += 1
        size_N[i] = size


@cpu("void(int64, int64, int32[:, ::1], int64, int64[::1], int32[::1], float32[::1], int64[::1], int32[::1],"
     " float32[::1])")  # fmt: skip
def _fill(start, stop, index_NK, k2, indptr, indices, weights, out_indptr, out_indices, out_weights):
    sum_N = np.zeros(index_NK.shape[0])
    for i in range(start, stop):
        place = out_indptr[i]
        for p in range(k2):
            j = index_NK[i, p]
            for e in range(indptr[j], indptr[j + 1]):
                if sum_N[indices[e]] == 0:
                    out_indices[place] = indices[e]
                    place += 1
                sum_N[indices[e]] += weights[e]
        for e in range(out_indptr[i], place):
            out_weights[e] = sum_N[out_indices[e]] / k2
            sum_N[out_indices[e]] = 0


def expand_queries(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, index_NK: np.ndarray, k2: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """V (CSR) with row i replaced by the mean of the rows of the first k2 images of rank_i, i itself included."""
    if k2 == 1:
        return indptr, indices, weights
    out_indptr = np.zeros_like(indptr)
    in_parallel(_count, indptr.size - 1, index_NK, k2, indptr, indices, out_indptr[1:], smallest=256)
    np.cumsum(out_indptr, out=out_indptr)
    out_indices, out_weights = np.empty(out_indptr[-1], np.int32), np.empty(out_indptr[-1], np.float32)
    in_parallel(_fill, indptr.size - 1, index_NK, k2, indptr, indices, weights, out_indptr, out_indices, out_weights,
                smallest=256)  # fmt: skip
    return out_indptr, out_indices, out_weights
