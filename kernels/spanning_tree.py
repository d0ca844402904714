"""Minimum spanning tree of mutual reachability over distinct sparse rows, all pairs taken into account.

The weight of a pair is w(a, b) = max(core_a, core_b, |a - b|^2). Few rows share a column; for all others |a - b|^2 =
|a|^2 + |b|^2. Let w0 be the weight with that sum in place of the distance: it bounds w from above, and equals it where
no column is shared. So the tree of w is a tree of the pairs that share a column and of the minimum spanning tree of w0
alone, which `_links` gives in closed form. Prim's algorithm visits both, in memory proportional to the rows.

Why the links span w0. At a bound t only rows with core <= t have edges, and a is linked to b iff |a|^2 + |b|^2 <= t. So
all rows that have any edge are linked to the active row of least norm: one component grows, the others are single
rows. Row a joins it at t_a = min_b w0(a, b), by an edge to the row of least norm active at t_a. When a new row of least
norm turns active, it must be tied to the one before, which the chain of successive minima does.
"""

from __future__ import annotations

import numba
import numpy as np

from rapids_slr.kernels import cpu
from rapids_slr.kernels.core_distances import Rows


@cpu("int64(float64[::1], float64[::1], int64[::1], int32[::1], int32[::1])")
def _links(core_R, norm_R, by_core_R, left, right):
    """At most 2 R pairs that hold a minimum spanning tree of w0; returns how many."""
    R = core_R.size
    least, second = np.empty(R, np.int64), np.empty(R, np.int64)  # rows of least norm among the first k + 1 by core
    least[0], second[0] = by_core_R[0], -1
    links = 0
    for k in range(1, R):
        a = by_core_R[k]
        least[k], second[k] = least[k - 1], second[k - 1]
        if norm_R[a] < norm_R[least[k]]:
            least[k], second[k] = a, least[k]
        elif second[k] < 0 or norm_R[a] < norm_R[second[k]]:
            second[k] = a
    for k in range(1, R):
        if least[k] != least[k - 1]:
            left[links], right[links] = least[k], least[k - 1]
            links += 1
    for a in range(R):
        # smallest k at which the core distance of the last row outweighs the sum of norms, k >= 1 so that one is left
        low, high = 1, R - 1
        while low < high:
            middle = (low + high) // 2
            b = second[middle] if least[middle] == a else least[middle]
            if core_R[by_core_R[middle]] >= norm_R[a] + norm_R[b]:
                high = middle
            else:
                low = middle + 1
        joins = np.inf
        for k in range(max(low - 1, 1), low + 1):
            b = second[k] if least[k] == a else least[k]
            joins = min(joins, max(core_R[a], core_R[by_core_R[k]], norm_R[a] + norm_R[b]))
        low, high = low, R - 1  # last k that is active by then
        while low < high:
            middle = (low + high + 1) // 2
            if core_R[by_core_R[middle]] <= joins:
                low = middle
            else:
                high = middle - 1
        if core_R[by_core_R[low]] > joins:
            low = max(low - 1, 1)
        b = second[low] if least[low] == a else least[low]
        left[links], right[links] = a, b
        links += 1
    return links


@numba.njit(cache=True, nogil=True)
def _rise(place, key_R, heap, place_R):
    """Move the row at `place` of the heap towards the top, past larger keys."""
    row = heap[place]
    while place > 0:
        above = (place - 1) // 2
        if key_R[heap[above]] <= key_R[row]:
            break
        heap[place] = heap[above]
        place_R[heap[place]] = place
        place = above
    heap[place] = row
    place_R[row] = place


@numba.njit(cache=True, nogil=True)
def _sink(height, key_R, heap, place_R):
    """Move the row on top of the heap of `height` rows down, past smaller keys."""
    place, row = 0, heap[0]
    while True:
        below = 2 * place + 1
        if below >= height:
            break
        if below + 1 < height and key_R[heap[below + 1]] < key_R[heap[below]]:
            below += 1
        if key_R[heap[below]] >= key_R[row]:
            break
        heap[place] = heap[below]
        place_R[heap[place]] = place
        place = below
    heap[place] = row
    place_R[row] = place


@cpu("void(int64[::1], int32[::1], float64[::1], int64[::1], int32[::1], float64[::1], float64[::1], float64[::1],"
     " int64[::1], int32[::1], int32[::1], int32[::1], float64[::1])")  # fmt: skip
def _prim(indptr, indices, values, column_indptr, column_rows, column_values, norm_R, core_R,
          link_indptr, link_rows, left, right, weight):  # fmt: skip
    R = norm_R.size
    key_R, from_R = np.full(R, np.inf), np.full(R, -1, np.int32)
    heap, place_R = np.empty(R, np.int32), np.full(R, -1, np.int32)  # place -1: not seen; -2: in the tree
    dot_R, touched = np.zeros(R), np.empty(R, np.int32)
    height, edges, a = 0, 0, 0
    while True:
        place_R[a] = -2
        met = 0
        for e in range(indptr[a], indptr[a + 1]):
            value = values[e]
            for q in range(column_indptr[indices[e]], column_indptr[indices[e] + 1]):
                j = column_rows[q]
                if place_R[j] != -2:
                    if dot_R[j] == 0:
                        touched[met] = j
                        met += 1
                    dot_R[j] += value * column_values[q]
        shared = met
        for e in range(link_indptr[a], link_indptr[a + 1]):
            j = link_rows[e]
            if place_R[j] != -2 and dot_R[j] == 0:
                touched[met] = j
                met += 1
                dot_R[j] = -1  # marks the row as met
        for t in range(met):
            j = touched[t]
            dot = dot_R[j] if t < shared else 0.0
            dot_R[j] = 0
            key = max(core_R[a], core_R[j], norm_R[a] + norm_R[j] - 2 * dot)
            if key < key_R[j]:
                key_R[j], from_R[j] = key, a
                if place_R[j] < 0:
                    place_R[j] = height
                    heap[height] = j
                    height += 1
                _rise(place_R[j], key_R, heap, place_R)
        if height == 0:
            break
        a = heap[0]
        left[edges], right[edges], weight[edges] = from_R[a], a, key_R[a]
        edges += 1
        height -= 1
        if height:
            heap[0] = heap[height]
            _sink(height, key_R, heap, place_R)


def spanning_tree(rows: Rows, core_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges (left, right int32, weight float64) of a minimum spanning tree; R - 1 of them, in no order.

    Args:
        core_R: squared core distances, float64. Weights are squared as well.
    """
    R = core_R.size
    left, right, weight = np.empty(R - 1, np.int32), np.empty(R - 1, np.int32), np.empty(R - 1)
    if R < 2:
        return left, right, weight
    links_left, links_right = np.empty(2 * R, np.int32), np.empty(2 * R, np.int32)
    links = _links(core_R, rows.norm_R, np.argsort(core_R, kind="stable"), links_left, links_right)
    ends = np.concatenate([links_left[:links], links_right[:links]])
    others = np.concatenate([links_right[:links], links_left[:links]])
    link_indptr = np.zeros(R + 1, np.int64)
    np.cumsum(np.bincount(ends, minlength=R), out=link_indptr[1:])
    _prim(*rows, core_R, link_indptr, others[np.argsort(ends, kind="stable")], left, right, weight)
    return left, right, weight
