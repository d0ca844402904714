"""k-reciprocal re-ranking of a gallery for queries, on sparse neighbourhoods.

Q queries, B of them in a block, G gallery images, N = Q + G, D feature size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rapids_slr.clustering.jaccard import list_length, memberships
from rapids_slr.clustering.neighbours import check_features, nearest_neighbours
from rapids_slr.engine.arrays import Array, array_module, like, on_torch_stream, row_of_entry
from rapids_slr.engine.blocks import as_tensor, product
from rapids_slr.errors import InputError
from rapids_slr.kernels.jaccard import jaccard_of_first

BLOCK = 256
"""Queries whose distances are made at a time."""


class Reranking:
    """Re-ranked distances of queries from a gallery, made block by block.

    The neighbours of all N images and the queries' Jaccard distances are kept as lists and as a sparse graph, which the
    constructor makes; no array of N x N, and none of Q x G unless it is asked for.

    Args:
        query, gallery: (Q, D) and (G, D) arrays or tensors of one library and device, finite unit rows.
        k1: neighbours that must be reciprocal, of query and gallery together.
        k2: images, the image itself included, averaged by query expansion; 1 leaves it out.
        lambda_value: weight of the distance itself against the Jaccard distance, in [0, 1].
        squares: square the squared distances once more, as torchreid does where it is given its default distances.
    Raises: InputError for features or settings that cannot be used.
    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017.
    """

    def __init__(
        self,
        query: Any,
        gallery: Any,
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
        squares: bool = False,
    ) -> None:
        if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
            raise InputError(
                f"re-ranking: expected k1 and k2 of 1 or more and lambda in [0, 1], got {k1}, {k2} and {lambda_value}"
            )
        self._like, self._weight, self._squares = query, lambda_value, squares
        with on_torch_stream(query):
            self._query_QD, self._gallery_GD = check_features(query, "query"), check_features(gallery, "gallery")
            if self._query_QD.shape[1] != self._gallery_GD.shape[1]:
                raise InputError(
                    f"re-ranking: queries of {self._query_QD.shape[1]} dimensions, but a gallery of "
                    f"{self._gallery_GD.shape[1]}"
                )
            xp, Q = array_module(self._query_QD), len(self._query_QD)
            pool_ND = xp.concatenate([self._query_QD, self._gallery_GD])
            check_enough(Q, len(self._gallery_GD), k1, k2)
            neighbours = nearest_neighbours(pool_ND, list_length(k1, k2))
            rows = memberships(pool_ND, neighbours, k1, k2, squares=squares)
            self._furthest_Q = neighbours.furthest_N[:Q]
            self._graph = jaccard_of_first(*rows, Q)

    def block(self, start: int, stop: int) -> Any:
        """Distances (B, G) float32 of the queries [start, stop), in the library of the features; a new array."""
        with on_torch_stream(self._like):
            return like(self._block(start, stop), self._like)

    def _block(self, start: int, stop: int) -> Array:
        query_BD, xp = self._query_QD[start:stop], array_module(self._query_QD)
        indptr, indices, distances = self._graph
        first, last = int(indptr[start]), int(indptr[start + len(query_BD)])
        # Columns are those of the pool; the gallery's come after the queries'.
        column = indices[first:last] - len(self._query_QD)
        row = row_of_entry(indptr[start : start + len(query_BD) + 1] - first, last - first)
        offered = column >= 0
        jaccard_BG = xp.ones((len(query_BD), len(self._gallery_GD)), xp.float32)
        jaccard_BG[row[offered], column[offered]] = distances[first:last][offered]
        far_BG = xp.empty_like(jaccard_BG)
        product(as_tensor(query_BD), as_tensor(self._gallery_GD), as_tensor(far_BG), "ieee")
        furthest_B = self._furthest_Q[start:stop, None]
        far_BG = xp.maximum(0, 2 - 2 * far_BG) / xp.where(furthest_B > 0, furthest_B, 1)
        far_BG = far_BG**2 if self._squares else far_BG
        return np.float32(1 - self._weight) * jaccard_BG + np.float32(self._weight) * far_BG


def check_enough(queries: int, images: int, k1: int = 20, k2: int = 6) -> None:
    """Raises: InputError if query and gallery together are too few for lists of neighbours."""
    if queries + images < list_length(k1, k2):
        raise InputError(
            f"re-ranking: {queries} queries and {images} gallery images, but k1={k1} and k2={k2} need "
            f"{list_length(k1, k2)} together; lower k1 and k2, or do without re-ranking"
        )


def rerank(
    query: Any, gallery: Any, k1: int = 20, k2: int = 6, lambda_value: float = 0.3, squares: bool = False
) -> Any:
    """Re-ranked distances (Q, G) float32, in the library of the features; smaller is more alike.

    The arguments are those of `Reranking`, which gives the same in blocks of queries.

    Example:
        order = rerank(query_features, gallery_features, k1=20, k2=6, lambda_value=0.3).argsort(axis=1)
    """
    found = Reranking(query, gallery, k1, k2, lambda_value, squares)
    parts = [found.block(start, start + BLOCK) for start in range(0, len(query), BLOCK)]
    return torch.cat(parts) if isinstance(query, torch.Tensor) else array_module(query).concatenate(parts)
