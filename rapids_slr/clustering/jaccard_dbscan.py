"""Features -> cluster labels: the estimator around neighbours, graph and DBSCAN."""

from __future__ import annotations

import logging
from dataclasses import replace

from rapids_slr.clustering.cameras import centre_cameras, check_cameras, takes_centre
from rapids_slr.clustering.copies import Copies, search_distinct, with_copies
from rapids_slr.clustering.dbscan import dbscan, drop_small, radius
from rapids_slr.clustering.jaccard import (
    Graph,
    add_source_term,
    graph_without_pairs,
    jaccard_graph,
    list_length,
    source_reach,
)
from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.clustering.neighbours import check_features
from rapids_slr.engine.arrays import Array, csr_like, labels_like, on_torch_stream
from rapids_slr.errors import InputError
from rapids_slr.marks import step
from rapids_slr.settings.estimator import Estimator
from rapids_slr.settings.keys import check_keys

checked = step("neighbours")(check_features)  # a look at every feature, which a profile would miss

log = logging.getLogger(__name__)

CHOICES = "be {most} or {last},"
"""How messages list the words that a key takes."""
COLLAPSED = (
    "features: of %d images no more than %d are distinct, too few for k1=%d: they have collapsed, and only copies are "
    "clustered; look at the network that embedded them (weights that were not loaded, a loss that is not finite or has "
    "nothing to teach, too high a learning rate) and at the images, or lower k1"
)


class JaccardDBSCAN(JaccardDBSCANKeys, Estimator):
    """DBSCAN on the k-reciprocal Jaccard distance, without an N x N matrix.

    Copies, images whose features are equal up to rounding, are one image: neighbours, distances and radius are those of
    the distinct images, and each counts towards `min_samples` as many times as it is there. So copies share a label,
    and do not change the distances of the others. Where no more than k1 images are distinct, `fit` warns that the
    features have collapsed; by a rule the radius is then 0, which leaves copies together and nothing else. With
    `convention="faiss"` copies are images of their own, as in the code it follows, unless one has more than k1.

    After `fit`: `labels_` (N,) int32, in torch int64, with -1 = outlier, `eps_`, `graph_` (CSR of the distances of all
    pairs with J < 1, both triangles without the diagonal, zeros stored; of copies, made when it is first asked for),
    `copies_` (how many images are copies of an earlier one), `recall_` (share of the neighbours that an approximate
    search found, measured on a sample; 1 for an exact one), `n_features_in_`. Arrays are of the library of the features
    and on their device.
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
        needed = list_length(self.k1, self.k2, self.convention)
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
        # As in the peers' code, as far as their lists can hold copies.
        kept = self.k1 if self.convention == "faiss" else 1
        x_ND, neighbours, copies = search_distinct(x_ND, needed, self.search == "approximate", kept)
        if neighbours is None:
            graph = graph_without_pairs(x_ND)
        else:
            graph = jaccard_graph(x_ND, neighbours, self.k1, self.k2, self.convention)
        if copies is not None:
            plain_ND = plain_ND[copies.first_U]
            graph = replace(graph, count_N=copies.count_U)
        if self.source_weight > 0:
            reach_N = source_reach(plain_ND, checked(source, "source"))  # the source has cameras of its own
            graph = add_source_term(graph, reach_N, self.source_weight)
        self.recall_ = 1.0 if neighbours is None or neighbours.recall is None else neighbours.recall
        self.n_features_in_ = x_ND.shape[1]
        self._take(graph, copies, collapsed=neighbours is None)
        labels_N, self.eps_ = self._labels_at(self.pairs_per_image, self.rho, self.eps)
        self.labels_ = labels_like(labels_N, features)
        return self

    def _take(self, graph: Graph, copies: Copies | None, collapsed: bool) -> None:
        """Keep the graph of the distinct images, and say how many they are where there are copies."""
        self._graph, self._copies, self._collapsed, self._whole = graph, copies, collapsed, None
        N = graph.N if copies is None else copies.of_N.size
        self.copies_ = N - graph.N
        if collapsed:
            log.warning(COLLAPSED, N, graph.N, self.k1)
        elif self.copies_:
            log.info("features: %d of %d images are copies of others", self.copies_, N)

    @property
    def graph_(self):
        self._check_fitted()
        if self._whole is None:
            with on_torch_stream(self.labels_):
                graph = self._graph if self._copies is None else with_copies(self._graph, self._copies)
                self._whole = csr_like(graph.indptr, graph.indices, graph.distances, (graph.N, graph.N), self.labels_)
        return self._whole

    def fit_predict(self, features, y=None, *, source=None, cameras=None):
        """fit, then `labels_`: (N,) int32, int64 in torch, of the library of the features, -1 = outlier."""
        return self.fit(features, source=source, cameras=cameras).labels_

    def labels_at(self, *, pairs_per_image=None, rho=None, eps=None):
        """Labels of the features fitted at another radius: as `labels_`, -1 = outlier.

        The graph is used again, which costs next to nothing beside making it. One of the three, as in the class.

        Raises: NotFittedError before fit; InputError for a radius that cannot be used.
        """
        self._check_fitted()
        self._check_radius({"pairs_per_image": pairs_per_image, "rho": rho, "eps": eps})
        with on_torch_stream(self.labels_):
            return labels_like(self._labels_at(pairs_per_image, rho, eps)[0], self.labels_)

    def _labels_at(self, pairs_per_image: float | None, rho: float | None, eps: float | None) -> tuple[Array, float]:
        if eps is None:
            eps = 0.0 if self._collapsed else radius(self._graph, pairs_per_image=pairs_per_image, rho=rho)
        labels_N = dbscan(self._graph, eps, self.min_samples, self.solver)
        if self._copies is not None:
            labels_N = labels_N[self._copies.of_N]
        return drop_small(labels_N, self.min_size), float(eps)

    def _check_fitted(self) -> None:
        if not hasattr(self, "_graph"):
            from sklearn.exceptions import NotFittedError  # slow to import, and seldom needed

            raise NotFittedError(
                "This JaccardDBSCAN instance is not fitted yet. Call 'fit' with appropriate arguments before using "
                "this estimator."
            )

    def _check_settings(self) -> None:
        check_keys(self, choices=CHOICES)
        self._check_radius({name: getattr(self, name) for name in ("pairs_per_image", "rho", "eps")})

    def _check_radius(self, rules: dict[str, float | None]) -> None:
        check_keys(self, rules)
        if all(value is None for value in rules.values()):
            raise InputError("give one of pairs_per_image, rho and eps; all three are None")
