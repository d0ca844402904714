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
    valid, first = results.matches > 0, results.first_match
    sums = [valid.sum(), results.average_precision.sum(), *((valid & (first <= k)).sum() for k in (1, 5, 10))]
    queries, *scores = torch.stack([value.double() for value in sums]).tolist()
    if queries == 0:
        raise InputError(
            f"none of {len(query)} queries has a match among {len(gallery)} gallery images (its identity, above 0, and "
            "another camera); look at how file names tell identity and camera with `rapids-slr data check`"
        )
    means = {name: score / queries for name, score in zip(("mAP", "rank1", "rank5", "rank10"), scores, strict=True)}
    return {**means, "queries": int(queries), "unmatched": len(query) - int(queries)}


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
        block: queries ranked at once; memory is about 30 bytes x block x G. The host waits for a device before the
            first block and not between blocks.
    Raises: InputError if lengths disagree, there is nothing to rank, or features are not finite.
    """
    _check(query, gallery, query_identities, query_cameras, gallery_identities, gallery_cameras)
    device = query.device
    query_identities, query_cameras, gallery_identities, gallery_cameras = (
        torch.as_tensor(labels, device=device)
        for labels in (query_identities, query_cameras, gallery_identities, gallery_cameras)
    )
    half_norms = gallery.square().sum(dim=1) / 2
    most = _most_matches(gallery_identities)  # the last the host waits for: blocks are only queued
    results = [
        _rank(
            half_norms.addmm(features, gallery.T, alpha=-1),
            identities,
            cameras,
            gallery_identities,
            gallery_cameras,
            most,
        )
        for features, identities, cameras in zip(
            query.split(block), query_identities.split(block), query_cameras.split(block), strict=True
        )
    ]
    return QueryResults(*map(torch.cat, zip(*results, strict=True)))


def _most_matches(gallery_identities: Tensor) -> int:
    """Gallery images of the identity that has most, at least 1."""
    _, counts = torch.unique(gallery_identities[gallery_identities > 0], return_counts=True)
    return max(1, int(counts.max())) if len(counts) else 1


def _rank(
    distances: Tensor,
    identities: Tensor,
    cameras: Tensor,
    gallery_identities: Tensor,
    gallery_cameras: Tensor,
    most: int,
) -> QueryResults:
    """Results of the queries that are the rows of `distances`, (b, G) in any rising function of distance.

    Args:
        most: matches that a query can have.
    """
    same = identities[:, None] == gallery_identities
    left_out = (gallery_identities == JUNK) | (same & (cameras[:, None] == gallery_cameras))
    match = same & ~left_out & (identities[:, None] > 0)
    order = distances.masked_fill_(left_out, torch.inf).argsort(dim=1, stable=True)
    G, device = distances.shape[1], distances.device
    from_last = torch.arange(G, 0, -1, dtype=torch.int32, device=device)  # rank 1 is G from the last
    hits = torch.where(match.gather(1, order), from_last, 0).topk(most, dim=1).values  # (b, most), best first
    ranks, matches = G + 1 - hits, match.sum(dim=1)
    precision = torch.arange(1, most + 1, device=device).double() / ranks
    total = torch.where(hits > 0, precision, 0.0).cumsum(dim=1)[:, -1]
    first = torch.where(matches > 0, ranks[:, 0], 0).long()
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
