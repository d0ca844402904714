"""Scores without identities, from plain lists, one image at a time; whole-numbered features have exact products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

Rows = Sequence[Sequence[float]]


def similarity(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def neighbours(features: Rows, i: int, k: int) -> set[int]:
    """The k most similar others of an image, but for those that tie with one for which there is no place."""
    others = [(similarity(features[i], features[j]), j) for j in range(len(features)) if j != i]
    found = set()
    for value, j in others:
        at_least_as_near = sum(other >= value for other, _ in others)
        if at_least_as_near <= k:
            found.add(j)
    return found


def agreement(one: Rows, other: Rows, k: int) -> float:
    N = len(one)
    k = min(k, N - 1)
    if k < 1:
        return 0.0
    shares = [len(neighbours(one, i, k) & neighbours(other, i, k)) / k for i in range(N)]
    return math.fsum(shares) / N


def unit(row: Sequence[float]) -> list[float]:
    length = math.sqrt(similarity(row, row))
    return [x / length for x in row] if length else list(row)


def head_agreement(features: Rows, heads: int, k: int) -> float:
    if heads == 1:
        return 1.0
    width = len(features[0]) // heads
    parts = [[unit(row[h * width : (h + 1) * width]) for row in features] for h in range(heads)]
    found = [agreement(one, other, k) for one, other in combinations(parts, 2)]
    return math.fsum(found) / len(found)


def density(features: Rows, temperature: float) -> float:
    """Saito et al., ICCV 2021, Eqs. 2 to 4, with features in the place of softmax outputs."""
    if len(features) < 3:
        return 0.0
    entropies = []
    for i, row in enumerate(features):
        others = [similarity(row, other) / temperature for j, other in enumerate(features) if j != i]
        most = max(others)
        weights = [math.exp(x - most) for x in others]
        shares = [weight / math.fsum(weights) for weight in weights]
        entropies.append(-math.fsum(p * math.log(p) for p in shares if p > 0))
    return math.fsum(entropies) / len(entropies)
