"""Copies: images whose features are equal. No more of them are searched for and stored than a neighbour list holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rapids_slr.clustering.jaccard import Graph
from rapids_slr.clustering.neighbours import Neighbours, nearest_neighbours
from rapids_slr.engine.arrays import Array, array_module, row_of_entry, take_rows
from rapids_slr.group import ALONE, Group
from rapids_slr.marks import step

BLOCK = 1024  # rows hashed together
SEED = 0x5EED


@dataclass(frozen=True)
class Copies:
    """Which of N images are equal, and the U that are kept to stand for all, in order: of every set of copies the first
    ones, as many as a list holds; the first stands for those beyond.

    A list of k1 + 1 images then holds all that are kept of a set, and is the same for each of them; with more of them
    the order of files would decide who is in whose list.
    """

    leader_N: Array
    """int64, the first image that is equal."""
    kept_U: Array
    """int64, the images that are kept."""
    of_N: Array
    """int64, which of the kept ones an image is, or which stands for it."""
    count_U: Array
    """int64, how many images each stands for."""

    @property
    def all_kept(self) -> bool:
        return bool(self.kept_U.size == self.of_N.size)

    @property
    def number(self) -> int:
        """Images that are copies of an earlier one."""
        xp = array_module(self.leader_N)
        return int((self.leader_N != xp.arange(self.leader_N.size)).sum())


@step("neighbours")
def find_copies(features_ND: Array, group: Group = ALONE) -> Array | None:
    """The first equal row of each, int64 (N,); None where no two are equal, number by number. 0 and -0 are equal.

    Rows are sorted by a hash of 64 bits and then compared, so that a collision parts equal rows at worst.

    Args:
        features_ND: (N, D) float32, finite, NumPy or CuPy.
        group: its processes hold the features, each its share.
    """
    xp, hash_N = array_module(features_ND), group.gather(_hashes(features_ND))
    N = hash_N.size
    _, first_H, set_N = xp.unique(hash_N, return_index=True, return_inverse=True)
    if first_H.size == N:  # on CUDA the only wait
        return None
    leader_N = first_H[set_N]
    if group.size > 1:
        return _compared_cpu(features_ND, leader_N, group)
    later = xp.flatnonzero(leader_N != xp.arange(N))
    for start in range(0, later.size, BLOCK):
        rows = later[start : start + BLOCK]
        equal = (features_ND[rows] == features_ND[leader_N[rows]]).all(axis=1)
        leader_N[rows] = xp.where(equal, leader_N[rows], rows)
    return leader_N


def _compared_cpu(features_ND: np.ndarray, leader_N: np.ndarray, group: Group) -> np.ndarray:
    """leader_N, of all images, where this is equal number by number, else the image itself."""
    N = leader_N.size
    share = group.share(N)
    leader_n = leader_N[share.start : share.stop].copy()
    order = np.argsort(leader_n, kind="stable")
    for _, first, block_ND in group.blocks(features_ND, N):
        low, high = leader_n[order].searchsorted([first, first + len(block_ND)])
        for start in range(low, high, BLOCK):
            rows = order[start : min(start + BLOCK, high)]
            equal = (features_ND[rows] == block_ND[leader_n[rows] - first]).all(axis=1)
            leader_n[rows[~equal]] = rows[~equal] + share.start
    return group.gather(leader_n)


def kept_rows(features_ND: Array, kept_U: Array, N: int, group: Group = ALONE) -> Array:
    """Rows kept_U of N, int64 ascending; of a group, whose processes hold their shares of the N, a share of them."""
    if group.size == 1:
        return features_ND[kept_U]
    xp, share = array_module(features_ND), group.share(kept_U.size)
    own_U = kept_U[share.start : share.stop]
    kept_UD = xp.empty((own_U.size, features_ND.shape[1]), xp.float32)
    for _, first, block_ND in group.blocks(features_ND, N):
        low, high = own_U.searchsorted([first, first + len(block_ND)])
        kept_UD[low:high] = block_ND[own_U[low:high] - first]
    return kept_UD


def search_kept(
    features_ND: Array,
    k: int,
    most: int,
    approximate: bool = False,
    progress: Callable[[int], None] | None = None,
    group: Group = ALONE,
) -> tuple[Array, Neighbours | None, Copies | None]:
    """The nearest neighbours of the images that are kept, and who the copies are; None where there are none.

    Args:
        k: images of a list, the image itself included.
        most: images that are kept of a set of copies. Sets that are equal up to rounding, at a squared distance of 0,
            are looked at where they are larger.
        progress, group: as `nearest_neighbours` takes them.
    Returns: the features of the kept images, of this process's share, the very array where all are kept; their
        neighbours, None where fewer than k are distinct.
    """
    N, leader_N = group.total(len(features_ND)), find_copies(features_ND, group)
    copies = None if leader_N is None else keep(leader_N, most)
    if copies is not None and not copies.all_kept:
        features_ND = kept_rows(features_ND, copies.kept_U, N, group)
    distinct = N if copies is None else copies.of_N.size - copies.number
    if distinct < k:
        return features_ND, None, copies
    neighbours = nearest_neighbours(features_ND, k, approximate, progress, group)
    leader_U = equal_up_to_rounding(neighbours)
    if leader_U is None:
        return features_ND, neighbours, copies
    inner = keep(leader_U, most)
    if inner.all_kept:
        return features_ND, neighbours, copies
    # The others' places in the lists are for other images: searched once more without them.
    distinct = leader_U.size - inner.number
    features_ND = kept_rows(features_ND, inner.kept_U, leader_U.size, group)
    copies = inner if copies is None else _together(copies, inner)
    if distinct < k:
        return features_ND, None, copies
    return features_ND, nearest_neighbours(features_ND, k, approximate, group=group), copies


def _hashes(features_ND: Array) -> Array:
    """(N,) uint64, a sum of the bits of a row under odd weights, whole numbers that wrap around."""
    xp, (N, D) = array_module(features_ND), features_ND.shape
    weight_D = xp.asarray(np.random.default_rng(SEED).integers(0, 2**63, D, np.uint64) * np.uint64(2) + np.uint64(1))
    hash_N = xp.empty(N, xp.uint64)
    for start in range(0, N, BLOCK):
        bits = (features_ND[start : start + BLOCK] + np.float32(0)).view(xp.uint32)  # -0 becomes 0
        hash_N[start : start + BLOCK] = (bits.astype(xp.uint64) * weight_D).sum(axis=1, dtype=xp.uint64)
    return hash_N


def equal_up_to_rounding(neighbours: Neighbours) -> Array | None:
    """For each image the first of those at distance 0, int64 (N,), by way of others; None where there are none.

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
    return leader_N


