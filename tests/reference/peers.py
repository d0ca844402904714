"""Distances as the code of others computes them, transcribed step by step with N x N arrays, in float64.

`faiss_family`: `compute_jaccard_distance` of cluster-contrast, SpCL, ICE and PPLR. `re_ranking`: person-re-ranking,
whose text torchreid, MMT and ABMT share. Ties, which their sorts leave open, go by index, the image itself first.
"""

import numpy as np


def by_distance(distance):
    """Every row's columns, near to far."""
    order = distance.copy()
    if len(order) == order.shape[1]:
        np.fill_diagonal(order, -1)
    return np.argsort(order, axis=1, kind="stable")


def reciprocal(initial_rank, i, k):
    forward = initial_rank[i, : k + 1]
    backward = initial_rank[forward, : k + 1]
    return forward[np.where(backward == i)[0]]


def expanded(initial_rank, i, k1):
    own = reciprocal(initial_rank, i, k1)
    found = own
    for candidate in own:
        theirs = reciprocal(initial_rank, candidate, int(np.around(k1 / 2)))
        if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
            found = np.append(found, theirs)
    return np.unique(found)


def jaccard(V, rows):
    found = np.zeros((len(rows), len(V)))
    for place, i in enumerate(rows):
        shared = np.minimum(V[i], V).sum(axis=1)
        found[place] = 1 - shared / (2 - shared)
    return np.maximum(found, 0)


def squared_euclidean(x, y):
    return (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T


def faiss_family(features, k1, k2):
    """(N, N). The search gives k1 columns, so that the slice [:k1 + 1] of its result holds k1."""
    x = np.asarray(features, np.float64)
    distance = squared_euclidean(x, x)
    initial_rank = by_distance(np.round(distance, 12))[:, :k1]
    V = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        members = expanded(initial_rank, i, k1)
        weight = np.exp(-distance[i, members])  # softmax(-dist)
        V[i, members] = weight / weight.sum()
    if k2 != 1:
        V = np.stack([V[initial_rank[i, :k2]].mean(axis=0) for i in range(len(x))])
    return jaccard(V, range(len(x)))


def re_ranking(q_g_dist, q_q_dist, g_g_dist, k1=20, k2=6, lambda_value=0.3):
    """(Q, G) from the distances of a data set's parts, which are squared here.

    person-re-ranking hands over Euclidean distances; torchreid, by its default metric, squared ones.
    """
    original = np.block([[q_q_dist, q_g_dist], [q_g_dist.T, g_g_dist]]) ** 2
    original = (original / original.max(axis=0)).T
    initial_rank = by_distance(np.round(original, 12))
    V = np.zeros_like(original)
    for i in range(len(original)):
        members = expanded(initial_rank, i, k1)
        weight = np.exp(-original[i, members])
        V[i, members] = weight / weight.sum()
    queries = len(q_g_dist)
    if k2 != 1:
        V = np.stack([V[initial_rank[i, :k2]].mean(axis=0) for i in range(len(V))])
    final = jaccard(V, range(queries)) * (1 - lambda_value) + original[:queries] * lambda_value
    return final[:, queries:]
