"""The projection of last epoch's clusters onto this epoch's."""

from __future__ import annotations

from rapids_slr.engine.arrays import Array
from rapids_slr.kernels.projection import projection
from rapids_slr.marks import step
from rapids_slr.refinement.slr.overlap import Overlap


@step("projection")
def project(overlap: Overlap) -> tuple[Array, Array, Array]:
    """Intersection over union of every old and new cluster, each row divided by its sum.

    Returns: CSR (P, K) of indptr int64, indices int32 ascending, values float64; rows sum to 1, or are empty for a
        cluster none of whose images is clustered now.
    Source: Eqs. 1-2 of Zia-ur-Rehman et al., arXiv:2410.14242.
    """
    indptr, indices, counts = overlap.shared
    return indptr, indices, projection(indptr, indices, counts, overlap.size_P, overlap.size_K)
