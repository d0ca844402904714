"""DBSCAN on a sparse graph of distances."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.components import join, root_of
from rapids_slr.kernels.runtime import cpu, gpu, in_parallel, on_gpu, shared

NONE = np.int32(2**31 - 1)  # no cluster yet, above all others


@shared
def _is_core(i, indptr, indices, distances, count_N, eps, min_samples):
    near = count_N[i]  # the point itself, which the graph leaves out
    for e in range(indptr[i], indptr[i + 1]):
        if distances[e] <= eps:
            near += count_N[indices[e]]
    return near >= min_samples


@cpu("void(int64, int64, int64[::1], int32[::1], float32[::1], int64[::1], float32, int64, boolean[::1])")
def _find_core(start, stop, indptr, indices, distances, count_N, eps, min_samples, core_N):
    for i in range(start, stop):
        core_N[i] = _is_core(i, indptr, indices, distances, count_N, eps, min_samples)


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
                    if core_N[j]:  # a cluster grows from its core points alone, and ends at its border points
                        stack[height] = j
                        height += 1
        clusters += 1
    return clusters


@gpu("void(int64[::1], int32[::1], float32[::1], int64[::1], float32, int64, boolean[::1])")
def _find_core_cuda(indptr, indices, distances, count_N, eps, min_samples, core_N):
    i = cuda.grid(1)
    if i < core_N.size:
        core_N[i] = _is_core(i, indptr, indices, distances, count_N, eps, min_samples)


@gpu("void(int64[::1], int32[::1], float32[::1], float32, boolean[::1], int32[::1])")
def _join_cuda(indptr, indices, distances, eps, core_N, parent_N):
    """Join every core point with the core points before it, a block to a point."""
    i = cuda.blockIdx.x
    if core_N[i]:
        for e in range(indptr[i] + cuda.threadIdx.x, indptr[i + 1], cuda.blockDim.x):
            j = indices[e]
            if j < i and core_N[j] and distances[e] <= eps:
                join(parent_N, i, j)


@gpu("void(int32[::1], boolean[::1], int32[::1])")
def _find_seeds_cuda(parent_N, core_N, seed_N):
    """seed_N: 1 for the first core point of every cluster."""
    i = cuda.grid(1)
    if i < parent_N.size:
        seed_N[i] = core_N[i] and root_of(parent_N, i) == i


@gpu("void(int64[::1], int32[::1], float32[::1], float32, boolean[::1], int32[::1], int32[::1], int32[::1])")
def _label_cuda(indptr, indices, distances, eps, core_N, parent_N, number_N, label_N):
    """A core point has the number of its root; a border point the least of the clusters it touches."""
    i = cuda.grid(1)
    if i < label_N.size:
        label = NONE
        if core_N[i]:
            label = number_N[root_of(parent_N, i)] - 1
        else:
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                if core_N[j] and distances[e] <= eps:
                    label = min(label, number_N[root_of(parent_N, j)] - 1)
        label_N[i] = label if label != NONE else -1


def dbscan_cuda(
    indptr: Array, indices: Array, distances: Array, eps: float, min_samples: int, count_N: Array | None = None
) -> Array:
    """`dbscan` on the device: components of core points by union-find, numbered by their least point."""
    xp, N, eps = array_module(indptr), indptr.size - 1, np.float32(eps)
    core_N, parent_N = xp.empty(N, xp.bool_), xp.arange(N, dtype=xp.int32)
    count_N = xp.ones(N, xp.int64) if count_N is None else count_N
    _find_core_cuda.each(N, indptr, indices, distances, count_N, eps, min_samples, core_N)
    _join_cuda.blocks(N, indptr, indices, distances, eps, core_N, parent_N)
    seed_N, label_N = xp.empty(N, xp.int32), xp.empty(N, xp.int32)
    _find_seeds_cuda.each(N, parent_N, core_N, seed_N)
    number_N = xp.cumsum(seed_N, dtype=xp.int32)
    _label_cuda.each(N, indptr, indices, distances, eps, core_N, parent_N, number_N, label_N)
    return label_N


def dbscan_cpu(
    indptr: Array, indices: Array, distances: Array, eps: float, min_samples: int, count_N: Array | None = None
) -> Array:
    N = indptr.size - 1
    core_N, label_N = np.empty(N, np.bool_), np.full(N, -1, np.int32)
    count_N = np.ones(N, np.int64) if count_N is None else count_N
    in_parallel(_find_core, N, indptr, indices, distances, count_N, np.float32(eps), min_samples, core_N, smallest=1024)
    _grow(indptr, indices, distances, np.float32(eps), core_N, label_N)
    return label_N


def dbscan(
    indptr: Array, indices: Array, distances: Array, eps: float, min_samples: int, count_N: Array | None = None
) -> Array:
    """Labels int32 (N,), -1 = outlier, of a symmetric CSR graph without its diagonal; pairs not stored are far.

    Clusters are numbered by their first core point; a border point joins the lowest of the clusters it touches.

    Args:
        count_N: int64, how many equal points a point stands for; None: one each.
    """
    return (dbscan_cuda if on_gpu(indptr) else dbscan_cpu)(indptr, indices, distances, eps, min_samples, count_N)