def keep(leader_N: Array, most: int) -> Copies:
    """Of every set the first `most` images."""
    xp, N = array_module(leader_N), leader_N.size
    order = xp.argsort(leader_N, kind="stable")  # sets side by side, each in order
    place_N = xp.empty(N, xp.int64)
    place_N[order] = xp.arange(N) - xp.searchsorted(leader_N[order], leader_N[order])
    kept_N = place_N < most
    number_N = xp.cumsum(kept_N) - 1
    of_N = xp.where(kept_N, number_N, number_N[leader_N])
    return Copies(leader_N, xp.flatnonzero(kept_N), of_N, xp.bincount(of_N))


def _together(outer: Copies, inner: Copies) -> Copies:
    """`inner`, copies among the kept images of `outer`, as copies of all images."""
    xp = array_module(outer.of_N)
    of_N = inner.of_N[outer.of_N]
    leader_N = outer.kept_U[inner.leader_N[outer.of_N]]
    return Copies(leader_N, outer.kept_U[inner.kept_U], of_N, xp.bincount(of_N))


def labels_of_all(label_U: Array, copies: Copies) -> Array:
    """Labels int32 (N,) of all images from those of the kept: copies share the lowest that one of them has.

    Of copies that lists tell apart at their ends one can be in a cluster, or in another, and its equal not.
    """
    xp, N = array_module(label_U), copies.of_N.size
    label_N = label_U[copies.of_N].astype(xp.int64)
    value_N = xp.where(label_N < 0, N, label_N)
    order = xp.argsort(copies.leader_N * (N + 1) + value_N)
    lowest_N = value_N[order][xp.searchsorted(copies.leader_N[order], copies.leader_N)]
    label_N = xp.where(lowest_N == N, -1, lowest_N)
    present = xp.bincount(label_N + 1, minlength=1) > 0  # a cluster may have lost all it had
    present[0] = False
    number = xp.where(present, xp.cumsum(present) - 1, -1).astype(xp.int32)
    return number[label_N + 1]


def with_copies(graph: Graph, copies: Copies) -> Graph:
    """The graph of all images from that of the kept ones: those that an image stands for are at distance 0 of it and of
    each other, and at its distances of all others."""
    xp, N = array_module(graph.indptr), copies.of_N.size
    # Every image beside itself: those that it stands for.
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
