"""Features less the mean of their camera, image by image."""

from __future__ import annotations

import math


def centred(features: list[list[float]], cameras: list[int], fewest: int) -> list[list[float]]:
    """Rows of unit length; cameras of fewer than `fewest` images share a mean, or take that of all."""
    N, D = len(features), len(features[0])
    few = [i for i in range(N) if cameras.count(cameras[i]) < fewest]

    def mean(rows: list[int]) -> list[float]:
        return [sum(features[i][d] for i in rows) / len(rows) for d in range(D)]

    result = []
    for i in range(N):
        rows = few if i in few else [j for j in range(N) if cameras[j] == cameras[i]]
        centre = mean(list(range(N)) if i in few and len(few) < fewest else rows)
        rest = [x - c for x, c in zip(features[i], centre, strict=True)]
        length = math.sqrt(sum(x * x for x in rest))
        result.append([x / length for x in rest] if length >= 1e-6 else features[i])
    return result
