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

import numba
import numpy as np

from rapids_slr.kernels import cpu

TIE = 2.0**-22  # squared distances that differ by less, relatively, are equal: soft labels hold no finer difference
TIED_STABILITY = 1e-9  # likewise for stabilities, whose sums depend on the order of their terms


@numba.njit(cache=True, nogil=True)
def _find(parent_R, r):
    while parent_R[r] != r:
        parent_R[r] = parent_R[parent_R[r]]
        r = parent_R[r]
    return r


@cpu("int64(int64[::1], float64[::1], int32[::1], int32[::1], float64[::1], int64, int32[::1], float64[::1],"
     " int32[::1], float64[::1], float64[::1])")  # fmt: skip
def _condense(count_R, core_R, left, right, weight, min_cluster_size, home_R, level_R, parent_C, birth_C, stability_C):
    """Clusters of the condensed tree, children before parents; returns how many.

    home_R, level_R: the cluster a row's points leave, and at which squared distance; -1 for none.
    parent_C, birth_C: the cluster that a cluster splits off from, -1 for the root, and at which squared distance.
    """
    R, E = count_R.size, left.size
    events = E  # the copies of a row come together at its core distance
    ends = np.empty((E + R, 2), np.int32)
    length = np.empty(E + R)
    for e in range(E):
        ends[e, 0], ends[e, 1], length[e] = left[e], right[e], weight[e]
    for r in range(R):
        home_R[r] = -1
        if count_R[r] > 1:
            ends[events, 0], ends[events, 1], length[events] = r, r, core_R[r]
            events += 1
    order = np.argsort(length[:events])

    parent_R = np.arange(R).astype(np.int32)
    size_R, cluster_R = count_R.copy(), np.full(R, -1, np.int32)  # of a component, kept at its root
    head_R, tail_R, next_R = parent_R.copy(), parent_R.copy(), np.full(R, -1, np.int32)  # its rows without a home
    old, new = np.empty(2 * R, np.int32), np.empty(R, np.int32)  # components before and after a distance
    seen_R = np.zeros(R, np.bool_)
    new_size_R, large_R, large_size_R = np.zeros(R, np.int64), np.zeros(R, np.int32), np.zeros(R, np.int64)
    new_cluster_R, new_head_R, new_tail_R = np.full(R, -1, np.int32), np.full(R, -1, np.int32), np.empty(R, np.int32)
    mass_C = stability_C
    clusters, first = 0, 0
    while first < events:
        last = first + 1
        while last < events and length[order[last]] <= length[order[last - 1]] * (1 + TIE):
            last += 1
        level = length[order[first]]
        density = np.inf if level == 0 else 1 / np.sqrt(level)

        olds, news = 0, 0
        for e in order[first:last]:
            for side in range(2):
                root = _find(parent_R, ends[e, side])
                if not seen_R[root]:
                    seen_R[root] = True
                    old[olds] = root
                    olds += 1
        for e in order[first:last]:
            parent_R[_find(parent_R, ends[e, 0])] = _find(parent_R, ends[e, 1])
        for o in range(olds):
            part = old[o]
            seen_R[part] = False
            root = _find(parent_R, part)
            if new_size_R[root] == 0:
                new[news] = root
                news += 1
            new_size_R[root] += size_R[part]
            if cluster_R[part] >= 0:
                large_R[root] += 1
                large_size_R[root] += size_R[part]
                new_cluster_R[root] = cluster_R[part]
            elif new_head_R[root] < 0:
                new_head_R[root], new_tail_R[root] = head_R[part], tail_R[part]
            else:
                next_R[new_tail_R[root]] = head_R[part]
                new_tail_R[root] = tail_R[part]
        for n in range(news):
            root = new[n]
            if new_size_R[root] < min_cluster_size:
                continue
            if large_R[root] == 1:
                added = new_size_R[root] - large_size_R[root]
            else:
                new_cluster_R[root] = clusters
                parent_C[clusters], birth_C[clusters], mass_C[clusters] = -1, np.inf, 0.0
                clusters += 1
                added = new_size_R[root]
            if added:
                mass_C[new_cluster_R[root]] += added * density
            row = new_head_R[root]
            while row >= 0:
                home_R[row], level_R[row] = new_cluster_R[root], level
                row = next_R[row]
            new_head_R[root] = -1
        for o in range(olds):
            part = old[o]
            root = _find(parent_R, part)
            child = cluster_R[part]
            if child >= 0 and large_R[root] > 1:
                parent_C[child], birth_C[child] = new_cluster_R[root], level
                stability_C[child] = mass_C[child] - size_R[part] * density
        for n in range(news):
            root = new[n]
            size_R[root], cluster_R[root] = new_size_R[root], new_cluster_R[root]
            head_R[root], tail_R[root] = new_head_R[root], new_tail_R[root]
            new_size_R[root], large_R[root], large_size_R[root] = 0, 0, 0
            new_cluster_R[root], new_head_R[root] = -1, -1
        first = last
    return clusters


