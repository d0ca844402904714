"""Jaccard distances of sparse rows that sum to 1: all pairs whose supports meet, and no other."""

from __future__ import annotations

import numpy as np
from rapids_slr.kernels import cpu, in_parallel

ZERO = 1e-6  # distances below are 0: equal rows whose sums were rounded


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
            shared = shared_N[out_indices[e]]
            shared_N[out_indices[e]] = 0
            distance = 1 - shared / (2 - shared)
            distances[e] = distance if distance >= ZERO else 0


@cpu("void(int64[::1], int32[::1], float32[::1], int64[::1], int32[::1], float32[::1])")
def _mirror(indptr, indices, values, out_indptr, out_indices, out_values):
    """Both triangles, columns ascending, of a symmetric matrix given by the pairs i < j of its rows.

    Walking the rows in order fills the lower triangle in order; walking that one in order, the upper.
    """
    N = indptr.size - 1
    below = np.zeros(N, np.int64)
    for e in range(indices.size):
        below[indices[e]] += 1
    for i in range(N):
        out_indptr[i + 1] = out_indptr[i] + below[i] + indptr[i + 1] - indptr[i]
    following = out_indptr[:-1].copy()
    for i in range(N):
        for e in range(indptr[i], indptr[i + 1]):
            place = following[indices[e]]
            out_indices[place] = i
            out_values[place] = values[e]
            following[indices[e]] += 1
    for i in range(N):
        for e in range(out_indptr[i], out_indptr[i] + below[i]):
            place = following[out_indices[e]]
            out_indices[place] = i
            out_values[place] = out_values[e]
            following[out_indices[e]] += 1


def jaccard_distances(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Jaccard distance of all pairs of rows that share a column, both triangles without the diagonal.

    Args: an (N, N) CSR matrix: indptr int64, indices int32, weights float32, positive, rows summing to 1.
    Returns: CSR (indptr int64, indices int32 ascending, distances float32 in [0, 1)); zeros are stored.
    """
    N, nnz = indptr.size - 1, indices.size
    column_indptr, rows = np.zeros(N + 1, np.int64), np.empty(nnz, np.int32)
    column_weights, place = np.empty(nnz, np.float32), np.empty(nnz, np.int64)
    _transpose(indptr, indices, weights, column_indptr, rows, column_weights, place)
    upper = np.zeros(N + 1, np.int64)
    in_parallel(_count, N, indptr, indices, place, column_indptr, rows, upper[1:], smallest=256)
    np.cumsum(upper, out=upper)
    upper_indices, upper_distances = np.empty(upper[-1], np.int32), np.empty(upper[-1], np.float32)
    in_parallel(_fill, N, indptr, indices, weights, place, column_indptr, rows, column_weights,
                upper, upper_indices, upper_distances, smallest=256)  # fmt: skip
    out_indptr, out_indices = np.zeros(N + 1, np.int64), np.empty(2 * upper[-1], np.int32)
    distances = np.empty(2 * upper[-1], np.float32)
    _mirror(upper, upper_indices, upper_distances, out_indptr, out_indices, distances)
    return out_indptr, out_indices, distances
