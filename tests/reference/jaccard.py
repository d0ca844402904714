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


def leaders(features):
    """(N,) the first image that is equal."""
    rows = [tuple(row) for row in np.asarray(features, np.float32).tolist()]
    return [rows.index(row) for row in rows]


def kept_and_standing(features, most):
    """(U,) the first `most` images of every set of equal ones, and (N,) which of these is or stands for an image."""
    leader = leaders(features)
    kept = [i for i in range(len(leader)) if leader[:i].count(leader[i]) < most]
    return kept, [kept.index(i if i in kept else leader[i]) for i in range(len(leader))]


def with_copies(features, k1, k2):
    """J (N, N) of all images and (U, U) of those that are kept, no more copies of one than a list holds.

    Where too few are distinct only copies are related, and one of each is kept.
    """
    few = len(set(leaders(features))) < max(k1 + 1, k2)
    kept, of = kept_and_standing(features, 1 if few else k1 + 1)
    J = 1 - np.eye(len(kept)) if few else jaccard_distances(np.asarray(features)[kept], k1, k2)
    return J[np.ix_(of, of)], J


def shared_labels(labels, features):
    """Copies have the lowest label that one of them has, and clusters are numbered without gaps."""
    leader = leaders(features)
    found = []
    for i in range(len(leader)):
        own = [labels[j] for j in range(len(leader)) if leader[j] == leader[i] and labels[j] >= 0]
        found.append(min(own, default=-1))
    numbers = sorted(set(found) - {-1})
    return np.array([numbers.index(label) if label >= 0 else -1 for label in found])


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
