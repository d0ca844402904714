"""Accuracies of classes from plain loops, by their definitions; no blocks and no matrices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations


def nearest_class(features: Sequence[Sequence[float]], classes: Sequence[int], asked: Sequence[float], k: int) -> int:
    """The class that most of the k images have whose product with `asked` is largest; of equals, the nearest one's."""
    products = [sum(a * b for a, b in zip(row, asked, strict=True)) for row in features]
    near = sorted(range(len(features)), key=lambda i: -products[i])[:k]
    votes = [sum(classes[j] == classes[i] for j in near) for i in near]
    return classes[near[votes.index(max(votes))]]


def matched(labels: Sequence[int], identities: Sequence[int]) -> float:
    """The best of all ways to give every cluster an identity of its own, by trying each of them."""
    clusters, people = sorted({x for x in labels if x >= 0}), sorted(set(identities))
    people += [None] * len(clusters)  # a cluster may stay without one
    best = 0
    for chosen in set(permutations(people, len(clusters))):
        given = dict(zip(clusters, chosen, strict=True))
        best = max(best, sum(given.get(x) == y for x, y in zip(labels, identities, strict=True) if x >= 0))
    return best / len(labels)


def dealt_out(classes: Sequence[int], folds: int) -> list[int]:
    """The fold of every image: those of a class in turn."""
    seen: dict[int, int] = {}
    found = []
    for one in classes:
        found.append(seen.get(one, 0) % folds)
        seen[one] = seen.get(one, 0) + 1
    return found
