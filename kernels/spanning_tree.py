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

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels import runtime
from rapids_slr.kernels.core_distances import Pairs, Rows
from rapids_slr.kernels.runtime import THREADS, cpu, cpu_part, gpu, on_gpu, shared
from rapids_slr.kernels.soft_rows import GRID

LANES = 8  # threads that share the pairs of a row
UNIT = GRID * GRID  # weights are whole multiples of 1 / UNIT
FAR = 2**63 - 1  # no weight, and no pair
ROUNDS = 32  # at most: each of them at least halves the components


@shared
def _take_in(a, least, second, norm_R):
    """The rows of least norm, with row a among them; -1 for none."""
    if a < 0:
        return least, second
    if least < 0 or norm_R[a] < norm_R[least]:
        return a, least
    if second < 0 or norm_R[a] < norm_R[second]:
        return least, a
    return least, second


@shared
def _find_least(start, stop, least, second, by_core_R, norm_R, least_R, second_R):
    """The row of least norm among the first k + 1 by core distance, and the one after it, for k from start to stop.

    least, second: the same for k = start - 1. Returns them for k = stop - 1.
    """
    for k in range(start, stop):
        least, second = _take_in(by_core_R[k], least, second, norm_R)
        least_R[k], second_R[k] = least, second
    return least, second


@shared
def _other(a, k, least_R, second_R):
    """The row of least norm among the first k + 1, row a left out."""
    return second_R[k] if least_R[k] == a else least_R[k]


@shared
def _link(a, core_R, norm_R, by_core_R, least_R, second_R):
    """The row that row a joins."""
    # smallest k at which the core distance of the last row outweighs the sum of norms, k >= 1 so that one is left
    low, high = 1, core_R.size - 1
    while low < high:
        middle = (low + high) // 2
        if core_R[by_core_R[middle]] >= norm_R[a] + norm_R[_other(a, middle, least_R, second_R)]:
            high = middle
        else:
            low = middle + 1
    joins = np.inf
    for k in range(max(low - 1, 1), low + 1):
        b = _other(a, k, least_R, second_R)
        joins = min(joins, max(core_R[a], core_R[by_core_R[k]], norm_R[a] + norm_R[b]))
    low, high = low, core_R.size - 1  # last k that is active by then
    while low < high:
        middle = (low + high + 1) // 2
        if core_R[by_core_R[middle]] <= joins:
            low = middle
        else:
            high = middle - 1
    if core_R[by_core_R[low]] > joins:
        low = max(low - 1, 1)
    return _other(a, low, least_R, second_R)


@cpu("int64(float64[::1], float64[::1], int64[::1], int32[::1], int32[::1])")
def _links(core_R, norm_R, by_core_R, left, right):
    """At most 2 R pairs that hold a minimum spanning tree of w0; returns how many."""
    R = core_R.size
    least_R, second_R = np.empty(R, np.int32), np.empty(R, np.int32)
    _find_least(0, R, -1, -1, by_core_R, norm_R, least_R, second_R)
    links = 0
    for k in range(1, R):
        if least_R[k] != least_R[k - 1]:
            left[links], right[links] = least_R[k], least_R[k - 1]
            links += 1
    for a in range(R):
        left[links], right[links] = a, _link(a, core_R, norm_R, by_core_R, least_R, second_R)
        links += 1
    return links


@cpu_part()
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


@cpu_part()
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


