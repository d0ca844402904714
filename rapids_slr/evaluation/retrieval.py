"""Retrieval by the Market-1501 protocol: how high the images of a query's identity rank in the gallery.

Q queries, B of them in a block, G gallery images, D feature size, M matches, K answers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rapids_slr.data.layouts import JUNK
from rapids_slr.errors import InputError
from rapids_slr.evaluation.reranking import Reranking


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
    query_QD: Tensor,
    gallery_GD: Tensor,
    identities_Q: Tensor,
    cameras_Q: Tensor,
    identities_G: Tensor,
    cameras_G: Tensor,
    block: int = 256,
    reranking: Reranking | None = None,
) -> dict[str, float]:
    """mAP and CMC over all queries that have a match; the arguments are those of `query_results`.

    Returns: `mAP`, `rank1`, `rank5`, `rank10` as fractions; `queries`, the number counted, and `unmatched`, the number
        left out for want of a match.
    Raises: InputError if no query has a match, or as `query_results` does.
    """
    results = query_results(query_QD, gallery_GD, identities_Q, cameras_Q, identities_G, cameras_G, block, reranking)
    valid, first = results.matches > 0, results.first_match
    sums = [valid.sum(), results.average_precision.sum(), *((valid & (first <= k)).sum() for k in (1, 5, 10))]
    queries, *scores = torch.stack([value.double() for value in sums]).tolist()
    if queries == 0:
        raise InputError(
            f"none of {len(query_QD)} queries has a match among {len(gallery_GD)} gallery images (its identity, "
            "above 0, and another camera); look at how file names tell identity and camera with `rapids-slr data check`"
        )
    means = {name: score / queries for name, score in zip(("mAP", "rank1", "rank5", "rank10"), scores, strict=True)}
    return {**means, "queries": int(queries), "unmatched": len(query_QD) - int(queries)}


@torch.no_grad()
def query_results(
    query_QD: Tensor,
    gallery_GD: Tensor,
    identities_Q: Tensor,
    cameras_Q: Tensor,
    identities_G: Tensor,
    cameras_G: Tensor,
    block: int = 256,
    reranking: Reranking | None = None,
) -> QueryResults:
    """Rank the gallery for every query by Euclidean distance; equal distances rank by gallery index.

    Left out of a query's ranking: junk (identity -1), and images of the query's identity *and* camera. A match has the
    query's identity; identities below 1 (distractors 0) match nothing.

    Args:
        query_QD, gallery_GD: (Q, D) and (G, D) float features on one device.
        identities_Q, cameras_Q, identities_G, cameras_G: (Q,) and (G,) integers.
        block: queries ranked at once; memory is about 30 bytes x block x G. The host waits for a device before the
            first block and not between blocks.
        reranking: of these very features, whose distances take the place of the Euclidean ones.
    Raises: InputError if lengths disagree, there is nothing to rank, or features are not finite.
    """
    _check(query_QD, gallery_GD, identities_Q, cameras_Q, identities_G, cameras_G)
    identities_Q, cameras_Q, identities_G, cameras_G = (
        torch.as_tensor(labels, device=query_QD.device) for labels in (identities_Q, cameras_Q, identities_G, cameras_G)
    )
    half_norms_G = _half_norms(gallery_GD)
    most = _most_matches(identities_G)  # the last the host waits for: blocks are only queued
    results = []
    for start in range(0, len(query_QD), block):
        rows = slice(start, start + block)
        if reranking is None:
            distances_BG = _distances(query_QD[rows], gallery_GD, half_norms_G)
        else:
            distances_BG = reranking.block(start, start + block)
        left_out_BG, match_BG = protocol(identities_Q[rows], cameras_Q[rows], identities_G, cameras_G)
        results.append(_rank(distances_BG, left_out_BG, match_BG, most))
    return QueryResults(*map(torch.cat, zip(*results, strict=True)))


@torch.no_grad()
def nearest_answers(
    query_QD: Tensor,
    gallery_GD: Tensor,
    identities_Q: Tensor,
    cameras_Q: Tensor,
    identities_G: Tensor,
    cameras_G: Tensor,
    most: int,
) -> tuple[Tensor, Tensor]:
    """The gallery images that rank first for a few queries; protocol and arguments are those of `query_results`.

    Args:
        most: answers to a query.
    Returns: (Q, K) int64 rows of the gallery, K at most `most`, -1 where a query has no further answer; (Q, K) bool,
        which of them match. Both on the device of the features.
    Raises: InputError as `query_results` does.
    """
    _check(query_QD, gallery_GD, identities_Q, cameras_Q, identities_G, cameras_G)
    labels = (identities_Q, cameras_Q, identities_G, cameras_G)
    left_out_QG, match_QG = protocol(*(torch.as_tensor(values, device=query_QD.device) for values in labels))
    distances_QG = _distances(query_QD, gallery_GD, _half_norms(gallery_GD)).masked_fill_(left_out_QG, torch.inf)
    index_QK = distances_QG.argsort(dim=1, stable=True)[:, :most]
    return index_QK.masked_fill(left_out_QG.gather(1, index_QK), -1), match_QG.gather(1, index_QK)


def protocol(identities_B: Tensor, cameras_B: Tensor, identities_G: Tensor, cameras_G: Tensor) -> tuple[Tensor, Tensor]:
    """What Market-1501 leaves out of the ranking of every query, and what of the rest matches it; both (B, G) bool.

    Source: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """
    same_BG = identities_B[:, None] == identities_G
    left_out_BG = (identities_G == JUNK) | (same_BG & (cameras_B[:, None] == cameras_G))
    return left_out_BG, same_BG & ~left_out_BG & (identities_B[:, None] > 0)


def _half_norms(gallery_GD: Tensor) -> Tensor:
    return gallery_GD.square().sum(dim=1) / 2


def _distances(query_BD: Tensor, gallery_GD: Tensor, half_norms_G: Tensor) -> Tensor:
    """(B, G), which rise with the Euclidean distance of a row's query."""
    return half_norms_G.addmm(query_BD, gallery_GD.T, alpha=-1)


