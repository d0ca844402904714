"""Nearest neighbours among features of which every process of a group holds its share, on the CPU.

The product of all features is the one that a single process computes, block by block: a block of rows goes by, and each
process multiplies it with those strips of later columns that begin in its share. So every number of processes adds up
the same products in the same order, and no process ever holds more than its share, some rows beyond it, and one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from rapids_slr.clustering.neighbours import Neighbours
from rapids_slr.engine.blocks import BLOCK, STRIP, as_tensor, product
from rapids_slr.group import Group
from rapids_slr.kernels import nearest

HALO = STRIP - BLOCK
"""Rows beyond a share that a strip reaches which begins in it."""


class Part:
    """Some of the images, and their lists: of each its k nearest of those that were offered so far.

    Args:
        features_MD: float32, images `first` on.
        k: images of a list, beside the image itself; above 0.
        of: as `nearest.similarities` gives it, for all images.
    """

    def __init__(self, features_MD: np.ndarray, first: int, k: int, of: nearest.Similarities) -> None:
        M = len(features_MD)
        self.features_MD, self.first, self.stop, self.of = features_MD, first, first + M, of
        self.x_MD = features_MD if of.mean_D is None else features_MD - of.mean_D
        self.candidates = nearest.no_candidates(M, k)
        self.distance_MK, self.near_MK = np.full((M, k), np.inf), np.full((M, k), -1, np.int32)

    @property
    def least_M(self) -> np.ndarray:
        """float32, the smallest similarity seen."""
        return self.candidates.least_N

    def multiply(self, other: Part, column: int, stop: int) -> None:
        """Offer images column .. stop of `other` to all of these and, unless they are the same, these to those."""
        x_JD = other.x_MD[column - other.first : stop - other.first]
        block_IJ = np.empty((len(self.x_MD), len(x_JD)), np.float32)
        product(as_tensor(self.x_MD), as_tensor(x_JD), as_tensor(block_IJ), "ieee")
        nearest.add_shifts(self.of, block_IJ, slice(self.first, self.stop), slice(column, stop))
        nearest.offer_columns(block_IJ, 0, column - other.first, self.first - other.first, *self._with(other))
        if column > self.first:
            nearest.offer_rows(block_IJ, 0, column - other.first, *other._with(self))

    def take(self, other: Part) -> None:
        """Settle what was offered of `other`: before images of a third part are offered."""
        features = self.features_MD, other.features_MD
        nearest.take(self.candidates, *features, other.first, self.of, self.distance_MK, self.near_MK)

    def merge(self, first: int, distance_RK: np.ndarray, near_RK: np.ndarray, least_R: np.ndarray) -> None:
        """Take over lists that somebody else has of images `first` on, as far as they are here."""
        low, high = max(first, self.first), min(first + len(near_RK), self.stop)
        if low < high:
            own, theirs = slice(low - self.first, high - self.first), slice(low - first, high - first)
            nearest.merge(self.distance_MK[own], self.near_MK[own], distance_RK[theirs], near_RK[theirs])
            np.minimum(self.least_M[own], least_R[theirs], out=self.least_M[own])

    def _with(self, other: Part) -> tuple:
        return self.features_MD, other.features_MD, self.near_MK.shape[1], self.of, self.candidates


def nearest_of_shares_cpu(
    features_ND: np.ndarray, N: int, k: int, group: Group, progress: Callable[[int], None] | None = None
) -> Neighbours:
    """`nearest_on_cpu` of all N images, of which this process holds its share: the same bits, on every process.

    Args:
        k: neighbours of an image beside itself.
    """
    of = nearest.similarities(features_ND, group=group)
    own = Part(features_ND, group.share(N).start, max(k, 1), of)
    border: Part | None = None
    beyond: list[np.ndarray] = []
    for rank, first, block_ND in group.blocks(features_ND, N):
        rows = Part(block_ND, first, max(k, 1), of)
        if own.stop <= first < own.stop + HALO:
            beyond.insert(0, block_ND.copy())
        elif border is None and beyond and first < own.stop:
            start = max(own.first, own.stop - HALO)
            border = Part(np.concatenate([features_ND[start - own.first :], *beyond]), start, max(k, 1), of)
        _multiply_cpu(rows, own, border, N)
        lists = [group.at(rank, array) for array in (rows.distance_MK, rows.near_MK, rows.least_M)]
        for theirs in zip(*lists, strict=True):
            own.merge(first, *theirs)
        if progress is not None:
            progress(len(block_ND))
    _share_border_cpu(own, border, group)
    index_NK, distance_NK = nearest.finished_cpu(own.features_MD, own.first, own.distance_MK, own.near_MK)
    least_N = group.gather(own.least_M)
    furthest_N = np.maximum(0, 2 - 2 * (least_N + np.float32(of.offset)))
    furthest_N[furthest_N < nearest.ZERO] = 0
    index_NK, distance_NK = (np.ascontiguousarray(group.gather(x)[:, : k + 1]) for x in (index_NK, distance_NK))
    return Neighbours(index_NK, distance_NK, furthest_N)


def _multiply_cpu(rows: Part, own: Part, border: Part | None, N: int) -> None:
    """Multiply a block of rows with the strips of this process, and settle what comes of it."""
    for part in (own, border):
        used = False
        for column, stop in _strips(rows, N):
            inside = own.first <= column < own.stop
            if inside and part is (own if stop <= own.stop else border):
                assert part is not None
                rows.multiply(part, column, stop)
                used = True
        if used and part is not None:
            rows.take(part)
            part.take(rows)


def _strips(rows: Part, N: int) -> Iterator[tuple[int, int]]:
    """The columns of a block of rows, as `engine.blocks.similarity_blocks` cuts them."""
    yield rows.first, rows.stop
    for column in range(rows.first + BLOCK, N, STRIP):
        yield column, min(column + STRIP, N)


def _share_border_cpu(own: Part, border: Part | None, group: Group) -> None:
    """Take over the lists of the rows around the border, and what other processes have found beyond theirs."""
    part, beyond = own, slice(0, 0)
    if border is not None:
        own.merge(border.first, border.distance_MK, border.near_MK, border.least_M)
        part, beyond = border, slice(own.stop - border.first, None)
    image_M = np.arange(part.first, part.stop)
    found = [group.gather(x[beyond]) for x in (image_M, part.distance_MK, part.near_MK, part.least_M)]
    image_R, lists = found[0], found[1:]
    for run in np.split(np.arange(image_R.size), np.flatnonzero(np.diff(image_R) != 1) + 1):
        if run.size:
            own.merge(int(image_R[run[0]]), *(x[run] for x in lists))
