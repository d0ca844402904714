"""Features -> cluster labels: the estimator around neighbours, graph and DBSCAN."""

from __future__ import annotations

from rapids_slr.clustering.cameras import centre_cameras, check_cameras, takes_centre
from rapids_slr.clustering.dbscan import dbscan, drop_small, radius
from rapids_slr.clustering.jaccard import add_source_term, jaccard_graph, source_reach
from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.clustering.neighbours import check_features, nearest_neighbours
from rapids_slr.engine.arrays import Array, csr_like, like, on_torch_stream
from rapids_slr.errors import InputError
from rapids_slr.marks import step
from rapids_slr.settings.estimator import Estimator
from rapids_slr.settings.keys import check_keys

checked = step("neighbours")(check_features)  # a look at every feature, which a profile would miss

CHOICES = "be {most} or {last},"
"""How messages list the words that a key takes."""


class JaccardDBSCAN(JaccardDBSCANKeys, Estimator):
    """DBSCAN on the k-reciprocal Jaccard distance, without an N x N matrix.

    After `fit`: `labels_` (N,) int32 with -1 = outlier, `eps_`, `graph_` (CSR of the distances of all pairs with J < 1,
    both triangles without the diagonal, zeros stored), `recall_` (share of the neighbours that an approximate search
    found, measured on a sample; 1 for an exact one), `n_features_in_`. Arrays are of the library of the features and on
    their device.
    """

    estimator_type = "clusterer"

    def fit(self, features, y=None, *, source=None, cameras=None) -> JaccardDBSCAN:
        """Cluster unit rows.

        Args:
            features: (N, D) array or tensor, NumPy, CuPy or torch, on the CPU or on CUDA, finite unit rows.
            y: ignored, for scikit-learn.
            source: (M, D) features of the source domain; used where source_weight > 0.
            cameras: (N,) integers, the camera of every image; used unless the key `cameras` is `ignore`.
        Raises: InputError for features or settings that cannot be used; rows are named.
        """
        self._check_settings()
        with on_torch_stream(features):
            return self._fit(features, source, cameras)

    def _fit(self, features, source, cameras) -> JaccardDBSCAN:
        x_ND = checked(features)
        needed = max(self.k1 + 1, self.k2)  # k2 counts the image itself, k1 does not
        if len(x_ND) < needed:
            raise InputError(
                f"features: {len(x_ND)} rows, but k1={self.k1} and k2={self.k2} need at least {needed}; "
                "lower k1 and k2 or give more images"
            )
        if self.source_weight > 0 and source is None:
            raise InputError(f"source: source_weight={self.source_weight} needs the features of the source domain")

        plain_ND, camera_N = x_ND, None if cameras is None else check_cameras(cameras, len(x_ND))
        if takes_centre(self.cameras, camera_N):
            assert camera_N is not None
            x_ND = centre_cameras(x_ND, camera_N)
        neighbours = nearest_neighbours(x_ND, needed, approximate=self.search == "approximate")
        graph = jaccard_graph(x_ND, neighbours, self.k1, self.k2)
        if self.source_weight > 0:
            reach_N = source_reach(plain_ND, checked(source, "source"))  # the source has cameras of its own
            graph = add_source_term(graph, reach_N, self.source_weight)
        self._graph = graph
        labels_N, self.eps_ = self._labels_at(self.pairs_per_image, self.rho, self.eps)
        self.labels_ = like(labels_N, features)
        self.recall_ = 1.0 if neighbours.recall is None else neighbours.recall
        self.n_features_in_ = x_ND.shape[1]
        return self

    def fit_predict(self, features, y=None, *, source=None, cameras=None):
        """fit, then `labels_`: (N,) int32 of the library of the features, -1 = outlier."""
        return self.fit(features, source=source, cameras=cameras).labels_

    @property
    def graph_(self):
        """CSR of the distances; made when it is asked for, as torch's takes twice the memory of the graph itself."""
        if not hasattr(self, "_graph"):
            raise AttributeError("graph_ is there after fit")
        graph = self._graph
        with on_torch_stream(self.labels_):
            return csr_like(graph.indptr, graph.indices, graph.distances, (graph.N, graph.N), self.labels_)

    def labels_at(self, *, pairs_per_image=None, rho=None, eps=None):
        """Labels of the features fitted at another radius: (N,) int32 of the library of `labels_`, -1 = outlier.

        The graph is used again, which costs next to nothing beside making it. One of the three, as in the class.

        Raises: NotFittedError before fit; InputError for a radius that cannot be used.
        """
        if not hasattr(self, "_graph"):
            from sklearn.exceptions import NotFittedError  # slow to import, and seldom needed

            raise NotFittedError(
                "This JaccardDBSCAN instance is not fitted yet. Call 'fit' with appropriate arguments before using "
                "this estimator."
            )
        self._check_radius({"pairs_per_image": pairs_per_image, "rho": rho, "eps": eps})
        with on_torch_stream(self.labels_):
            return like(self._labels_at(pairs_per_image, rho, eps)[0], self.labels_)

    def _labels_at(self, pairs_per_image: float | None, rho: float | None, eps: float | None) -> tuple[Array, float]:
        if eps is None:
            eps = radius(self._graph, pairs_per_image=pairs_per_image, rho=rho)
        return drop_small(dbscan(self._graph, eps, self.min_samples, self.solver), self.min_size), float(eps)

    def _check_settings(self) -> None:
        check_keys(self, choices=CHOICES)
        self._check_radius({name: getattr(self, name) for name in ("pairs_per_image", "rho", "eps")})

    def _check_radius(self, rules: dict[str, float | None]) -> None:
        check_keys(self, rules)
        if all(value is None for value in rules.values()):
            raise InputError("give one of pairs_per_image, rho and eps; all three are None")
