"""How many images the clusters of two epochs share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rapids_slr.arrays import Array
from rapids_slr.kernels.label_pairs import label_pairs


@dataclass(frozen=True)
class Overlap:
    """The Q pairs (label before, label now) that occur among N images, sorted, outliers (-1) included."""

    before_Q: Array
    """int32, in [-1, P)."""
    now_Q: Array
    """int32, in [-1, K)."""
    count_Q: Array
    """int64, images of the pair."""
    pair_N: Array
    """int32, the pair of an image."""
    size_P: Array
    """int64, images of each cluster before, whatever they are now."""
    size_K: Array
    """int64, images of each cluster now."""

    @cached_property
    def shared(self) -> tuple[Array, Array, Array]:
        """Images in both of two clusters: CSR (P, K) of indptr int64, indices int32 ascending, counts int64."""
        both_Q = (self.before_Q >= 0) & (self.now_Q >= 0)
        indptr = np.zeros(self.size_P.size + 1, np.int64)
        np.cumsum(np.bincount(self.before_Q[both_Q], minlength=self.size_P.size), out=indptr[1:])
        return indptr, self.now_Q[both_Q], self.count_Q[both_Q]


def overlap(before_N: Array, now_N: Array) -> Overlap:
    """Count the images of every pair of labels.

    Args:
        before_N, now_N: int32 labels of the same images, -1 = outlier; clusters count up to the largest label.
    """
    P, K = int(before_N.max(initial=-1)) + 1, int(now_N.max(initial=-1)) + 1
    before_Q, now_Q, count_Q, pair_N = label_pairs(before_N, now_N, P, K)
    size_P, size_K = np.zeros(P, np.int64), np.zeros(K, np.int64)
    np.add.at(size_P, before_Q[before_Q >= 0], count_Q[before_Q >= 0])
    np.add.at(size_K, now_Q[now_Q >= 0], count_Q[now_Q >= 0])
    return Overlap(before_Q, now_Q, count_Q, pair_N, size_P, size_K)