def _most_matches(identities_G: Tensor) -> int:
    """Gallery images of the identity that has most, at least 1."""
    _, counts = torch.unique(identities_G[identities_G > 0], return_counts=True)
    return max(1, int(counts.max())) if len(counts) else 1


def _rank(distances_BG: Tensor, left_out_BG: Tensor, match_BG: Tensor, most: int) -> QueryResults:
    """Results of the queries that are the rows of `distances_BG`, any rising function of distance; it is written to.

    Args:
        most: matches that a query can have.
    """
    order_BG = distances_BG.masked_fill_(left_out_BG, torch.inf).argsort(dim=1, stable=True)
    G, device = distances_BG.shape[1], distances_BG.device
    from_last_G = torch.arange(G, 0, -1, dtype=torch.int32, device=device)  # rank 1 is G from the last
    hits_BM = torch.where(match_BG.gather(1, order_BG), from_last_G, 0).topk(most, dim=1).values  # best first
    ranks_BM, matches_B = G + 1 - hits_BM, match_BG.sum(dim=1)
    precision_BM = torch.arange(1, most + 1, device=device).double() / ranks_BM
    total_B = torch.where(hits_BM > 0, precision_BM, 0.0).cumsum(dim=1)[:, -1]
    first_B = torch.where(matches_B > 0, ranks_BM[:, 0], 0).long()
    return QueryResults(total_B / matches_B.clamp_min(1), first_B, matches_B)


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
        kind = torch.as_tensor(values).dtype
        if name.endswith("identities") and not (kind.is_signed or kind == torch.bool):
            wrapped = torch.iinfo(kind).max
            if bool((torch.as_tensor(values) == wrapped).any()):
                raise InputError(
                    f"{name}: {wrapped} is what -1 (junk) becomes without a sign; give identities with one (int64)"
                )
    for name, rows in (("query", query), ("gallery", gallery)):
        bad = (~torch.isfinite(rows).all(dim=1)).nonzero().squeeze(1)
        if len(bad):
            raise InputError(
                f"{name}: {len(bad)} of {len(rows)} feature rows are not finite, the first is row {int(bad[0])}"
            )
