"""Jaccard distances of sparse rows that sum to 1: all pairs whose supports meet, and no other."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.runtime import cpu, gpu, in_parallel, on_gpu, shared
from rapids_slr.kernels.shared_columns import pairs_sharing_columns

ZERO = 1e-6  # distances below are 0: equal rows whose sums were rounded
UNIT = 2.0**-40  # of weights in whole numbers on CUDA: float32 above 2^-17 are whole multiples, others off by 2^-41


@shared
def _distance(common):
    """Of two rows that sum to 1, from the sum over columns of the lesser weight."""
    distance = 1 - common / (2 - common)
    return distance if distance >= ZERO else 0.0


@cpu("void(int64[::1], int32[::1], float32[::1], int64[::1], int32[::1], float32[::1], int64[::1])")
def _transpose(indptr, indices, values, column_indptr, rows, column_values, place):
    """Columns of a CSR matrix, rows ascending; place[e]: where entry e went."""
    N = indptr.size - 1
    for e in range(indices.size):
        column_indptr[indices[e] + 1] += 1
    for c in range(N):
        column_indptr[c + 1] += column_indptr[c]
    following = column_indptr[:-1].copy()
    for i in range(N):
        for e in range(indptr[i], indptr[i + 1]):
            place[e] = following[indices[e]]
            rows[place[e]] = i
            column_values[place[e]] = values[e]
            following[indices[e]] += 1


@cpu("void(int64, int64, int64[::1], int32[::1], int64[::1], int64[::1], int32[::1], int64[::1])")
def _count(start, stop, indptr, indices, place, column_indptr, rows, size_N):
    stamp_N = np.full(indptr.size - 1, -1, np.int32)
    for i in range(start, stop):
        size = 0
        for e in range(indptr[i], indptr[i + 1]):
            for q in range(place[e] + 1, column_indptr[indices[e] + 1]):
                if stamp_N[rows[q]] != i:
                    stamp_N[rows[q]] = i
                    size += 1
        size_N[i] = size


@cpu("void(int64, int64, int64[::1], int32[::1], float32[::1], int64[::1], int64[::1], int32[::1], float32[::1],"
     " int64[::1], int32[::1], float32[::1])")  # fmt: skip
def _fill(start, stop, indptr, indices, values, place, column_indptr, rows, column_values,
          out_indptr, out_indices, distances):  # fmt: skip
    shared_N = np.zeros(indptr.size - 1)
    for i in range(start, stop):
        end = out_indptr[i]
        for e in range(indptr[i], indptr[i + 1]):
            value = values[e]
            for q in range(place[e] + 1, column_indptr[indices[e] + 1]):
                j = rows[q]
                if shared_N[j] == 0:
                    out_indices[end] = j
                    end += 1
                shared_N[j] += min(value, column_values[q])
        for e in range(out_indptr[i], end):
            distances[e] = _distance(shared_N[out_indices[e]])
            shared_N[out_indices[e]] = 0


@cpu("void(int64, int64, int64[::1], int32[::1], float32[::1], int64[::1], int32[::1], float32[::1])")
def _lower(start, stop, indptr, indices, values, out_indptr, out_indices, out_values):
    """The pairs i < j of rows i, as the lower triangle of rows start .. stop; in order, as i only grows."""
    following = out_indptr[start:stop].copy()
    for i in range(stop):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            if start <= j < stop:
                place = following[j - start]
                out_indices[place], out_values[place] = i, values[e]
                following[j - start] += 1


@cpu("void(int64, int64, int64[::1], int64[::1], int32[::1], float32[::1])")
def _upper(start, stop, below_N, indptr, indices, values):
    """The upper triangle of rows start .. stop from the lower triangle of all rows, below_N entries each, in order."""
    following = indptr[start:stop] + below_N[start:stop]
    for j in range(start + 1, indptr.size - 1):
        end = indptr[j] + below_N[j]
        for e in range(indptr[j] + np.searchsorted(indices[indptr[j] : end], start), end):
            i = indices[e]
            if i >= stop:
                break
            place = following[i - start]
            indices[place], values[place] = j, values[e]
            following[i - start] += 1


@gpu("void(int64[::1], float32[::1])")
def _distances_cuda(common, distances):
    e = cuda.grid(1)
    if e < distances.size:
        distances[e] = _distance(common[e] * UNIT)


def jaccard_distances_cuda(indptr: Array, indices: Array, weights: Array) -> tuple[Array, Array, Array]:
    """`jaccard_distances` on the device, from sums of whole numbers, whose order does not matter."""
    xp = array_module(indptr)
    whole = xp.rint(weights.astype(xp.float64) / UNIT).astype(xp.int64)
    out_indptr, out_indices, common = pairs_sharing_columns(indptr, indices, whole, indptr.size - 1, "min")
    distances = xp.empty(out_indices.size, xp.float32)
    _distances_cuda.each(distances.size, common, distances)
    return out_indptr, out_indices, distances


def _upper_pairs_cpu(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, rows_below: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs i < j of the rows i < rows_below as CSR, columns in any order."""
    N, nnz = indptr.size - 1, indices.size
    column_indptr, rows = np.zeros(N + 1, np.int64), np.empty(nnz, np.int32)
    column_weights, place = np.empty(nnz, np.float32), np.empty(nnz, np.int64)
    _transpose(indptr, indices, weights, column_indptr, rows, column_weights, place)
    upper = np.zeros(rows_below + 1, np.int64)
    in_parallel(_count, rows_below, indptr, indices, place, column_indptr, rows, upper[1:], smallest=256)
    np.cumsum(upper, out=upper)
    upper_indices, upper_distances = np.empty(upper[-1], np.int32), np.empty(upper[-1], np.float32)
    in_parallel(_fill, rows_below, indptr, indices, weights, place, column_indptr, rows, column_weights,
                upper, upper_indices, upper_distances, smallest=256)  # fmt: skip
    return upper, upper_indices, upper_distances


