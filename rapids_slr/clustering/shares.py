"""Nearest neighbours among features of which every process of a group holds its share, on the CPU.

Every two shares are multiplied by one of their two processes: each takes those of the processes before it in the ring,
up to half of them, block by block, and gives back what it found for their images. So all have as much to do, and none
ever holds more than its share and one block. Lists are settled exactly, so that they depend on no process and no block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rapids_slr.clustering.neighbours import Neighbours, by_pairs, similarities_cpu
from rapids_slr.clustering.tiles import multiply
from rapids_slr.engine import blocks
from rapids_slr.group import Group
from rapids_slr.kernels import nearest


@dataclass(frozen=True)
class Images:
    """Some of the images, and what is known of them so far."""

    part: nearest.Part
    settled: nearest.Settled

    def rows(self, rows: range) -> Images:
        """Those of them that are among `rows` of all images; nothing is copied."""
        own, at = self.part, slice(rows.start - self.part.first, rows.stop - self.part.first)
        shift_N = own.of.shift_N
        of = own.of._replace(x_ND=own.of.x_ND[at], shift_N=None if shift_N is None else shift_N[at])
        near, far = (nearest.Lists(*(x[at] for x in lists)) for lists in own.candidates)
        part = nearest.Part(own.features_ND[at], of, own.k, nearest.Candidates(near, far), rows.start)
        return Images(part, nearest.Settled(*(x[at] for x in self.settled)))


def nearest_of_shares_cpu(
    features_ND: np.ndarray, N: int, k: int, group: Group, progress: Callable[[int], None] | None = None
) -> Neighbours:
    """`nearest_on_cpu` of all N images, of which this process holds its share: the same bits, on every process.

    Args:
        k: neighbours of an image beside itself.
    """
    own, held = group.share(N), max(k, 1)
    part = nearest.part(features_ND, similarities_cpu(features_ND, N, held, group), held, own.start)
    unknown_N = np.full(len(own), np.inf)
    images = Images(part, nearest.nobody_cpu(held, unknown_N, unknown_N))
    turns = [(by, *_turn(group, N, group.rank, by)) for by in range(1, group.size // 2 + 1)]
    tell = by_pairs(progress, N, len(own) ** 2 + 2 * sum(len(mine) * len(theirs) for _, mine, theirs in turns))
    multiply(part, part, tell)
    nearest.take(part, part, images.settled)
    space = np.empty((min(blocks.STRIP, N), features_ND.shape[1]), np.float32)
    for by, mine, theirs in turns:
        asked = _turn(group, N, group.rank + by, by)[1]  # rows of this process, by the one that many places on
        for start in range(0, max(len(theirs), len(asked)), blocks.STRIP):
            came, sent = (rows[start : start + blocks.STRIP] for rows in (theirs, asked))
            block = _received_cpu(images.rows(sent), by, came, space[: len(came)], group)
            _meet(images.rows(mine), block, tell)
            _give_back_cpu(block.settled, by, images.rows(sent).settled, group)
    index_nk, distance_nk, furthest_n = nearest.finished_cpu(part, images.settled)
    index_Nk, distance_Nk = (group.gather(np.ascontiguousarray(x[:, : k + 1])) for x in (index_nk, distance_nk))
    return Neighbours(index_Nk, distance_Nk, group.gather(furthest_n))


def _turn(group: Group, N: int, rank: int, by: int) -> tuple[range, range]:
    """Which of its rows a process multiplies with which rows of the one `by` places back.

    Processes that are opposite each other would do so twice: one of them leaves out half of the other's rows, and that
    one the same half of its own.
    """
    rank, back = rank % group.size, (rank - by) % group.size
    own, theirs = group.share(N, rank), group.share(N, back)
    if 2 * by != group.size:
        return own, theirs
    return (own, theirs[: len(theirs) // 2]) if rank < back else (own[len(own) // 2 :], theirs)


def _received_cpu(sent: Images, by: int, came: range, space_MD: np.ndarray, group: Group) -> Images:
    """Images `came` of the process `by` places back, for `sent`: features, and how near and how far is known so far."""
    bounds_M2 = np.empty((len(came), 2))
    features_MD = group.ring(sent.part.features_ND, by, space_MD)
    group.ring(np.column_stack([sent.settled.distance_NK[:, -1], sent.settled.opposite_N]), by, bounds_M2)
    k = sent.part.k
    part = nearest.part(features_MD, nearest.of_others(sent.part.of, features_MD), k, came.start)
    return Images(part, nearest.nobody_cpu(k, *bounds_M2.T))


def _meet(own: Images, block: Images, tell: Callable[[int], None]) -> None:
    """Settle what images of two processes are to each other."""
    nearest.take(block.part, own.part, block.settled)  # of no candidates yet, only what they must be nearer than
    multiply(own.part, block.part, tell)
    nearest.take(own.part, block.part, own.settled)
    nearest.take(block.part, own.part, block.settled)


def _give_back_cpu(found: nearest.Settled, by: int, own: nearest.Settled, group: Group) -> None:
    """Send lists to the process `by` places back, and merge what the one as far on has found into one's own."""
    others = nearest.Settled(*(group.ring(theirs, -by, np.empty_like(x)) for theirs, x in zip(found, own, strict=True)))
    nearest.merge(own, others)
