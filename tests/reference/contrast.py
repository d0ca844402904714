"""Contrastive losses over memories and the memories' own steps, as their formulas read, in plain Python over lists.

Cluster contrast: Dai et al., ACCV 2022; what they call Eq. 3 (InfoNCE over centroids) and Eqs. 4 and 5 (the memory), in
the order of their code: every image of a batch in turn, or of each cluster the image that is least like its centroid.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from tests.reference.losses import Matrix, Row, entropy_of, mean

Rows = list[list[float]]


def dot(x: Row, y: Row) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def unit(x: Row) -> list[float]:
    length = sqrt(dot(x, x))
    return [a / length for a in x]


def centroids(features: Matrix, labels: Sequence[int]) -> Rows:
    """Unit mean of each cluster, in the order of their numbers; -1 is in none."""
    found = []
    for cluster in sorted(set(labels) - {-1}):
        members = [x for x, label in zip(features, labels, strict=True) if label == cluster]
        found.append(unit([mean(column) for column in zip(*members, strict=True)]))
    return found


def info_nce(queries: Matrix, memory: Matrix, targets: Matrix, temperature: float) -> float:
    """Mean of -sum_k target_k log softmax(<query, memory> / temperature)_k."""
    logits = [[dot(query, row) / temperature for row in memory] for query in queries]
    return mean([entropy_of(target, row) for target, row in zip(targets, logits, strict=True)])


def one_hot(labels: Sequence[int], width: int) -> Rows:
    return [[float(label == column) for column in range(width)] for label in labels]


def moved(row: Row, feature: Row, momentum: float) -> list[float]:
    return unit([momentum * a + (1 - momentum) * b for a, b in zip(row, feature, strict=True)])


def followed(memory: Matrix, features: Matrix, labels: Sequence[int], momentum: float) -> Rows:
    """The memory after every image of a batch in turn."""
    after = [list(row) for row in memory]
    for feature, label in zip(features, labels, strict=True):
        after[label] = moved(after[label], feature, momentum)
    return after


def followed_hardest(memory: Matrix, features: Matrix, labels: Sequence[int], momentum: float) -> Rows:
    """The memory after the hardest image of each cluster of a batch."""
    after = [list(row) for row in memory]
    for label in set(labels):
        members = [x for x, of in zip(features, labels, strict=True) if of == label]
        after[label] = moved(memory[label], min(members, key=lambda x: dot(x, memory[label])), momentum)
    return after
