"""DBSCAN of distinct sparse rows that stand for many equal points each."""

from __future__ import annotations

import numba
import numpy as np

from rapids_slr.kernels import cpu
from rapids_slr.kernels.core_distances import Rows

TIE = 2.0**-22  # squared distances that differ by less, relatively, are equal


@numba.njit(cache=True, nogil=True)
def _root(root_R, r):
    while root_R[r] != r:
        root_R[r] = root_R[root_R[r]]
        r = root_R[r]
    return r


@numba.njit(cache=True, nogil=True)
def _nearest_cluster(near, distance, core_R, root_R):
    """Cluster of the nearest core row; -1 if there is none, or if two clusters are equally near."""
    label, least = -1, np.inf
    for f in range(near.size):
        if core_R[near[f]] and distance[f] < least:
            least = distance[f]
    for f in range(near.size):
        if core_R[near[f]] and distance[f] <= least * (1 + TIE):
            cluster = _root(root_R, near[f])
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
            met, found = 0, 0
            for e in range(indptr[a], indptr[a + 1]):
                for q in range(column_indptr[indices[e]], column_indptr[indices[e] + 1]):
                    j = column_rows[q]
                    if dot_R[j] == 0:
                        touched[met] = j
                        met += 1
                    dot_R[j] += values[e] * column_values[q]
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
                        root_R[_root(root_R, a)] = _root(root_R, near[f])
            else:
                label_R[a] = _nearest_cluster(near[:found], distance, core_R, root_R)
    for a in range(R):
        if core_R[a]:
            label_R[a] = _root(root_R, a)


def row_dbscan(rows: Rows, count_R: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    """DBSCAN label of every row, int32 (R,), -1 = noise, in no particular order.

    A border row goes to the cluster of its nearest core row, and is noise where two clusters are equally near: the
    order of the rows decides nothing.

    Args:
        count_R: int64 points of a row.
        eps: largest distance of neighbours.
        min_samples: points within eps, the point itself included, that make a core point.
    """
    label_R = np.full(count_R.size, -1, np.int32)
    by_norm_R = np.argsort(rows.norm_R, kind="stable")
    _row_dbscan(*rows, by_norm_R, count_R, eps * eps * (1 + TIE), min_samples, label_R)
    return label_R