@cpu("void(int32[::1], float64[::1], float64[::1], int64, float64, int32[::1], float64[::1], int32[::1])")
def _select(parent_C, birth_C, stability_C, clusters, merge_distance, home_R, level_R, label_R):
    """Excess of mass, then merge_distance, then a label for every row; root: the last cluster."""
    root = clusters - 1
    best_C, selected_C = stability_C[:clusters].copy(), np.ones(clusters, np.bool_)
    below_C, label_C = np.zeros(clusters), np.full(clusters, -1, np.int32)
    for c in range(clusters):
        if below_C[c] > stability_C[c] * (1 + TIED_STABILITY):
            best_C[c], selected_C[c] = below_C[c], False
        if c != root:
            below_C[parent_C[c]] += best_C[c]
    selected_C[root] = stability_C[root] == np.inf  # one row outweighs all that is around it, and nothing else does
    for c in range(clusters - 2, -1, -1):  # what lies under a selected cluster is part of it
        label_C[c] = 0 if selected_C[parent_C[c]] or label_C[parent_C[c]] == 0 else -1
        selected_C[c] &= label_C[c] < 0
    if merge_distance > 0:
        bound = merge_distance * merge_distance
        for c in range(clusters):
            if selected_C[c] and c != root and birth_C[c] < bound:
                upper = c
                while parent_C[upper] != root:
                    upper = parent_C[upper]
                    if birth_C[upper] > bound:
                        break
                selected_C[c] = False
                selected_C[upper] = True
    labels = 0
    for c in range(clusters - 1, -1, -1):
        if c != root and label_C[parent_C[c]] > 0:
            label_C[c] = label_C[parent_C[c]]
        elif selected_C[c]:
            labels += 1
            label_C[c] = labels
        else:
            label_C[c] = 0
    for r in range(home_R.size):
        label_R[r] = label_C[home_R[r]] - 1 if home_R[r] >= 0 else -1
        if home_R[r] == root and level_R[r] > merge_distance * merge_distance:
            label_R[r] = -1


def density_clusters(
    count_R: np.ndarray,
    core_R: np.ndarray,
    tree: tuple[np.ndarray, np.ndarray, np.ndarray],
    min_cluster_size: int,
    merge_distance: float,
) -> np.ndarray:
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
    R = count_R.size
    home_R, level_R, label_R = np.empty(R, np.int32), np.empty(R), np.full(R, -1, np.int32)
    parent_C, birth_C, stability_C = np.empty(2 * R, np.int32), np.empty(2 * R), np.empty(2 * R)
    clusters = _condense(count_R, core_R, *tree, min_cluster_size, home_R, level_R, parent_C, birth_C, stability_C)
    if clusters:
        _select(parent_C, birth_C, stability_C, clusters, merge_distance, home_R, level_R, label_R)
    return label_R
