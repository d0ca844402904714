"""Copies: images whose features are equal. Each is searched for and stored once, with a count."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rapids_slr.clustering.jaccard import Graph
from rapids_slr.clustering.neighbours import Neighbours, nearest_neighbours
from rapids_slr.engine.arrays import Array, array_module, row_of_entry, take_rows
from rapids_slr.marks import step

BLOCK = 1024  # rows hashed together
SEED = 0x5EED


@dataclass(frozen=True)
class Copies:
    """Which of N images are equal, and the U distinct ones that stand for them, in the order of the first of each."""

    first_U: Array
    """int64, the first image of each."""
    of_N: Array
    """int64, the distinct image that stands for an image."""
    count_U: Array
    """int64, how many images each stands for."""


@step("neighbours")
def find_copies(features_ND: Array) -> Copies | None:
    """Rows that are equal, number by number; None where there are none. 0 and -0 are equal.

    Rows are sorted by a hash of 64 bits and then compared, so that a collision parts equal rows at worst.

    Args:
        features_ND: (N, D) float32, finite, NumPy or CuPy.
    """
    xp, N = array_module(features_ND), len(features_ND)
    _, first_H, group_N = xp.unique(_hashes(features_ND), return_index=True, return_inverse=True)
    if first_H.size == N:  # on CUDA the only wait
        return None
    leader_N = first_H[group_N]
    later = xp.flatnonzero(leader_N != xp.arange(N))
    for start in range(0, later.size, BLOCK):
        rows = later[start : start + BLOCK]
        equal = (features_ND[rows] == features_ND[leader_N[rows]]).all(axis=1)
        leader_N[rows] = xp.where(equal, leader_N[rows], rows)
    return copies_of(leader_N)


def search_distinct(
    features_ND: Array, k: int, approximate: bool = False, kept: int = 1
) -> tuple[Array, Neighbours | None, Copies | None]:
    """The nearest neighbours of the distinct images, and who the copies are; None where there are no copies.

    Args:
        kept: copies stay images of their own where no image is there more often than this.
    Returns: the features of the distinct images, the very array where there are no copies; their neighbours, None where
        fewer than k of them are distinct.
    """
    copies = _more_than(kept, find_copies(features_ND))
    if copies is not None:
        features_ND = features_ND[copies.first_U]
    if len(features_ND) < k:
        return features_ND, None, copies
    neighbours = nearest_neighbours(features_ND, k, approximate)
    inner = _more_than(kept, copies_within_rounding(neighbours))
    if inner is None:
        return features_ND, neighbours, copies
    # Their places in the lists are for others: searched once more without them.
    features_ND = features_ND[inner.first_U]
    copies = inner if copies is None else together(copies, inner)
    enough = len(features_ND) >= k
    return features_ND, nearest_neighbours(features_ND, k, approximate) if enough else None, copies


def _more_than(kept: int, copies: Copies | None) -> Copies | None:
    return None if copies is None or (kept > 1 and int(copies.count_U.max()) <= kept) else copies


def _hashes(features_ND: Array) -> Array:
    """(N,) uint64, a sum of the bits of a row under odd weights, whole numbers that wrap around."""
    xp, (N, D) = array_module(features_ND), features_ND.shape
    weight_D = xp.asarray(np.random.default_rng(SEED).integers(0, 2**63, D, np.uint64) * np.uint64(2) + np.uint64(1))
    hash_N = xp.empty(N, xp.uint64)
    for start in range(0, N, BLOCK):
        bits = (features_ND[start : start + BLOCK] + np.float32(0)).view(xp.uint32)  # -0 becomes 0
        hash_N[start : start + BLOCK] = (bits.astype(xp.uint64) * weight_D).sum(axis=1, dtype=xp.uint64)
    return hash_N


def copies_within_rounding(neighbours: Neighbours) -> Copies | None:
    """Images at distance 0 of an earlier one, which differ by rounding alone; None where there are none.

    Lists are sorted by distance, then index, so that the second place holds the first of the images at distance 0. The
    leader of an image is the last of a chain of such; no two leaders are at distance 0.

    """
    xp, (N, K) = array_module(neighbours.indices_Nk), neighbours.indices_Nk.shape
    if K == 1:
        return None
    second_N = neighbours.indices_Nk[:, 1].astype(xp.int64)
    earlier_N = (neighbours.distances_Nk[:, 1] == 0) & (second_N < xp.arange(N))
    if not bool(earlier_N.any()):
        return None
    leader_N = xp.where(earlier_N, second_N, xp.arange(N))
    while bool((leader_N != leader_N[leader_N]).any()):
        leader_N = leader_N[leader_N]
    return copies_of(leader_N)


def copies_of(leader_N: Array) -> Copies:
    """From the leader int64 (N,) of each image; a leader is its own."""
    xp = array_module(leader_N)
    leads_N = leader_N == xp.arange(leader_N.size)
    of_N = (xp.cumsum(leads_N) - 1)[leader_N]
    return Copies(xp.flatnonzero(leads_N), of_N, xp.bincount(of_N))


def together(outer: Copies, inner: Copies) -> Copies:
    """Copies among the distinct images of `outer`, as copies of all images."""
    return copies_of(outer.first_U[inner.first_U[inner.of_N]][outer.of_N])


def with_copies(graph: Graph, copies: Copies) -> Graph:
    """The graph of all images from that of the distinct ones: copies are at distance 0 of each other, and at the
    distances of the image that stands for them of all others."""
    xp, N = array_module(graph.indptr), copies.of_N.size
    # Every distinct image beside itself: its copies.
    row = xp.concatenate([row_of_entry(graph.indptr, graph.indices.size), xp.arange(graph.N)])
    column = xp.concatenate([graph.indices, xp.arange(graph.N)])
    distance = xp.concatenate([graph.distances, xp.zeros(graph.N, xp.float32)])
    # In place of a column its images.
    member = xp.argsort(copies.of_N, kind="stable")
    member_indptr = xp.concatenate([xp.zeros(1, xp.int64), xp.cumsum(copies.count_U)])
    indptr, place = take_rows(member_indptr, column)
    entry = row_of_entry(indptr, place.size)
    row, column, distance = row[entry], member[place], distance[entry]
    order = xp.argsort(row * N + column)
    row, column, distance = row[order], column[order], distance[order]
    # In place of a row as many as it has images, each without itself.
    indptr, place = take_rows(xp.searchsorted(row, xp.arange(graph.N + 1)), copies.of_N)
    image = row_of_entry(indptr, place.size)
    others = image != column[place]
    image, place = image[others], place[others]
    indptr = xp.searchsorted(image, xp.arange(N + 1))
    reach_N = None if graph.reach_N is None else graph.reach_N[copies.of_N]
    indices = column[place].astype(xp.int32)
    return replace(graph, indptr=indptr, indices=indices, distances=distance[place], reach_N=reach_N, count_N=None)
