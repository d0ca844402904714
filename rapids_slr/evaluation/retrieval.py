"""Retrieval by the Market-1501 protocol: how high the images of a query's identity rank in the gallery.

Q queries, G gallery images, D feature size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rapids_slr.errors import InputError

JUNK = -1
"""Identity of gallery images that are left out: bad detections."""


class QueryResults(NamedTuple):
    """How each query fared, (Q,) on the device of the features.

    Attributes:
        average_precision: float64, mean of the precision at each match; 0 for a query without match.
        first_match: int64, rank of the first match, from 1; 0 for a query without match.
        matches: int64, gallery images that match.
    """

    average_precision: Tensor
    first_match: Tensor
    matches: Tensor


def retrieval_scores(
    query: Tensor,
    gallery: Tensor,
    query_identities: Tensor,
    query_cameras: Tensor,
    gallery_identities: Tensor,
    gallery_cameras: Tensor,
    block: int = 256,
) -> dict[str, float]:
    """mAP and CMC over all queries that have a match; the arguments are those of `query_results`.

    Returns: `mAP`, `rank1`, `rank5`, `rank10` as fractions; `queries`, the number counted, and `unmatched`, the number
        left out for want of a match.
    Raises: InputError if no query has a match, or as `query_results` does.
    """
    results = query_results(query, gallery, query_identities, query_cameras, gallery_identities, gallery_cameras, block)
    valid = results.matches > 0
    queries = int(valid.sum())
    if queries == 0:
        raise InputError(
            f"none of {len(query)} queries has a match among {len(gallery)} gallery images (its identity, above 0, and "
            "another camera); look at how file names tell identity and camera with `rapids-slr data check`"
        )
    first = results.first_match[valid]
    return {
        "mAP": float(results.average_precision[valid].mean()),
        **{f"rank{k}": float((first <= k).double().mean()) for k in (1, 5, 10)},
        "queries": queries,
        "unmatched": len(query) - queries,
    }


@torch.no_grad()
def query_results(
    query: Tensor,
    gallery: Tensor,
    query_identities: Tensor,
    query_cameras: Tensor,
    gallery_identities: Tensor,
    gallery_cameras: Tensor,
    block: int = 256,
) -> QueryResults:
    """Rank the gallery for every query by Euclidean distance; equal distances rank by gallery index.

    Left out of a query's ranking: junk (identity -1), and images of the query's identity *and* camera. A match has the
    query's identity; identities below 1 (distractors 0) match nothing.

    Args:
        query, gallery: (Q, D) and (G, D) float features on one device.
        query_identities, query_cameras, gallery_identities, gallery_cameras: (Q,) and (G,) integers.
        block: queries ranked at once; memory is about 30 bytes x block x G.
    Raises: InputError if lengths disagree, there is nothing to rank, or features are not finite.
    """
    _check(query, gallery, query_identities, query_cameras, gallery_identities, gallery_cameras)
    device = query.device
    query_identities, query_cameras, gallery_identities, gallery_cameras = (
        torch.as_tensor(labels, device=device)
        for labels in (query_identities, query_cameras, gallery_identities, gallery_cameras)
    )
    half_norms = gallery.square().sum(dim=1) / 2
    results = [
        _rank(half_norms.addmm(features, gallery.T, alpha=-1), identities, cameras, gallery_identities, gallery_cameras)
        for features, identities, cameras in zip(
            query.split(block), query_identities.split(block), query_cameras.split(block), strict=True
        )
    ]
    return QueryResults(*map(torch.cat, zip(*results, strict=True)))


def _rank(
    distances: Tensor, identities: Tensor, cameras: Tensor, gallery_identities: Tensor, gallery_cameras: Tensor
) -> QueryResults:
    """Results of the queries that are the rows of `distances`, (b, G) in any rising function of distance."""
    same = identities[:, None] == gallery_identities
    left_out = (gallery_identities == JUNK) | (same & (cameras[:, None] == gallery_cameras))
    match = same & ~left_out & (identities[:, None] > 0)
    order = distances.masked_fill_(left_out, torch.inf).argsort(dim=1, stable=True)
    rows, ranks = match.gather(1, order).nonzero(as_tuple=True)  # row by row, best first
    matches = match.sum(dim=1)
    before = matches.cumsum(0) - matches  # hits of the rows above
    hit = torch.arange(1, len(rows) + 1, device=rows.device) - before[rows]
    precision = hit.double() / (ranks + 1)
    total = torch.zeros(len(match), dtype=torch.float64, device=rows.device).index_add_(0, rows, precision)
    first = torch.zeros_like(matches).index_add_(0, rows, (ranks + 1) * (hit == 1))
    return QueryResults(total / matches.clamp_min(1), first, matches)


def _check(query: Tensor, gallery: Tensor, *labels: Tensor) -> None:
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise InputError(
            f"query and gallery: expected (Q, D) and (G, D), got {tuple(query.shape)} and {tuple(gallery.shape)}"
        )
    if len(query) == 0 or len(gallery) == 0:
        raise InputError(f"nothing to rank: {len(query)} queries and {len(gallery)} gallery images")
    names = ("query_identities", "query_cameras", "gallery_identities", "gallery_cameras")
    for name, values, rows in zip(names, labels, (query, query, gallery, gallery), strict=True):
        if tuple(values.shape) != (len(rows),):
            raise InputError(f"{name}: expected one integer for each of {len(rows)} images, got {tuple(values.shape)}")
    for name, rows in (("query", query), ("gallery", gallery)):
        bad = (~torch.isfinite(rows).all(dim=1)).nonzero().squeeze(1)
        if len(bad):
            raise InputError(
                f"{name}: {len(bad)} of {len(rows)} feature rows are not finite, the first is row {int(bad[0])}"
            )
