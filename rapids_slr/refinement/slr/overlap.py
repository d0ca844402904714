"""How many images the clusters of two epochs share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.label_pairs import label_pairs
from rapids_slr.marks import step


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
        xp = array_module(self.count_Q)
        both = xp.flatnonzero((self.before_Q >= 0) & (self.now_Q >= 0))
        # Pairs are sorted, so a row begins where its cluster is first met.
        indptr = xp.searchsorted(self.before_Q[both], xp.arange(self.size_P.size + 1, dtype=xp.int32))
        return indptr, self.now_Q[both], self.count_Q[both]


@step("contingency")
def overlap(before_N: Array, now_N: Array) -> Overlap:
    """Count the images of every pair of labels.

    Args:
        before_N, now_N: int32 labels of the same images, -1 = outlier; clusters count up to the largest label.
    """
    return Overlap(*label_pairs(before_N, now_N))
