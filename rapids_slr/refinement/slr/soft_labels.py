"""Soft labels: this epoch's clusters blended with last epoch's, projected onto them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rapids_slr.engine.arrays import Array, array_module, row_of_entry
from rapids_slr.kernels.argmax import largest
from rapids_slr.kernels.soft_rows import soft_rows
from rapids_slr.marks import step
from rapids_slr.refinement.slr.overlap import Overlap


@dataclass(frozen=True)
class SoftRows:
    """The R distinct soft labels of an epoch, and who has them. Arrays are of the library of the labels given.

    The soft label of image i is row row_of_image[i]; there are far fewer rows than images.
    """

    matrix: Any
    """(R, K) float32 CSR, rows sum to 1."""
    counts: Any
    """(R,) int64, images of a row."""
    row_of_image: Any
    """(N,) int32, in torch int64, -1 for an image that is left out."""

    def to_dense(self) -> Any:
        """(R, K) float32, dense."""
        # SciPy and CuPy say toarray, torch to_dense.
        return self.matrix.toarray() if hasattr(self.matrix, "toarray") else self.matrix.to_dense()


@dataclass(frozen=True)
class Soft:
    """Distinct soft labels as the steps of refinement pass them on."""

    indptr: Array
    """int64 (R + 1,)."""
    indices: Array
    """int32 clusters, ascending within a row."""
    values: Array
    """float64, positive whole multiples of 2^-26; rows sum to 1 within as many 2^-27 as they have entries."""
    row_Q: Array
    """int32 row of a pair of labels, -1 for a pair that is left out."""
    count_R: Array
    """int64 images of a row."""


@step("soft labels")
def soft_labels(
    overlap: Overlap, projection: tuple[Array, Array, Array], alpha: float, outliers: str = "project"
) -> Soft:
    """Blend one-hot clusters with projected ones, once for every pair of labels; equal rows are one row.

    s = alpha * onehot(now) + (1 - alpha) * P[before]. Without a cluster before: onehot(now). Without one now:
    P[before], or left out. Without either, or where no image of the cluster before is clustered now: left out.

    Args:
        alpha: weight of this epoch, in [0, 1].
        outliers: `project`, or `drop` to leave out images without a cluster now.
    Source: Eqs. 3-4 of Zia-ur-Rehman et al., arXiv:2410.14242.
    """
    return Soft(*soft_rows(overlap.before_Q, overlap.now_Q, overlap.count_Q, *projection, alpha, outliers == "project"))


@step("soft labels")
def confident(soft: Soft, min_confidence: float) -> Soft:
    """The soft labels whose largest entry is at least `min_confidence`; pairs with another one are left out."""
    if min_confidence <= 0:
        return soft
    xp = array_module(soft.values)
    # In the type of the largest entries: 0.7 in float64 is above the entry 0.7 in float32.
    kept_R = largest(soft.indptr, soft.values) >= np.float32(min_confidence)
    kept = kept_R[row_of_entry(soft.indptr, soft.values.size)]
    indptr = xp.concatenate((xp.zeros(1, xp.int64), xp.cumsum(xp.diff(soft.indptr)[kept_R])))
    row_R = xp.where(kept_R, xp.cumsum(kept_R) - 1, -1).astype(xp.int32)
    # The last one is for pairs that were left out before.
    row_Q = xp.concatenate((row_R, xp.full(1, -1, xp.int32)))[soft.row_Q]
    return Soft(indptr, soft.indices[kept], soft.values[kept], row_Q, soft.count_R[kept_R])
