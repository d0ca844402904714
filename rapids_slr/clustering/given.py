"""Distances and neighbour lists that somebody else has made, checked and brought into the form of our own."""

from __future__ import annotations

from typing import Any

import torch

from rapids_slr.clustering.jaccard import Graph
from rapids_slr.clustering.neighbours import Neighbours, furthest_of_sample
from rapids_slr.engine.arrays import Array, array_module, as_array, csr_like, row_of_entry
from rapids_slr.errors import InputError
from rapids_slr.kernels.nearest import ZERO

GATHERED = 2**26
"""Bytes of the features of neighbours that are measured at a time."""


def given_graph(matrix: Any) -> Graph:
    """A graph from a sparse matrix of distances.

    Args:
        matrix: (N, N) of scipy, cupyx or torch (sparse_csr), symmetric, values 0..1; a stored 0 is a distance, and what
            is not stored is at 1. The diagonal is left out.
    Raises: InputError if it is none, naming a pair.
    """
    if isinstance(matrix, torch.Tensor):
        if matrix.layout != torch.sparse_csr:
            raise InputError(f"graph: expected a sparse_csr tensor, got {matrix.layout}; call .to_sparse_csr()")
        parts = as_array(matrix.crow_indices()), as_array(matrix.col_indices()), as_array(matrix.values())
        csr = csr_like(*parts, (matrix.shape[0], matrix.shape[1]), parts[2])
    else:
        csr = matrix.tocsr().copy()
    if csr.shape[0] != csr.shape[1] or csr.data.dtype.kind not in "fiu":
        raise InputError(f"graph: expected an (N, N) matrix of distances, got {csr.shape} of {csr.data.dtype}")
    csr.sort_indices()
    xp, N = array_module(csr.data), csr.shape[0]
    row = row_of_entry(csr.indptr.astype(xp.int64), csr.data.size)
    bad = xp.flatnonzero(~((csr.data >= 0) & (csr.data <= 1)))  # NaN is neither
    if bad.size:
        e = int(bad[0])
        raise InputError(
            f"graph: expected distances in [0, 1], got {csr.data[e]} between {int(row[e])} and {int(csr.indices[e])} "
            f"({bad.size} such values); divide all by the largest that there can be"
        )
    turned = csr.T.tocsr()
    turned.sort_indices()
    equal = xp.array_equal(turned.indices, csr.indices) and xp.array_equal(turned.indptr, csr.indptr)
    if not equal or bool((xp.abs(turned.data - csr.data) > ZERO).any()):
        raise InputError(
            "graph: the matrix is not symmetric; store every pair twice, at one distance (matrix.maximum(matrix.T))"
        )
    others = row != csr.indices
    distances = csr.data[others].astype(xp.float32)
    indptr = xp.searchsorted(row[others], xp.arange(N + 1))
    return Graph(indptr, csr.indices[others].astype(xp.int32), xp.where(distances < ZERO, 0, distances))


def given_lists(lists: Any, features_ND: Array, needed: int) -> Neighbours:
    """Neighbours from lists of any search: distances, and their order, are settled in float64.

    The largest distance of a row, which `furthest_N` holds, is that to FAR_SAMPLE images, as for an approximate search.

    Args:
        lists: (N, k) whole numbers of near images, in any order; the image itself, gaps (below 0) and repetitions may
            be among them.
        needed: images of a list, the image itself included.
    Raises: InputError for lists that cannot be used; a row is named.
    """
    index_Nk = as_array(lists)
    xp, (N, D) = array_module(features_ND), features_ND.shape
    if index_Nk.ndim != 2 or len(index_Nk) != N or index_Nk.dtype.kind not in "iu" or not index_Nk.shape[1]:
        raise InputError(f"lists: expected ({N}, k) whole numbers, got {index_Nk.shape} {index_Nk.dtype}")
    index_Nk = index_Nk.astype(xp.int64)
    if int(index_Nk.max()) >= N:
        raise InputError(f"lists: image {int(index_Nk.max())} of {N}; images are numbered from 0")
    indices, distances = xp.empty((N, needed), xp.int32), xp.empty((N, needed), xp.float32)
    rows = max(1, GATHERED // (8 * D * index_Nk.shape[1]))
    for start in range(0, N, rows):
        image_I = xp.arange(start, min(start + rows, N))
        part = slice(start, start + len(image_I))
        indices[part], distances[part] = _settled(features_ND, image_I, index_Nk[part], needed)
    furthest_N = distances[:, -1].copy()
    furthest_of_sample(features_ND, furthest_N)
    return Neighbours(indices, distances, xp.where(furthest_N < ZERO, 0, furthest_N).astype(xp.float32))


def _settled(features_ND: Array, image_I: Array, index_Ik: Array, needed: int) -> tuple[Array, Array]:
    """The `needed` nearest of the listed images, the image itself first, then by (distance, index)."""
    xp, N = array_module(features_ND), len(features_ND)
    # Gaps, the image itself and repetitions become N, which sorts to the end.
    index_Ik = xp.sort(xp.where((index_Ik < 0) | (index_Ik == image_I[:, None]), N, index_Ik), axis=1)
    again_Ik = xp.concatenate([xp.zeros((len(index_Ik), 1), xp.bool_), index_Ik[:, 1:] == index_Ik[:, :-1]], axis=1)
    index_Ik = xp.where(again_Ik, N, index_Ik)
    few = xp.flatnonzero((index_Ik < N).sum(axis=1) < needed - 1)
    if few.size:
        i = int(few[0])
        raise InputError(
            f"lists: row {int(image_I[i])} names {int((index_Ik[i] < N).sum())} other images, but k1 and k2 need "
            f"{needed - 1}; give longer lists or lower k1 and k2"
        )
    near_IkD = features_ND[xp.minimum(index_Ik, N - 1)].astype(xp.float64)
    product_Ik = xp.einsum("id,ikd->ik", features_ND[image_I].astype(xp.float64), near_IkD)
    distance_Ik = xp.where(index_Ik < N, 2 - 2 * product_Ik, xp.inf)
    distance_Ik = xp.where(distance_Ik < ZERO, 0, distance_Ik)
    # Stable, so that equal distances stay in the order of images; repetitions are at infinity.
    order_Ik = xp.argsort(distance_Ik, axis=1, kind="stable")[:, : needed - 1]
    indices = xp.concatenate([image_I[:, None], xp.take_along_axis(index_Ik, order_Ik, axis=1)], axis=1)
    near = xp.take_along_axis(distance_Ik, order_Ik, axis=1)
    return indices.astype(xp.int32), xp.concatenate([xp.zeros((len(near), 1)), near], axis=1).astype(xp.float32)
