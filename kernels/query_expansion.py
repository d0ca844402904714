"""Query expansion: every row of V becomes the mean of the rows of its nearest images."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.group import ALONE, Group, gathered_rows
from rapids_slr.kernels.runtime import cpu, gpu, in_parallel, on_gpu


@cpu("void(int64, int64, int32[:, ::1], int64, int64[::1], int32[::1], int64[::1])")
def _count(start, stop, index_NK, k2, indptr, indices, size_N):
    stamp_N = np.full(index_NK.shape[0], -1, np.int32)  # the last image that met a column; spares clearing it
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
                if sum_N[indices[e]] == 0:  # weights are positive: 0 has not been met
                    out_indices[place] = indices[e]
                    place += 1
                sum_N[indices[e]] += weights[e]
        for e in range(out_indptr[i], place):
            out_weights[e] = sum_N[out_indices[e]] / k2
            sum_N[out_indices[e]] = 0


@cuda.jit(device=True)
def _next_column(i, index_NK, k2, indptr, indices, weights, place_Nk2):
    """The least column that the rows of the first k2 images of rank_i still hold, or -1, and the sum of its weights.

    place_Nk2: where each of the rows, in ascending order, goes on; moved past the column.
    """
    least, total = -1, 0.0
    for p in range(k2):
        place = place_Nk2[i, p]
        if place < indptr[index_NK[i, p] + 1] and (least < 0 or indices[place] < least):
            least = indices[place]
    for p in range(k2):
        place = place_Nk2[i, p]
        if place < indptr[index_NK[i, p] + 1] and indices[place] == least:
            total += np.float64(weights[place])
            place_Nk2[i, p] = place + 1
    return least, total


@gpu("void(int32[:, ::1], int64, int64[::1], int32[::1], float32[::1], int64[:, ::1], int64[::1])")
def _count_cuda(index_NK, k2, indptr, indices, weights, place_Nk2, size_N):
    i = cuda.grid(1)
    if i < size_N.size:
        size = 0
        while _next_column(i, index_NK, k2, indptr, indices, weights, place_Nk2)[0] >= 0:
            size += 1
        size_N[i] = size


@gpu("void(int32[:, ::1], int64, int64[::1], int32[::1], float32[::1], int64[:, ::1], int64[::1], int32[::1],"
     " float32[::1])")  # fmt: skip
def _fill_cuda(index_NK, k2, indptr, indices, weights, place_Nk2, out_indptr, out_indices, out_weights):
    i = cuda.grid(1)
    if i < out_indptr.size - 1:
        for e in range(out_indptr[i], out_indptr[i + 1]):
            column, total = _next_column(i, index_NK, k2, indptr, indices, weights, place_Nk2)
            out_indices[e] = column
            out_weights[e] = total / k2


def expand_queries_cuda(
    indptr: Array, indices: Array, weights: Array, index_NK: Array, k2: int
) -> tuple[Array, Array, Array]:
    """`expand_queries` on the device, a thread to an image: rows must be ascending, and stay so."""
    if k2 == 1:
        return indptr, indices, weights
    xp, N = array_module(indptr), indptr.size - 1
    place_Nk2 = indptr[index_NK[:, :k2]]
    out_indptr = xp.zeros(N + 1, xp.int64)
    _count_cuda.each(N, index_NK, k2, indptr, indices, weights, place_Nk2.copy(), out_indptr[1:])
    out_indptr = xp.cumsum(out_indptr)
    entries = int(out_indptr[-1])
    out_indices, out_weights = xp.empty(entries, xp.int32), xp.empty(entries, xp.float32)
    _fill_cuda.each(N, index_NK, k2, indptr, indices, weights, place_Nk2, out_indptr, out_indices, out_weights)
    return out_indptr, out_indices, out_weights


def expand_queries_cpu(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, index_NK: np.ndarray, k2: int,
    rows: range | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """`expand_queries`; with `rows` all others are empty."""
    if k2 == 1:
        return indptr, indices, weights
    rows, out_indptr = range(indptr.size - 1) if rows is None else rows, np.zeros_like(indptr)
    in_parallel(_count, rows, index_NK, k2, indptr, indices, out_indptr[1:], smallest=256)
    np.cumsum(out_indptr, out=out_indptr)
    out_indices, out_weights = np.empty(out_indptr[-1], np.int32), np.empty(out_indptr[-1], np.float32)
    in_parallel(_fill, rows, index_NK, k2, indptr, indices, weights, out_indptr, out_indices, out_weights, smallest=256)
    return out_indptr, out_indices, out_weights


def expand_queries(
    indptr: Array, indices: Array, weights: Array, index_NK: Array, k2: int, group: Group = ALONE
) -> tuple[Array, Array, Array]:
    """V (CSR) with row i replaced by the mean of the rows of the first k2 images of rank_i, i itself included.

    Args:
        group: its processes expand a share of the rows each, and give each other theirs.
    """
    if group.size > 1 and k2 > 1:
        own = expand_queries_cpu(indptr, indices, weights, index_NK, k2, group.share(indptr.size - 1))
        return gathered_rows(own, group)
    return (expand_queries_cuda if on_gpu(indptr) else expand_queries_cpu)(indptr, indices, weights, index_NK, k2)