def jaccard_distances_cpu(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    N = indptr.size - 1
    upper, upper_indices, upper_distances = _upper_pairs_cpu(indptr, indices, weights, N)
    below_N, out_indptr = np.bincount(upper_indices, minlength=N), np.zeros(N + 1, np.int64)
    np.cumsum(np.diff(upper) + below_N, out=out_indptr[1:])
    out_indices, distances = np.empty(2 * upper[-1], np.int32), np.empty(2 * upper[-1], np.float32)
    in_parallel(_lower, N, upper, upper_indices, upper_distances, out_indptr, out_indices, distances, smallest=256)
    in_parallel(_upper, N, below_N, out_indptr, out_indices, distances, smallest=256)
    return out_indptr, out_indices, distances


def jaccard_distances(indptr: Array, indices: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Jaccard distance of all pairs of rows that share a column, both triangles without the diagonal.

    Args: an (N, N) CSR matrix: indptr int64, indices int32, weights float32, positive, rows summing to 1.
    Returns: CSR (indptr int64, indices int32 ascending, distances float32 in [0, 1)); zeros are stored.
    """
    return (jaccard_distances_cuda if on_gpu(indptr) else jaccard_distances_cpu)(indptr, indices, weights)


def jaccard_of_first(indptr: Array, indices: Array, weights: Array, rows: int) -> tuple[Array, Array, Array]:
    """`jaccard_distances` of the first `rows` rows and all later ones, as rows of CSR with columns in any order.

    On CUDA pairs of later rows are made as well and let go.
    """
    if not on_gpu(indptr):
        return _upper_pairs_cpu(indptr, indices, weights, rows)
    whole = jaccard_distances_cuda(indptr, indices, weights)
    last = int(whole[0][rows])
    return whole[0][: rows + 1], whole[1][:last], whole[2][:last]
