"""Several clusterings of the same images, projected side by side onto this epoch's."""

from __future__ import annotations

from collections.abc import Sequence

from rapids_slr.engine.arrays import Array, array_module, csr_product
from rapids_slr.marks import step
from rapids_slr.refinement.slr.overlap import Overlap, overlap
from rapids_slr.refinement.slr.projection import project

Projection = tuple[Array, Array, Array]


@step("projection")
def combine(sources: Sequence[Array], now_N: Array) -> tuple[Overlap, Projection]:
    """Read several clusterings as one, whose clusters are the combinations of theirs that occur.

    A combination is projected to the mean of what its clusters are projected to, each by the intersection over union
    with this epoch's; outliers, and clusters none of whose images is clustered now, take no part in a mean. With one
    source this is the projection of Eqs. 1-2; several enter Eqs. 3-4 in its place.

    Args:
        sources: int32 labels of the same images, one array or more, -1 = outlier.
        now_N: int32 labels of this epoch.
    Returns: the overlap of combinations and clusters now, in which -1 are the images that no source has clustered; and
        the projection, CSR of indptr int64, indices int32 ascending, values float64.
    """
    if len(sources) == 1:
        shared = overlap(sources[0], now_N)
        return shared, project(shared)
    xp = array_module(now_N)
    combination_N: Array = sources[0]
    members: list[Array] = []
    # Each further source parts the combinations so far: their pairs with it are the new ones.
    for source_N in sources[1:]:
        pairs = overlap(combination_N, source_N)
        members = [label_T[pairs.before_Q] for label_T in members] or [pairs.before_Q]
        members.append(pairs.now_Q)
        combination_N = pairs.pair_N
    label_TV = xp.stack(members, axis=1)
    empty_T = (label_TV < 0).all(axis=1)
    combination_N = xp.where(empty_T[combination_N], -1, combination_N).astype(xp.int32)
    projections = [project(overlap(source_N, now_N)) for source_N in sources]
    shared = overlap(combination_N, now_N)
    P, K = shared.size_P.size, shared.size_K.size
    return shared, _means(label_TV[:P], projections, K)


def _means(label_TV: Array, projections: Sequence[Projection], K: int) -> Projection:
    """The mean of the rows label_TV[t, v] of projection v, of those that there are, for every t."""
    xp = array_module(label_TV)
    zero = xp.zeros(1, xp.int64)
    length = xp.concatenate([*(xp.diff(indptr) for indptr, _, _ in projections), zero])
    rows = [indptr.size - 1 for indptr, _, _ in projections]
    first_V = xp.asarray([sum(rows[:v]) for v in range(len(rows))])
    row_TV = xp.where(label_TV < 0, length.size - 1, label_TV + first_V)  # outliers have the empty row at the end
    taken_TV = length[row_TV] > 0
    taken_T = taken_TV.sum(axis=1)
    weights = xp.broadcast_to(1.0 / xp.maximum(taken_T, 1)[:, None], row_TV.shape)[taken_TV]
    indptr_T = xp.concatenate((zero, xp.cumsum(taken_T)))
    stacked = xp.concatenate((zero, xp.cumsum(length[:-1])))
    indices, values = (xp.concatenate([projection[part] for projection in projections]) for part in (1, 2))
    return csr_product(
        (indptr_T, row_TV[taken_TV], weights), (stacked, indices, values), (len(label_TV), int(stacked.size) - 1, K)
    )
