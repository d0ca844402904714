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


# Hybrid memory: Ge et al., SpCL, NeurIPS 2020, Eq. 1, as its code computes it: the similarity of a query to a class is
# the mean of its products with the rows of the class, and the softmax goes over all classes that have a row.


def similarities(query: Row, memory: Matrix, classes: Sequence[int], temperature: float) -> list[float]:
    found = []
    for label in range(max(classes) + 1):
        members = [dot(query, row) / temperature for row, of in zip(memory, classes, strict=True) if of == label]
        found.append(mean(members))
    return found


def unified_contrast(
    queries: Matrix, memory: Matrix, classes: Sequence[int], rows: Sequence[int], temperature: float
) -> float:
    """Mean of -log softmax of the query's own class, that of its row of the memory."""
    losses = []
    for query, row in zip(queries, rows, strict=True):
        logits = similarities(query, memory, classes, temperature)
        losses.append(entropy_of(one_hot([classes[row]], len(logits))[0], logits))
    return mean(losses)


def classes_of(labels: Sequence[int], sources: int) -> list[int]:
    """Class of every row of the memory: the source's, then clusters, then each un-clustered image by itself."""
    number, found = sources + max(labels) + 1, list(range(sources))
    for label in labels:
        found.append(sources + label if label >= 0 else number)
        number += label < 0
    return found