@cuda.jit(device=True)
def _find_least_together(by_core_R, norm_R, least_R, second_R):
    """`_find_least` by the threads of a block: every one looks at its share, then again, after all those before."""
    least_T = cuda.shared.array(THREADS, np.int64)
    second_T = cuda.shared.array(THREADS, np.int64)
    thread, R = cuda.threadIdx.x, by_core_R.size
    share = -(-R // cuda.blockDim.x)
    start, stop = min(share * thread, R), min(share * thread + share, R)
    least_T[thread], second_T[thread] = _find_least(start, stop, -1, -1, by_core_R, norm_R, least_R, second_R)
    cuda.syncthreads()
    least, second = -1, -1
    for before in range(thread):
        least, second = _take_in(least_T[before], least, second, norm_R)
        least, second = _take_in(second_T[before], least, second, norm_R)
    _find_least(start, stop, least, second, by_core_R, norm_R, least_R, second_R)


@cuda.jit(device=True)
def _offer(a, b, length, choose, component_R, shortest_R, pick_R):
    """Offer the edge (a, b) to the component of a: its length first, then the edge itself if it is as short as any."""
    c = component_R[a]
    if not choose:
        if length < shortest_R[c]:
            cuda.atomic.min(shortest_R, c, length)
    elif length == shortest_R[c]:
        cuda.atomic.min(pick_R, c, np.int64(min(a, b)) * component_R.size + max(a, b))


@cuda.jit(device=True)
def _offer_link(a, b, choose, norm_R, core_R, component_R, shortest_R, pick_R):
    if component_R[a] != component_R[b]:
        length = np.int64(max(core_R[a], core_R[b], norm_R[a] + norm_R[b]) * UNIT)
        _offer(a, b, length, choose, component_R, shortest_R, pick_R)
        _offer(b, a, length, choose, component_R, shortest_R, pick_R)


@cuda.jit(device=True)
def _nearest_outside(a, lane, indptr, indices, products, norm_R, core_R, component_R):
    """Length of the shortest edge from row a out of its component, among those of a lane, and the row it leads to."""
    nearest, shortest = np.int64(a), np.int64(FAR)
    for e in range(indptr[a] + lane, indptr[a + 1], LANES):
        b = indices[e]
        if component_R[b] != component_R[a]:
            between = norm_R[a] + norm_R[b] - 2 * products[e] / UNIT
            length = np.int64(max(core_R[a], core_R[b], between) * UNIT)
            if length < shortest:
                nearest, shortest = np.int64(b), length
    return nearest, shortest


@cuda.jit(device=True)
def _join(c, component_R, above_R, shortest_R, pick_R, joined, left, right, weight):
    """Join component c to the one at the other end of the edge it has picked; above_R keeps which."""
    above_R[c] = c
    pick = pick_R[c]
    if pick < FAR:
        a, b = pick // component_R.size, pick % component_R.size
        other = component_R[b] if component_R[a] == c else component_R[a]
        if pick_R[other] != pick or c > other:  # two that take the same edge join once
            above_R[c] = other
            left[c], right[c], weight[c] = a, b, shortest_R[c] / UNIT
            cuda.atomic.add(joined, 0, 1)


@gpu("void(int64[::1], int32[::1], int64[::1], float64[::1], float64[::1], int64[::1], int32[:, ::1], int64[:, ::1],"
     " int32[:, ::1], int64[:, ::1], int32[::1], int32[::1], int32[::1], float64[::1])")  # fmt: skip
def _boruvka_cuda(indptr, indices, products, norm_R, core_R, by_core_R, row_work, pair_work,
                  nearest_RL, length_RL, joined, left, right, weight):  # fmt: skip
    """All components at once take the shortest edge that leads out of them, round by round, until one is left.

    All blocks run at the same time and wait for each other: a cooperative launch. Edges of one length are told apart
    by their rows, so that each has its place in one order, and what threads do first makes no difference. A component
    that joins another puts the edge at the place of its root. joined: edges found, 0 before.
    """
    all_blocks = cuda.cg.this_grid()
    R, first, step = core_R.size, cuda.grid(1), cuda.gridsize(1)
    least_R, second_R, link_R, component_R, above_R = row_work[0], row_work[1], row_work[2], row_work[3], row_work[4]
    shortest_R, pick_R = pair_work[0], pair_work[1]
    if cuda.blockIdx.x == 0:
        _find_least_together(by_core_R, norm_R, least_R, second_R)
    for a in range(first, R, step):
        component_R[a], shortest_R[a], pick_R[a] = a, FAR, FAR
    all_blocks.sync()
    for i in range(first, R * LANES, step):
        a, lane = i // LANES, i % LANES
        nearest_RL[a, lane], length_RL[a, lane] = a, 0  # to be looked for
        if lane == 0:
            link_R[a] = _link(a, core_R, norm_R, by_core_R, least_R, second_R)
    for _ in range(ROUNDS):
        for choose in range(2):
            all_blocks.sync()
            for i in range(first, R * LANES, step):
                a, lane = i // LANES, i % LANES
                if length_RL[a, lane] < FAR and component_R[nearest_RL[a, lane]] == component_R[a]:
                    nearest, length = _nearest_outside(a, lane, indptr, indices, products, norm_R, core_R, component_R)
                    nearest_RL[a, lane], length_RL[a, lane] = nearest, length
                if length_RL[a, lane] < FAR:
                    b, length = nearest_RL[a, lane], length_RL[a, lane]
                    _offer(a, b, length, choose, component_R, shortest_R, pick_R)
                if lane == 0:
                    _offer_link(a, link_R[a], choose, norm_R, core_R, component_R, shortest_R, pick_R)
                    _offer_link(
                        least_R[a], least_R[max(a - 1, 0)], choose, norm_R, core_R, component_R, shortest_R, pick_R
                    )
        all_blocks.sync()
        for c in range(first, R, step):
            if component_R[c] == c:
                _join(c, component_R, above_R, shortest_R, pick_R, joined, left, right, weight)
        all_blocks.sync()
        for a in range(first, R, step):
            c = component_R[a]
            while above_R[c] != c:
                c = above_R[c]
            component_R[a], shortest_R[a], pick_R[a] = c, FAR, FAR
        if joined[0] == R - 1:
            break
    all_blocks.sync()
    root = component_R[0]  # the only one that joined no other: the last edge takes its place
    if first == 0 and root < R - 1:
        left[root], right[root], weight[root] = left[R - 1], right[R - 1], weight[R - 1]


def spanning_tree_cuda(rows: Pairs, core_R: Array) -> tuple[Array, Array, Array]:
    """`spanning_tree` on the device, in a single launch."""
    xp, R = array_module(core_R), core_R.size
    left, right, weight = xp.empty(R, xp.int32), xp.empty(R, xp.int32), xp.empty(R)
    if R > 1:
        row_work, pair_work = xp.empty((5, R), xp.int32), xp.empty((2, R), xp.int64)
        nearest_RL, length_RL = xp.empty((R, LANES), xp.int32), xp.empty((R, LANES), xp.int64)
        joined, by_core_R = xp.zeros(1, xp.int32), xp.argsort(core_R)
        _boruvka_cuda.blocks(
            min(_boruvka_cuda.most_at_once(), -(-R * LANES // runtime.THREADS)), *rows, core_R, by_core_R,
            row_work, pair_work, nearest_RL, length_RL, joined, left, right, weight,
        )  # fmt: skip
    return left[: R - 1], right[: R - 1], weight[: R - 1]


def spanning_tree_cpu(rows: Rows, core_R: Array) -> tuple[Array, Array, Array]:
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


def spanning_tree(rows: Rows | Pairs, core_R: Array) -> tuple[Array, Array, Array]:
    """Edges (left, right int32, weight float64) of a minimum spanning tree; R - 1 of them, in no order.

    Args:
        rows: one at least.
        core_R: squared core distances, float64. Weights are squared as well.
    """
    return (spanning_tree_cuda if on_gpu(core_R) else spanning_tree_cpu)(rows, core_R)
