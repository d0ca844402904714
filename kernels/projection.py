"""Intersection over union of old and new clusters, each old one's divided by their sum."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.runtime import cpu, gpu, on_gpu, shared

GRID = 2.0**50  # IoUs are rounded to multiples of 1 / GRID, so that the sum of a row does not depend on its order


@shared
def _scaled_ious(a, indptr_P, indices, counts, size_P, size_K, values):
    total = 0.0
    for e in range(indptr_P[a], indptr_P[a + 1]):
        values[e] = round(counts[e] / (size_P[a] + size_K[indices[e]] - counts[e]) * GRID) / GRID
        total += values[e]
    for e in range(indptr_P[a], indptr_P[a + 1]):
        values[e] /= total  # above 0: a pair of clusters is stored where they share an image


@cpu("void(int64[::1], int32[::1], int64[::1], int64[::1], int64[::1], float64[::1])")
def _project(indptr_P, indices, counts, size_P, size_K, values):
    for a in range(size_P.size):
        _scaled_ious(a, indptr_P, indices, counts, size_P, size_K, values)


@gpu("void(int64[::1], int32[::1], int64[::1], int64[::1], int64[::1], float64[::1])")
def _project_cuda(indptr_P, indices, counts, size_P, size_K, values):
    a = cuda.grid(1)
    if a < size_P.size:
        _scaled_ious(a, indptr_P, indices, counts, size_P, size_K, values)


def projection_cuda(indptr_P: Array, indices: Array, counts: Array, size_P: Array, size_K: Array) -> Array:
    """`projection` on the device, a thread to an old cluster."""
    xp = array_module(counts)
    values = xp.empty(counts.size, xp.float64)
    _project_cuda.each(size_P.size, indptr_P, indices, counts, size_P, size_K, values)
    return values


def projection_cpu(indptr_P: Array, indices: Array, counts: Array, size_P: Array, size_K: Array) -> Array:
    values = np.empty(counts.size)
    _project(indptr_P, indices, counts, size_P, size_K, values)
    return values


def projection(indptr_P: Array, indices: Array, counts: Array, size_P: Array, size_K: Array) -> Array:
    """Entries of the projection, float64: a row's sum to 1.

    Args:
        indptr_P, indices, counts: images that clusters of both epochs share, CSR of int64, int32 and positive int64.
        size_P, size_K: int64 images of each old and each new cluster.
    Source: Eqs. 1-2 of Zia-ur-Rehman et al., arXiv:2410.14242.
    """
    return (projection_cuda if on_gpu(counts) else projection_cpu)(indptr_P, indices, counts, size_P, size_K)
