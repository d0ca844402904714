"""k-reciprocal sets and their weights: rows of V, before query expansion.

An image's set holds the neighbours that list it among their own, and the half-sized sets of those neighbours that agree
with it; its weights exp(-D) sum to 1.
"""

from __future__ import annotations

import numba
import numpy as np

from rapids_slr.kernels import cpu, in_parallel
from rapids_slr.kernels.nearest import squared_distance


@cpu("void(int64, int64, int32[:, ::1], int16[:, ::1])")
def _back_ranks(start, stop, index_NK, back_NK):
    K = index_NK.shape[1]
    for i in range(start, stop):
        for p in range(K):
            back_NK[i, p] = K
            neighbours_K = index_NK[index_NK[i, p]]
            for q in range(K):
                if neighbours_K[q] == i:
                    back_NK[i, p] = q
                    break


@numba.njit(cache=True, nogil=True)
def _expanded_set(i, index_NK, back_NK, k1, half, stamp_N, members):
    """Write the expanded k-reciprocal set of image i to `members` and return its size; stamp_N needs no clearing."""
    inside, added = 2 * i + 1, 2 * i + 2  # in R(i, k1); only in the expansion
    size = 0
    for p in range(k1 + 1):
        if back_NK[i, p] <= k1:
            members[size] = index_NK[i, p]
            stamp_N[index_NK[i, p]] = inside
            size += 1
    for m in range(size):
        c = members[m]
        total, shared = 0, 0
        for p in range(half + 1):
            if back_NK[c, p] <= half:
                total += 1
                shared += stamp_N[index_NK[c, p]] == inside
        if 3 * shared > 2 * total:
            for p in range(half + 1):
                if back_NK[c, p] <= half and stamp_N[index_NK[c, p]] < inside:
                    members[size] = index_NK[c, p]
                    stamp_N[index_NK[c, p]] = added
                    size += 1
    return size


@cpu("void(int64, int64, int32[:, ::1], int16[:, ::1], int64, int64, int64[::1])")
def _count(start, stop, index_NK, back_NK, k1, half, size_N):
    stamp_N, members = np.full(index_NK.shape[0], -1, np.int64), np.empty((k1 + 1) * (half + 2), np.int32)
    for i in range(start, stop):
        size_N[i] = _expanded_set(i, index_NK, back_NK, k1, half, stamp_N, members)


@cpu("void(int64, int64, Array(float32, 2, 'C', readonly=True), float32[::1], int32[:, ::1], int16[:, ::1], int64,"
     " int64, float32[:, ::1], int64[::1], int32[::1], float32[::1])")  # fmt: skip
def _fill(start, stop, features_ND, furthest_N, index_NK, back_NK, k1, half, distance_NK, indptr, indices, weights):
    listed_N, place_N = np.full(index_NK.shape[0], -1, np.int32), np.empty(index_NK.shape[0], np.int16)
    stamp_N, members = np.full(index_NK.shape[0], -1, np.int64), np.empty((k1 + 1) * (half + 2), np.int32)
    weight = np.empty(members.size)
    for i in range(start, stop):
        size = _expanded_set(i, index_NK, back_NK, k1, half, stamp_N, members)
        scale = 1.0 / furthest_N[i] if furthest_N[i] > 0 else 0.0
        for p in range(index_NK.shape[1]):
            listed_N[index_NK[i, p]], place_N[index_NK[i, p]] = i, p
        total = 0.0
        for m in range(size):
            j = members[m]
            if listed_N[j] == i:
                distance = np.float64(distance_NK[i, place_N[j]])
            else:
                distance = squared_distance(features_ND[i], features_ND[j])
            weight[m] = np.exp(-scale * distance)
            total += weight[m]
        for m in range(size):
            indices[indptr[i] + m] = members[m]
            weights[indptr[i] + m] = weight[m] / total


def kreciprocal_weights(
    features_ND: np.ndarray, furthest_N: np.ndarray, index_NK: np.ndarray, distance_NK: np.ndarray, k1: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of V as CSR (indptr int64, indices int32, weights float32); every row holds its own image and sums to 1.

    Args:
        features_ND: (N, D) float32, unit rows.
        furthest_N: (N,) float32, the largest squared distance of a row; 0 where all images are equal.
        index_NK: (N, K >= k1 + 1) int32, images by ascending distance, the image itself first.
        distance_NK: float32, their squared distances.
    """
    N, K = index_NK.shape
    half = round(k1 / 2)  # half to even
    back_NK, indptr = np.empty((N, K), np.int16), np.zeros(N + 1, np.int64)
    in_parallel(_back_ranks, N, index_NK, back_NK, smallest=64)
    in_parallel(_count, N, index_NK, back_NK, k1, half, indptr[1:], smallest=256)
    np.cumsum(indptr, out=indptr)
    indices, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    in_parallel(_fill, N, features_ND, furthest_N, index_NK, back_NK, k1, half, distance_NK, indptr, indices, weights,
                smallest=256)  # fmt: skip
    return indptr, indices, weights
