"""DBSCAN on a sparse graph of distances."""

from __future__ import annotations

import numpy as np

from rapids_slr.kernels import cpu, in_parallel


@cpu("void(int64, int64, int64[::1], float32[::1], float32, int64, boolean[::1])")
def _find_core(start, stop, indptr, distances, eps, min_samples, core_N):
    for i in range(start, stop):
        near = 1
        for e in range(indptr[i], indptr[i + 1]):
            near += distances[e] <= eps
        core_N[i] = near >= min_samples


@cpu("int64(int64[::1], int32[::1], float32[::1], float32, boolean[::1], int32[::1])")
def _grow(indptr, indices, distances, eps, core_N, label_N):
    stack = np.empty(core_N.size, np.int32)
    clusters = 0
    for seed in range(core_N.size):
        if not core_N[seed] or label_N[seed] >= 0:
            continue
        label_N[seed] = clusters
        stack[0], height = seed, 1
        while height:
            height -= 1
            i = stack[height]
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                if label_N[j] < 0 and distances[e] <= eps:
                    label_N[j] = clusters
                    if core_N[j]:
                        stack[height] = j
                        height += 1
        clusters += 1
    return clusters


def dbscan(indptr: np.ndarray, indices: np.ndarray, distances: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    """Labels int32 (N,), -1 = outlier, of a symmetric CSR graph without its diagonal; pairs not stored are far.

    Clusters are numbered by their first core point; a border point joins the lowest of the clusters it touches.
    """
    N = indptr.size - 1
    core_N, label_N = np.empty(N, np.bool_), np.full(N, -1, np.int32)
    in_parallel(_find_core, N, indptr, distances, np.float32(eps), min_samples, core_N, smallest=1024)
    _grow(indptr, indices, distances, np.float32(eps), core_N, label_N)
    return label_N
