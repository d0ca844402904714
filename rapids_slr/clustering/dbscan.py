"""DBSCAN on the sparse graph: the radius, the clusters, and the estimator around them."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from rapids_slr.clustering.cuml_dbscan import dbscan_cuml, takes_cuml
from rapids_slr.clustering.jaccard import Graph, add_source_term, jaccard_graph, of_rows, source_reach
from rapids_slr.clustering.neighbours import check_features, nearest_neighbours
from rapids_slr.engine.arrays import Array, array_module, csr_like, like, on_torch_stream
from rapids_slr.errors import InputError
from rapids_slr.kernels import dbscan as kernel
from rapids_slr.kernels.smallest import sum_of_smallest


def radius(graph: Graph, *, pairs_per_image: float | None = None, rho: float | None = None) -> float:
    """eps of DBSCAN: the mean of the smallest nonzero distances of pairs of images.

    Args:
        pairs_per_image: average round(pairs_per_image * N) pairs, which means the same at every N.
        rho: takes its place: average round(rho * M) of the M pairs at a nonzero distance (ABMT: 2e-3).
    Returns: a float that float32 holds exactly; 0 if every distance is 0.

    Pairs that are not stored take part with their distance once the stored ones are used up.
    """
    N, xp = graph.N, array_module(graph.distances)
    nonzero = int(xp.count_nonzero(graph.distances)) // 2  # every pair is stored twice
    M = N * (N - 1) // 2 - (graph.distances.size // 2 - nonzero)
    if rho is not None:
        count = round(rho * M)
    elif pairs_per_image is not None:
        count = round(pairs_per_image * N)
    else:
        raise InputError("radius: give pairs_per_image or rho")
    count = min(max(count, 1), M)
    if count == 0:
        return 0.0
    if graph.reach_N is not None:
        return float(np.float32(_mean_with_source(graph, graph.reach_N, count)))
    stored = min(count, nonzero)
    total = sum_of_smallest(graph.distances, 2 * stored) / 2 if stored else 0.0
    return float(np.float32((total + (count - stored) * graph.far) / count))


def _mean_with_source(graph: Graph, reach_N: Array, count: int) -> float:
    """Mean of the `count` smallest nonzero distances where pairs that are not stored differ among themselves.

    Those are all pairs of a sorted list of u less the stored ones: counted and summed below any bound without listing
    them, so the bound is found by halving an interval. It stays on the device, and only the mean is waited for.
    """
    xp, reach_N = array_module(reach_N), reach_N.astype(np.float64)
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
    return float((total / 2 + (count - pairs_below(low)) * high) / count)


def dbscan(graph: Graph, eps: float, min_samples: int, solver: str = "auto") -> Array:
    """DBSCAN on the distances of the graph.

    Args:
        eps: largest distance of neighbours, in the distance's own units (0..1); compared as float32.
        min_samples: points within eps, the point itself included, that make a core point.
        solver: of a graph on a GPU: "cuml", "graph" (own kernels) or "auto" (see takes_cuml); labels are equal.
    Returns: int32 (N,), -1 = outlier; clusters are numbered by their first core point, and a border point joins the
        lowest of the clusters it touches, as in scikit-learn and cuML.
    Raises: InputError if eps reaches pairs whose distance the graph does not hold.
    """
    xp = array_module(graph.distances)
    if graph.reach_N is None:
        if eps >= graph.far:  # no pair is further apart
            return xp.full(graph.N, 0 if min_samples <= graph.N else -1, xp.int32)
    else:
        nearest = graph.far + float(xp.partition(graph.reach_N, 1)[:2].sum()) if graph.N > 1 else np.inf
        if eps >= nearest:
            raise InputError(
                f"clusters: eps={eps:.4g} reaches pairs without a common neighbour, which are {nearest:.4g} or more "
                "apart; lower eps, pairs_per_image or rho, or raise k1"
            )
    if takes_cuml(graph, solver):
        return dbscan_cuml(graph, eps, min_samples)
    return kernel.dbscan(graph.indptr, graph.indices, graph.distances, eps, min_samples)


def drop_small(labels_N: Array, min_size: int) -> Array:
    """Labels (N,) int32 in which clusters of fewer than min_size images are outliers; the rest keep their order."""
    if min_size <= 1:
        return labels_N
    xp = array_module(labels_N)
    kept = xp.bincount(labels_N + 1, minlength=1) >= min_size  # outliers are the first
    kept[0] = False
    renumbered = xp.where(kept, xp.cumsum(kept, dtype=xp.int32) - 1, -1).astype(xp.int32)
    return renumbered[labels_N + 1]


class JaccardDBSCAN(ClusterMixin, BaseEstimator):
    """DBSCAN on the k-reciprocal Jaccard distance, without an N x N matrix.

    Args:
        k1: neighbours that must be reciprocal.
        k2: images averaged by query expansion, the image itself included; 1 leaves it out.
        pairs_per_image: eps is the mean of the round(pairs_per_image * N) smallest nonzero distances. Stay below
            (images an identity - 1) / 2.
        rho: takes its place: the same mean over this fraction of all pairs at a nonzero distance (ABMT: 2e-3).
        eps: takes the place of both: a fixed radius, in the distance's own units (0..1).
        min_samples: points within eps, the point itself included, that make a core point.
        min_size: clusters with fewer images become outliers.
        source_weight: lambda of the source term, in [0, 1); above 0, `fit` needs source features.
        search: `exact` nearest neighbours, or `approximate` ones by cuVS, on CUDA alone: for some 100,000 images and
            more.
        solver: DBSCAN on CUDA: `cuml` on all N x N distances, own kernels on the `graph`, or `auto`: cuML where it is
            installed and these distances take a quarter of the free memory at most. Labels are equal.

    After `fit`: `labels_` (N,) int32 with -1 = outlier, `eps_`, `graph_` (CSR of the distances of all pairs with J < 1,
    both triangles without the diagonal, zeros stored), `recall_` (share of the neighbours that an approximate search
    found, measured on a sample; 1 for an exact one), `n_features_in_`. Arrays are of the library of the features and on
    their device.
    """

    def __init__(
        self,
        k1: int = 20,
        k2: int = 6,
        pairs_per_image: float | None = 13,
        rho: float | None = None,
        eps: float | None = None,
        min_samples: int = 4,
        min_size: int = 1,
        source_weight: float = 0.0,
        search: str = "exact",
        solver: str = "auto",
    ) -> None:
        self.k1 = k1
        self.k2 = k2
        self.pairs_per_image = pairs_per_image
        self.rho = rho
        self.eps = eps
        self.min_samples = min_samples
        self.min_size = min_size
        self.source_weight = source_weight
        self.search = search
        self.solver = solver

    def fit(self, features, y=None, *, source=None) -> JaccardDBSCAN:
        """Cluster unit rows.

        Args:
            features: (N, D) array or tensor, NumPy, CuPy or torch, on the CPU or on CUDA, finite unit rows.
            y: ignored, for scikit-learn.
            source: (M, D) features of the source domain; used where source_weight > 0.
        Raises: InputError for features or settings that cannot be used; rows are named.
        """
        self._check_settings()
        with on_torch_stream(features):
            return self._fit(features, source)

    def _fit(self, features, source) -> JaccardDBSCAN:
        x_ND = check_features(features)
        needed = max(self.k1 + 1, self.k2)
        if len(x_ND) < needed:
            raise InputError(
                f"features: {len(x_ND)} rows, but k1={self.k1} and k2={self.k2} need at least {needed}; "
                "lower k1 and k2 or give more images"
            )
        if self.source_weight > 0 and source is None:
            raise InputError(f"source: source_weight={self.source_weight} needs the features of the source domain")

        neighbours = nearest_neighbours(x_ND, needed, approximate=self.search == "approximate")
        graph = jaccard_graph(x_ND, neighbours, self.k1, self.k2)
        if self.source_weight > 0:
            reach_N = source_reach(x_ND, check_features(source, "source"))
            graph = add_source_term(graph, reach_N, self.source_weight)
        self._graph = graph
        labels_N, self.eps_ = self._labels_at(self.pairs_per_image, self.rho, self.eps)
        self.labels_ = like(labels_N, features)
        self.recall_ = 1.0 if neighbours.recall is None else neighbours.recall
        self.graph_ = csr_like(graph.indptr, graph.indices, graph.distances, (graph.N, graph.N), features)
        self.n_features_in_ = x_ND.shape[1]
        return self

    def fit_predict(self, features, y=None, *, source=None):
        """fit, then `labels_`: (N,) int32 of the library of the features, -1 = outlier."""
        return self.fit(features, source=source).labels_

    def labels_at(self, *, pairs_per_image=None, rho=None, eps=None):
        """Labels of the features fitted at another radius: (N,) int32 of the library of `labels_`, -1 = outlier.

        The graph is used again, which costs next to nothing beside making it. One of the three, as in the class.

        Raises: NotFittedError before fit; InputError for a radius that cannot be used.
        """
        check_is_fitted(self)
        self._check_radius(pairs_per_image, rho, eps)
        with on_torch_stream(self.labels_):
            return like(self._labels_at(pairs_per_image, rho, eps)[0], self.labels_)

    def _labels_at(self, pairs_per_image: float | None, rho: float | None, eps: float | None) -> tuple[Array, float]:
        if eps is None:
            eps = radius(self._graph, pairs_per_image=pairs_per_image, rho=rho)
        return drop_small(dbscan(self._graph, eps, self.min_samples, self.solver), self.min_size), float(eps)

    def _check_settings(self) -> None:
        for name in ("k1", "k2", "min_samples", "min_size"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
        self._check_radius(self.pairs_per_image, self.rho, self.eps)
        if not 0 <= self.source_weight < 1:
            raise InputError(f"source_weight must lie in [0, 1), got {self.source_weight!r}")
        if self.search not in ("exact", "approximate"):
            raise InputError(f"search must be exact or approximate, got {self.search!r}")
        if self.solver not in ("auto", "cuml", "graph"):
            raise InputError(f"solver must be auto, cuml or graph, got {self.solver!r}")

    @staticmethod
    def _check_radius(pairs_per_image: float | None, rho: float | None, eps: float | None) -> None:
        for name, value, high in (("pairs_per_image", pairs_per_image, np.inf), ("rho", rho, 1), ("eps", eps, np.inf)):
            if value is not None and not 0 < value <= high:
                raise InputError(f"{name} must lie in (0, {high}], got {value!r}")
        if eps is None and rho is None and pairs_per_image is None:
            raise InputError("give one of pairs_per_image, rho and eps; all three are None")
