"""The projection of last epoch's clusters onto this epoch's."""

from __future__ import annotations

import numpy as np

from rapids_slr.arrays import Array
from rapids_slr.refinement.overlap import Overlap

GRID = 2.0**50  # IoUs are rounded to multiples of 1 / GRID, so that the sum of a row does not depend on its order


def project(overlap: Overlap) -> tuple[Array, Array, Array]:
    """Intersection over union of every old and new cluster, each row divided by its sum.

    Returns: CSR (P, K) of indptr int64, indices int32 ascending, values float64; rows sum to 1, or are empty for a
        cluster none of whose images is clustered now.
    Source: Eqs. 1-2 of Zia-ur-Rehman et al., arXiv:2410.14242.
    """
    indptr, now, shared = overlap.shared
    before = np.repeat(np.arange(overlap.size_P.size), np.diff(indptr))
    iou = shared / (overlap.size_P[before] + overlap.size_K[now] - shared)
    iou = np.rint(iou * GRID) / GRID
    total_P = np.bincount(before, weights=iou, minlength=overlap.size_P.size)
    return indptr, now, iou / total_P[before]
