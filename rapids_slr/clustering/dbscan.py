"""DBSCAN on the sparse graph: the radius, the clusters, and those that are too small."""

from __future__ import annotations

import numpy as np

from rapids_slr.clustering.cuml_dbscan import dbscan_cuml, takes_cuml
from rapids_slr.clustering.jaccard import Graph, of_rows
from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.errors import InputError
from rapids_slr.kernels import dbscan as kernel
from rapids_slr.kernels.smallest import sum_of_smallest
from rapids_slr.marks import step


@step("DBSCAN")
def radius(graph: Graph, *, pairs_per_image: float | None = None, rho: float | None = None) -> float:
    """eps of DBSCAN: the mean of the smallest nonzero distances of pairs of images.

    Args:
        pairs_per_image: average round(pairs_per_image * N) pairs, which means the same at every N.
        rho: takes its place: average round(rho * M) of the M pairs at a nonzero distance (ABMT: 2e-3).
    Returns: a float that float32 holds exactly; 0 if every distance is 0.

    Pairs that are not stored take part at `far`, and the source term, once the stored ones are used up: a graph has to
    hold all pairs nearer than 1, or as many of the nearest as are averaged (`Distances.smallest`).
    """
    N, xp = graph.N, array_module(graph.distances)
    nonzero = int(xp.count_nonzero(graph.distances)) // 2  # every pair is stored twice
    M = N * (N - 1) // 2 - (graph.distances.size // 2 - nonzero)  # without the pairs at distance 0
    count = pairs_averaged(N, M, pairs_per_image, rho)
    if count == 0:
        return 0.0
    if graph.reach_N is not None:
        return float(np.float32(_mean_with_source(graph, graph.reach_N, count)))
    # The stored pairs are the nearest; those missing to `count` are at `far`.
    stored = min(count, nonzero)
    total = sum_of_smallest(graph.distances, 2 * stored) / 2 if stored else 0.0
    # As DBSCAN compares it: rounding there must not move the radius past a distance.
    return float(np.float32((total + (count - stored) * graph.far) / count))


def pairs_averaged(N: int, M: int, pairs_per_image: float | None, rho: float | None) -> int:
    """How many pairs a rule for the radius averages, of M at a nonzero distance among N images."""
    if rho is None and pairs_per_image is None:
        raise InputError("radius: give pairs_per_image or rho")
    count = round(rho * M) if rho is not None else round((pairs_per_image or 0) * N)
    return min(max(count, 1), M)


def _mean_with_source(graph: Graph, reach_N: Array, count: int) -> float:
    """Mean of the `count` smallest nonzero distances where pairs that are not stored differ among themselves.

    Those are all pairs of a sorted list of u less the stored ones: counted and summed below any bound without listing
    them, so the bound is found by halving an interval. It stays on the device, and only the mean is waited for.
    """
    xp, reach_N = array_module(reach_N), reach_N.astype(np.float64)
    # What the stored pairs would be at if they were not stored: their share of the list of all.
    as_if_far = graph.far + of_rows(reach_N, graph) + reach_N[graph.indices]
    nonzero = graph.distances[graph.distances > 0].astype(np.float64)
    reach_N, place_N = xp.sort(reach_N), xp.arange(graph.N)

    def partners(bound: Array) -> tuple[Array, Array]:
        """Of each image, how many are at most `bound` away as if none were stored, and whether it is one of them."""
        partners_N = xp.searchsorted(reach_N, bound - graph.far - reach_N, side="right")
        return partners_N, partners_N > place_N

    def pairs_below(bound: Array) -> Array:
        """How many pairs at a nonzero distance are at most `bound` apart."""
        partners_N, itself_N = partners(bound)
        # Either image of a pair counts it.
        return (xp.sum(nonzero <= bound) + xp.sum(partners_N) - xp.sum(itself_N) - xp.sum(as_if_far <= bound)) / 2

    low, high = xp.zeros(()), graph.far + 2 * reach_N[-1] + 1
    for _ in range(40):  # to 4e-12 at worst
        middle = (low + high) / 2
        enough = pairs_below(middle) >= count
        low, high = xp.where(enough, low, middle), xp.where(enough, middle, high)
    partners_N, itself_N = partners(low)
    before_N = xp.concatenate([xp.zeros(1), xp.cumsum(reach_N)])
    total = xp.sum(partners_N * (graph.far + reach_N) + before_N[partners_N])
    total = total - xp.sum(xp.where(itself_N, graph.far + 2 * reach_N, 0))
    total = total + xp.sum(xp.where(nonzero <= low, nonzero, 0)) - xp.sum(xp.where(as_if_far <= low, as_if_far, 0))
    # Pairs that are missing to `count` tie at the bound.
    return float((total / 2 + (count - pairs_below(low)) * high) / count)


@step("DBSCAN")
def dbscan(graph: Graph, eps: float, min_samples: int, solver: str = "auto") -> Array:
    """DBSCAN on the distances of the graph.

    Args:
        eps: largest distance of neighbours, in the distance's own units (0..1); compared as float32.
        min_samples: points within eps, the point itself included, that make a core point; an image counts for as many
            as it stands for.
        solver: of a graph on a GPU: "cuml", "graph" (own kernels) or "auto", the same; labels are equal. Images with
            counts are for own kernels.
    Returns: int32 (N,), -1 = outlier; clusters are numbered by their first core point, and a border point joins the
        lowest of the clusters it touches, as in scikit-learn and cuML.
    Raises: InputError if eps reaches pairs whose distance the graph does not hold.
    """
    xp = array_module(graph.distances)
    if graph.reach_N is None:
        if eps >= graph.far:  # no pair is further apart
            images = graph.N if graph.count_N is None else int(graph.count_N.sum())
            return xp.full(graph.N, 0 if min_samples <= images else -1, xp.int32)
    else:
        # The two images of least reach: no pair that is not stored is nearer.
        nearest = graph.far + float(xp.partition(graph.reach_N, 1)[:2].sum()) if graph.N > 1 else np.inf
        if eps >= nearest:
            raise InputError(
                f"clusters: eps={eps:.4g} reaches pairs without a common neighbour, which are {nearest:.4g} or more "
                "apart; lower eps, pairs_per_image or rho, or raise k1"
            )
    if graph.count_N is None and takes_cuml(graph, solver):
        return dbscan_cuml(graph, eps, min_samples)
    return kernel.dbscan(graph.indptr, graph.indices, graph.distances, eps, min_samples, graph.count_N)


@step("DBSCAN")
def drop_small(labels_N: Array, min_size: int, min_share: float = 0.0) -> Array:
    """Labels (N,) int32 in which small clusters are outliers; the rest keep their order.

    Args:
        min_size: images of the smallest cluster that is kept.
        min_share: the same as a share of the typical size, the median over clustered images of the size of their own
            cluster (of two in the middle the smaller).
    """
    if min_size <= 1 and min_share == 0:
        return labels_N
    xp = array_module(labels_N)
    size_K = xp.bincount(labels_N + 1, minlength=1)  # outliers are the first
    size_K[0] = 0
    least = min_size
    if min_share > 0:
        sorted_K = xp.sort(size_K)
        held_K = xp.cumsum(sorted_K)
        typical = sorted_K[xp.searchsorted(held_K, (held_K[-1:] + 1) // 2)]
        least = xp.maximum(min_share * typical, min_size)
    kept = size_K >= least
    kept[0] = False
    renumbered = xp.where(kept, xp.cumsum(kept, dtype=xp.int32) - 1, -1).astype(xp.int32)
    return renumbered[labels_N + 1]
