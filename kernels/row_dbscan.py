"""DBSCAN of distinct sparse rows that stand for many equal points each."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.components import find, join, root_of
from rapids_slr.kernels.core_distances import Pairs, Rows, candidate, sum_products
from rapids_slr.kernels.runtime import cpu, gpu, on_gpu, shared

TIE = 2.0**-22  # squared distances that differ by less, relatively, are equal


@shared
def _nearest_cluster(near, distance, core_R, root_R):
    """Cluster of the nearest core row; -1 if there is none, or if two clusters are equally near."""
    label, least = -1, np.inf
    for f in range(near.size):
        if core_R[near[f]] and distance[f] < least:
            least = distance[f]
    for f in range(near.size):
        if core_R[near[f]] and distance[f] <= least * (1 + TIE):
            cluster = find(root_R, near[f])
            if label >= 0 and cluster != label:
                return -1
            label = cluster
    return label


@cpu("void(int64[::1], int32[::1], float64[::1], int64[::1], int32[::1], float64[::1], float64[::1], int64[::1],"
     " int64[::1], float64, int64, int32[::1])")  # fmt: skip
def _row_dbscan(indptr, indices, values, column_indptr, column_rows, column_values, norm_R, by_norm_R, count_R,
                bound, min_samples, label_R):  # fmt: skip
    R = norm_R.size
    core_R, dot_R = np.zeros(R, np.bool_), np.zeros(R)
    touched, near, distance = np.empty(R, np.int32), np.empty(R, np.int32), np.empty(R)
    root_R = np.arange(R).astype(np.int32)
    for sweep in range(3):  # find the core rows, join them, give border rows to them
        for a in range(R):
            if (sweep == 1 and not core_R[a]) or (sweep == 2 and core_R[a]):
                continue
            found = 0
            met = sum_products(a, indptr, indices, values, column_indptr, column_rows, column_values, dot_R, touched)
            for t in range(met):
                j = touched[t]
                between = norm_R[a] + norm_R[j] - 2 * dot_R[j]
                if between <= bound:
                    near[found], distance[found] = j, between
                    found += 1
            for j in by_norm_R:
                if norm_R[a] + norm_R[j] > bound:
                    break
                if dot_R[j] == 0:
                    near[found], distance[found] = j, norm_R[a] + norm_R[j]
                    found += 1
            for t in range(met):
                dot_R[touched[t]] = 0
            if sweep == 0:
                points = 0
                for f in range(found):
                    points += count_R[near[f]]
                core_R[a] = points >= min_samples
            elif sweep == 1:
                for f in range(found):
                    if core_R[near[f]]:
                        root_R[find(root_R, a)] = find(root_R, near[f])
            else:
                label_R[a] = _nearest_cluster(near[:found], distance, core_R, root_R)
    for a in range(R):
        if core_R[a]:
            label_R[a] = find(root_R, a)


ROWS = "int64[::1], int32[::1], int64[::1], float64[::1], int64[::1]"


@gpu(f"void({ROWS}, int64[::1], float64, int64, boolean[::1])")
def _find_core_cuda(indptr, indices, products, norm_R, by_norm_R, count_R, bound, min_samples, core_R):
    a = cuda.grid(1)
    if a < core_R.size:
        points, pairs = count_R[a], indptr[a + 1] - indptr[a]
        for f in range(pairs + core_R.size):
            j, between = candidate(f, a, indptr, indices, products, norm_R, by_norm_R)
            if f >= pairs and between > bound:
                break
            if j >= 0 and between <= bound:
                points += count_R[j]
        core_R[a] = points >= min_samples


@gpu(f"void({ROWS}, float64, boolean[::1], int32[::1])")
def _join_cuda(indptr, indices, products, norm_R, by_norm_R, bound, core_R, parent_R):
    """Join every core row with those before it."""
    a = cuda.grid(1)
    if a < core_R.size and core_R[a]:
        pairs = indptr[a + 1] - indptr[a]
        for f in range(pairs + core_R.size):
            j, between = candidate(f, a, indptr, indices, products, norm_R, by_norm_R)
            if f >= pairs and between > bound:
                break
            if 0 <= j < a and core_R[j] and between <= bound:
                join(parent_R, a, j)


@gpu(f"void({ROWS}, float64, boolean[::1], int32[::1], int32[::1])")
def _label_cuda(indptr, indices, products, norm_R, by_norm_R, bound, core_R, parent_R, label_R):
    """A core row has the number of its root; a border row that of the nearest core row, -1 where two are as near."""
    a = cuda.grid(1)
    if a >= core_R.size:
        return
    label, least, pairs = -1, bound, indptr[a + 1] - indptr[a]
    if core_R[a]:
        label = root_of(parent_R, a)
    else:
        for tied in range(2):
            for f in range(pairs + core_R.size):
                j, between = candidate(f, a, indptr, indices, products, norm_R, by_norm_R)
                if f >= pairs and between > bound:
                    break
                if j < 0 or not core_R[j] or between > bound:
                    continue
                if not tied:
                    least = min(least, between)
                elif between <= least * (1 + TIE):
                    cluster = root_of(parent_R, j)
                    label = cluster if label in (-1, cluster) else -2
    label_R[a] = max(label, -1)


def row_dbscan_cuda(rows: Pairs, count_R: Array, eps: float, min_samples: int) -> Array:
    """`row_dbscan` on the device, a thread to a row."""
    xp, R, bound = array_module(count_R), count_R.size, eps * eps * (1 + TIE)
    by_norm_R, core_R = xp.argsort(rows.norm_R), xp.empty(R, xp.bool_)
    parent_R, label_R = xp.arange(R, dtype=xp.int32), xp.empty(R, xp.int32)
    _find_core_cuda.each(R, *rows, by_norm_R, count_R, bound, min_samples, core_R)
    _join_cuda.each(R, *rows, by_norm_R, bound, core_R, parent_R)
    _label_cuda.each(R, *rows, by_norm_R, bound, core_R, parent_R, label_R)
    return label_R


def row_dbscan_cpu(rows: Rows, count_R: Array, eps: float, min_samples: int) -> Array:
    label_R = np.full(count_R.size, -1, np.int32)
    by_norm_R = np.argsort(rows.norm_R, kind="stable")
    _row_dbscan(*rows, by_norm_R, count_R, eps * eps * (1 + TIE), min_samples, label_R)
    return label_R


def row_dbscan(rows: Rows | Pairs, count_R: Array, eps: float, min_samples: int) -> Array:
    """DBSCAN label of every row, int32 (R,), -1 = noise, in no particular order.

    A border row goes to the cluster of its nearest core row, and is noise where two clusters are equally near: the
    order of the rows decides nothing.

    Args:
        count_R: int64 points of a row.
        eps: largest distance of neighbours.
        min_samples: points within eps, the point itself included, that make a core point.
    """
    return (row_dbscan_cuda if on_gpu(count_R) else row_dbscan_cpu)(rows, count_R, eps, min_samples)
