"""HDBSCAN's clusters from a spanning tree: condensed tree and excess of mass, with equal distances merged at once.

Points are given as distinct rows with counts. The tree is built upwards. At every distance all edges of that length are
taken together, and each new component looks at the components it is made of:

- none has min_cluster_size points: if it has them itself, a cluster begins here, at its densest;
- one has: that cluster goes on, and takes the other points in;
- several have: they end here (seen from above: they split off), and a cluster of all points takes their place.

lambda = 1 / distance. A cluster's stability is the sum over its points of lambda where the point left it less lambda
where it split off. Copies of a row with core distance 0 leave at lambda = inf; such a cluster has no part that could
split, its stability is inf, and it outweighs any that contains it. inf is only ever added to or compared.
"""

from __future__ import annotations

import math

import numpy as np

from rapids_slr.engine.arrays import Array, array_module, to_host
from rapids_slr.kernels.components import find
from rapids_slr.kernels.runtime import cpu, cpu_part, on_gpu

TIE = 2.0**-22  # squared distances that differ by less, relatively, are equal: soft labels hold no finer difference
TIED_STABILITY = 1e-9  # likewise for stabilities, whose sums depend on the order of their terms


@cpu_part()
def _spliced(next_, a, b):
    """One ring of two, each given by a member, or -1 if it is empty; next_ leads around them."""
    if a < 0:
        return b
    if b >= 0:
        next_[a], next_[b] = next_[b], next_[a]
    return a


@cpu_part()
def _condense(count_R, left, right, length, min_cluster_size, row_work, cluster_work, float_work):
    """Clusters of the condensed tree, children before parents; returns how many.

    left, right, length: edges by ascending squared length, up to the first that is inf.
    """
    parent_R, size_R, cluster_R = row_work[1], row_work[2], row_work[3]
    home_R, head_R, next_R = row_work[0], row_work[4], row_work[5]
    parent_C, next_C, size_C = cluster_work[0], cluster_work[1], cluster_work[2]
    level_R, birth_C, stability_C = float_work[0], float_work[1], float_work[2]
    for r in range(count_R.size):
        # at the root of a component: its points, a ring of its clusters, a ring of its rows without a home
        parent_R[r], size_R[r], cluster_R[r], head_R[r], next_R[r], home_R[r] = r, count_R[r], -1, r, r, -1
    clusters, first, events = 0, 0, length.size
    while first < events and length[first] < np.inf:
        last = first + 1  # edges that are as long, one after the other, form a level
        while last < events and length[last] <= length[last - 1] * (1 + TIE):
            last += 1
        level = length[first]
        density = np.inf if level == 0 else 1 / math.sqrt(level)
        for e in range(first, last):
            a, b = find(parent_R, left[e]), find(parent_R, right[e])
            if a != b:
                if size_R[a] < size_R[b]:  # the smaller below the larger keeps the paths short
                    a, b = b, a
                parent_R[b] = a
                size_R[a] += size_R[b]
                cluster_R[a] = _spliced(next_C, cluster_R[a], cluster_R[b])
                head_R[a] = _spliced(next_R, head_R[a], head_R[b])
        for e in range(first, last):  # a component met again is as it should be
            root = find(parent_R, left[e])
            added, cluster = size_R[root], cluster_R[root]
            if added < min_cluster_size:
                continue
            if cluster >= 0 and next_C[cluster] == cluster:
                added -= size_C[cluster]
            else:
                child, cluster = cluster, clusters
                while child >= 0 and parent_C[child] < 0:
                    parent_C[child], birth_C[child] = cluster, level
                    stability_C[child] -= size_C[child] * density
                    child = next_C[child]
                parent_C[cluster], next_C[cluster], birth_C[cluster], stability_C[cluster] = -1, cluster, np.inf, 0.0
                cluster_R[root] = cluster
                clusters += 1
            if added > 0:
                stability_C[cluster] += added * density
            size_C[cluster] = size_R[root]
            row = head_R[root]
            while row >= 0 and home_R[row] < 0:
                home_R[row], level_R[row] = cluster, level
                row = next_R[row]
            head_R[root] = -1
        first = last
    return clusters


