"""Soft labels: this epoch's clusters blended with last epoch's, projected onto them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rapids_slr.arrays import Array
from rapids_slr.kernels.soft_rows import soft_rows
from rapids_slr.refinement.overlap import Overlap


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
    """(N,) int32, -1 for an image that is left out."""

    def to_dense(self) -> Any:
        """(R, K) float32, dense."""
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
