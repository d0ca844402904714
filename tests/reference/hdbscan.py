"""HDBSCAN* on points, from the top down: threshold the complete graph of mutual reachability, look at the pieces.

No tree is built and nothing is weighted: every copy of a point is a point.
"""

import numpy as np
from scipy.sparse.csgraph import connected_components

TIE = 2.0**-22


def mutual_reachability(points, min_samples):
    """Squared; the k-th neighbour counts equal points but not the point itself."""
    points = np.asarray(points, np.float64)
    d = ((points[:, None] - points) ** 2).sum(axis=2)
    n = len(points)
    others = np.sort(d[~np.eye(n, dtype=bool)].reshape(n, n - 1), axis=1)
    core = others[:, min(min_samples, n - 1) - 1]
    return np.maximum(np.maximum(core[:, None], core), d)


def bottlenecks(reach):
    """Lengths at which the graph falls apart: the edges of a minimum spanning tree, found by plain Prim."""
    n = len(reach)
    inside, best, lengths = np.zeros(n, bool), reach[0].copy(), []
    inside[0] = True
    for _ in range(n - 1):
        nearest = np.where(inside, np.inf, best).argmin()
        lengths.append(best[nearest])
        inside[nearest] = True
        best = np.minimum(best, reach[nearest])
    return np.sort(lengths)


def equal_up_to_ties(reach):
    """The same matrix with lengths that differ by rounding made equal."""
    levels = np.unique(np.concatenate([bottlenecks(reach), reach.diagonal()]))
    chain = np.cumsum(np.concatenate([[0], levels[1:] > levels[:-1] * (1 + TIE)]))
    snapped = reach.copy()
    for group in range(chain[-1] + 1):
        low, high = levels[chain == group][[0, -1]]
        snapped[(reach >= low) & (reach <= high)] = low
    return snapped


class Cluster:
    def __init__(self, points, birth):
        self.points, self.birth = points, birth  # birth: squared distance at which it split off, inf for the root
        self.stability, self.children, self.left_at = 0.0, [], {}

    def leave(self, points, level):
        with np.errstate(divide="ignore"):
            self.stability += len(points) * (1 / np.sqrt(level) - 1 / np.sqrt(self.birth)) if len(points) else 0.0
        for p in points:
            self.left_at[p] = level


def condense(points, reach, min_cluster_size, birth=np.inf):
    cluster = Cluster(points, birth)
    while True:
        inner = reach[np.ix_(points, points)]
        level = bottlenecks(inner)[-1] if len(points) > 1 else inner[0, 0]
        _, piece = connected_components(np.where(inner < level, 1, 0) + np.eye(len(points)))
        pieces = [points[piece == p] for p in range(piece.max() + 1)]
        # a point is together with itself, and with its copies, only above its own core distance
        large = [p for p in pieces if len(p) >= min_cluster_size]
        if len(large) == 1:
            cluster.leave(np.setdiff1d(points, large[0]), level)
            points = large[0]
            continue
        cluster.leave(points, level)
        cluster.children = [condense(p, reach, min_cluster_size, level) for p in large]
        return cluster


def select(cluster):
    """Excess of mass: (stability, clusters) of the best choice within a cluster."""
    below = [select(child) for child in cluster.children]
    inner = sum(stability for stability, _ in below)
    if inner > cluster.stability * (1 + 1e-9):
        return inner, [chosen for _, choice in below for chosen in choice]
    return cluster.stability, [cluster]


def merge_near(root, chosen, merge_distance):
    """cluster_selection_epsilon: a cluster born below it gives way to its first ancestor born above it."""
    above = {}

    def visit(cluster):
        for child in cluster.children:
            above[child] = cluster
            visit(child)

    visit(root)
    merged = []
    for cluster in chosen:
        if np.sqrt(cluster.birth) < merge_distance:
            while above[cluster] is not root:
                cluster = above[cluster]
                if np.sqrt(cluster.birth) > merge_distance:
                    break
        if cluster not in merged:
            merged.append(cluster)
    return [c for c in merged if not any(c is not d and set(c.points) < set(d.points) for d in merged)]


def hdbscan(points, min_cluster_size, min_samples, merge_distance=0.0):
    """Labels of the points, -1 = noise; the root only where its stability is infinite, or all points are equal."""
    points = np.asarray(points, np.float64)
    labels = np.full(len(points), -1)
    if len(np.unique(points, axis=0)) <= 1:
        return np.zeros(len(points), int)
    if len(points) < min_cluster_size:
        return labels
    reach = equal_up_to_ties(mutual_reachability(points, min_samples))
    root = condense(np.arange(len(points)), reach, min_cluster_size)
    if np.isinf(root.stability):
        for p, level in root.left_at.items():
            if np.sqrt(level) <= merge_distance:
                labels[p] = 0
        return labels
    chosen = [c for child in root.children for c in select(child)[1]]
    for number, cluster in enumerate(merge_near(root, chosen, merge_distance)):
        labels[cluster.points] = number
    return labels