@cpu_part()
def _select(clusters, merge_distance, cluster_work, float_work):
    """Excess of mass, then merge_distance, then numbers from 1 for the clusters selected and all below them, else 0.

    The root is the last cluster.
    """
    parent_C, selected_C, label_C = cluster_work[0], cluster_work[1], cluster_work[2]
    birth_C, stability_C, below_C = float_work[1], float_work[2], float_work[3]
    root = clusters - 1
    for c in range(clusters):
        below_C[c], label_C[c] = 0.0, -1
    selected_C[root] = stability_C[root] == np.inf  # one row outweighs all that is around it, and nothing else does
    for c in range(root):
        best, selected_C[c] = stability_C[c], True
        if below_C[c] > best * (1 + TIED_STABILITY):
            best, selected_C[c] = below_C[c], False
        below_C[parent_C[c]] += best
    for c in range(root - 1, -1, -1):  # what lies under a selected cluster is part of it
        label_C[c] = 0 if selected_C[parent_C[c]] or label_C[parent_C[c]] == 0 else -1
        if label_C[c] == 0:
            selected_C[c] = False
    if merge_distance > 0:
        bound = merge_distance * merge_distance
        for c in range(root):
            if selected_C[c] and birth_C[c] < bound:
                upper = c
                while parent_C[upper] != root:
                    upper = parent_C[upper]
                    if birth_C[upper] > bound:
                        break
                selected_C[c] = False
                selected_C[upper] = True
    labels = 0
    for c in range(root, -1, -1):
        label_C[c] = 0 if c == root else label_C[parent_C[c]]
        if label_C[c] == 0 and selected_C[c]:
            labels += 1
            label_C[c] = labels


@cpu_part()
def _label(home, level, merge_distance, parent_C, label_C):
    """Label of a row that leaves cluster `home` at a squared distance; the root ends where clusters begin to merge."""
    if home < 0 or (parent_C[home] < 0 and level > merge_distance * merge_distance):
        return -1
    return label_C[home] - 1


@cpu("void(int64[::1], int32[::1], int32[::1], float64[::1], int64, float64, int32[:, ::1], int32[:, ::1],"
     " float64[:, ::1], int32[::1])")  # fmt: skip
def _density_clusters(count_R, left, right, length, min_cluster_size, merge_distance, row_work, cluster_work,
                      float_work, label_R):  # fmt: skip
    clusters = _condense(count_R, left, right, length, min_cluster_size, row_work, cluster_work, float_work)
    if clusters:
        _select(clusters, merge_distance, cluster_work, float_work)
    for r in range(label_R.size):
        label_R[r] = _label(row_work[0, r], float_work[0, r], merge_distance, cluster_work[0], cluster_work[2])


def _edges_and_space(count_R: Array, core_R: Array, tree: tuple[Array, Array, Array]) -> tuple[tuple, tuple]:
    """What `_condense` takes: edges by length, among them a loop where the copies of a row come together, and space."""
    xp, R, (left, right, weight) = array_module(count_R), count_R.size, tree
    row_R = xp.arange(R, dtype=xp.int32)
    length = xp.concatenate((weight, xp.where(count_R > 1, core_R, np.inf)))
    order = xp.argsort(length)
    edges = xp.concatenate((left, row_R))[order], xp.concatenate((right, row_R))[order], length[order]
    return edges, (xp.empty((6, R), xp.int32), xp.empty((3, 2 * R), xp.int32), xp.empty((4, 2 * R)))


def density_clusters_cuda(
    count_R: Array, core_R: Array, tree: tuple[Array, Array, Array], min_cluster_size: int, merge_distance: float
) -> Array:
    """`density_clusters` of arrays on the device, on the host.

    The walk up the tree goes edge by edge: a GPU's thread would take milliseconds, the CPU takes a tenth of one. Rows
    are far fewer than images, so that the tree is soon copied.
    """
    xp, R, (left, right, weight) = array_module(count_R), count_R.size, tree
    lengths = to_host(xp.concatenate((core_R, weight)))
    numbers = to_host(xp.concatenate((count_R.astype(xp.int32), left, right)))
    count_R, core_R = numbers[:R].astype(np.int64), lengths[:R]
    tree = numbers[R : 2 * R - 1], numbers[2 * R - 1 :], lengths[R:]
    return xp.asarray(density_clusters_cpu(count_R, core_R, tree, min_cluster_size, merge_distance))


def density_clusters_cpu(
    count_R: Array, core_R: Array, tree: tuple[Array, Array, Array], min_cluster_size: int, merge_distance: float
) -> Array:
    edges, space = _edges_and_space(count_R, core_R, tree)
    label_R = np.empty(count_R.size, np.int32)
    _density_clusters(count_R, *edges, min_cluster_size, merge_distance, *space, label_R)
    return label_R


def density_clusters(
    count_R: Array, core_R: Array, tree: tuple[Array, Array, Array], min_cluster_size: int, merge_distance: float
) -> Array:
    """HDBSCAN label of every row, int32 (R,), -1 = noise, in no particular order.

    The root is a cluster only where its stability is inf: there is one row with copies enough to be a cluster at
    distance 0, and no other cluster.

    Args:
        count_R: int64 points of a row.
        core_R: squared core distances, float64.
        tree: edges of a minimum spanning tree of mutual reachability, with squared weights.
        min_cluster_size: smallest cluster, points, at least 2.
        merge_distance: clusters that part below this distance stay together (cluster_selection_epsilon), unless they
            part from the root.
    """
    run = density_clusters_cuda if on_gpu(count_R) else density_clusters_cpu
    return run(count_R, core_R, tree, min_cluster_size, merge_distance)
