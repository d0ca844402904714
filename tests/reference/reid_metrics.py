"""mAP and CMC by the Market-1501 protocol, one query and one gallery image at a time, in exact arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

RANKS = (1, 5, 10)


def ranking(query: Sequence[int], gallery: Sequence[Sequence[int]], counted: Sequence[int]) -> list[int]:
    """Gallery indices in `counted` from near to far, whole-numbered features; equally far ones keep their order."""
    far = {i: sum((a - b) ** 2 for a, b in zip(query, gallery[i], strict=True)) for i in counted}
    return sorted(counted, key=lambda i: (far[i], i))


def one_query(features, identity, camera, gallery, gallery_identities, gallery_cameras) -> tuple[Fraction, int] | None:
    """Average precision and rank of the first match; None if nothing matches."""
    counted = []
    for i in range(len(gallery)):
        junk = gallery_identities[i] == -1
        same_view = gallery_identities[i] == identity and gallery_cameras[i] == camera
        if not junk and not same_view:
            counted.append(i)
    precisions, first, hits = [], 0, 0
    for rank, i in enumerate(ranking(features, gallery, counted), start=1):
        if identity > 0 and gallery_identities[i] == identity:
            hits += 1
            first = first or rank
            precisions.append(Fraction(hits, rank))
    return (sum(precisions, Fraction(0)) / hits, first) if hits else None


def scores(query, gallery, query_identities, query_cameras, gallery_identities, gallery_cameras) -> dict | None:
    """What `retrieval_scores` gives, from plain lists; None if no query has a match."""
    results = [
        one_query(*one, gallery, gallery_identities, gallery_cameras)
        for one in zip(query, query_identities, query_cameras, strict=True)
    ]
    matched = [result for result in results if result is not None]
    if not matched:
        return None
    cmc = {f"rank{k}": sum(first <= k for _, first in matched) / len(matched) for k in RANKS}
    mean = float(sum(precision for precision, _ in matched) / len(matched))
    return {"mAP": mean, **cmc, "queries": len(matched), "unmatched": len(results) - len(matched)}
