"""k-reciprocal Jaccard distance, radius and source term, dense and slow, in float64, word by word from the formulas."""

import numpy as np


def squared_distances(x, y=None):
    """max(0, 2 - 2 x.y), every pair summed on its own so that equal rows give equal distances; below 1e-6: 0."""
    x = np.asarray(x, np.float64)
    y = x if y is None else np.asarray(y, np.float64)
    d = np.maximum(0, 2 - 2 * np.stack([(row * y).sum(axis=1) for row in x]))
    d[d < 1e-6] = 0
    return d


def ranks(d):
    """rank_i: images by ascending distance, ties by index, i itself first."""
    order = []
    for i, row in enumerate(d):
        others = sorted((distance, j) for j, distance in enumerate(row) if j != i)
        order.append([i, *(j for _, j in others)])
    return np.array(order)


def reciprocal(rank, i, k):
    return {int(j) for j in rank[i, : k + 1] if i in rank[j, : k + 1]}


def jaccard_distances(features, k1, k2):
    """J (N, N)."""
    d = squared_distances(features)
    N = len(d)
    rank = ranks(d)
    furthest = d.max(axis=1, keepdims=True)
    D = np.divide(d, furthest, out=np.zeros_like(d), where=furthest > 0)
    half = round(k1 / 2)
    V = np.zeros((N, N))
    for i in range(N):
        own = reciprocal(rank, i, k1)
        expanded = set(own)
        for c in own:
            theirs = reciprocal(rank, c, half)
            if 3 * len(theirs & own) > 2 * len(theirs):
                expanded |= theirs
        members = sorted(expanded)
        V[i, members] = np.exp(-D[i, members])
        V[i] /= V[i].sum()
    V = np.stack([V[rank[i, :k2]].mean(axis=0) for i in range(N)])
    J = np.empty((N, N))
    for i in range(N):
        shared = np.minimum(V[i], V).sum(axis=1)
        J[i] = np.maximum(0, 1 - shared / (2 - shared))
    J[J < 1e-6] = 0
    return J


def distinct(features):
    """(U,) the first image of every distinct one, and (N,) which of these stands for an image.

    An image at distance 0 of an earlier one is a copy of it, and of whatever that is a copy of.
    """
    d = squared_distances(features)
    leader = []
    for i, row in enumerate(d):
        earlier = [j for j in range(i) if row[j] == 0]
        leader.append(leader[earlier[0]] if earlier else i)
    first = sorted(set(leader))
    return first, [first.index(i) for i in leader]


def with_copies(features, k1, k2):
    """J (N, N) of images of which copies are one, and (U, U) of the distinct ones; 1 where these are too few."""
    first, of = distinct(features)
    few = len(first) < max(k1 + 1, k2)
    J = 1 - np.eye(len(first)) if few else jaccard_distances(np.asarray(features)[first], k1, k2)
    return J[np.ix_(of, of)], J


def with_source(J, features, source, weight):
    """(1 - weight) J + weight (u_i + u_j)."""
    u = (1 - np.exp(-squared_distances(features, source))).min(axis=1)
    if u.max() > 0:
        u = u / u.max()
    distance = (1 - weight) * J + weight * (u[:, None] + u)
    np.fill_diagonal(distance, 0)
    return distance


def radius(distance, pairs_per_image=None, rho=None):
    """Mean of the smallest nonzero distances above the diagonal."""
    above = np.sort(distance[np.triu_indices(len(distance), 1)])
    above = above[above > 0]
    if above.size == 0:
        return 0.0
    count = round(rho * above.size) if rho is not None else round(pairs_per_image * len(distance))
    return above[: min(max(count, 1), above.size)].mean()
