"""Features -> cluster labels: the estimator around neighbours, graph and DBSCAN."""

from __future__ import annotations

import logging

import numpy as np
import torch

from rapids_slr.clustering.cameras import centre_cameras, check_cameras, takes_centre
from rapids_slr.clustering.copies import Copies, keep, kept_rows, labels_of_all, search_kept, with_copies
from rapids_slr.clustering.dbscan import dbscan, drop_small, pairs_averaged, radius
from rapids_slr.clustering.distances import Distances
from rapids_slr.clustering.given import given_graph, given_lists
from rapids_slr.clustering.jaccard import graph_without_pairs, list_length, memberships, source_reach
from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.clustering.neighbours import check_features, takes_approximate
from rapids_slr.engine.arrays import Array, array_module, as_array, csr_like, labels_like, on_torch_stream
from rapids_slr.errors import InputError
from rapids_slr.group import ALONE, Group, mean_of_rows
from rapids_slr.kernels.runtime import on_gpu
from rapids_slr.marks import step
from rapids_slr.settings.estimator import Estimator
from rapids_slr.settings.keys import check_keys

checked = step("neighbours")(check_features)  # a look at every feature, which a profile would miss

log = logging.getLogger(__name__)

CHOICES = "be {most} or {last},"
"""How messages list the words that a key takes."""
DENSE = 1000
"""Distances an image above which a graph is called dense, if they are a quarter of all."""
FAR_K1 = (
    "k1=%d is more than twice the %g images of a median cluster, so that lists hold mostly images of others; "
    "lower k1 to about the images of an identity"
)
DENSE_GRAPH = (
    "%d distances an image are below 1, of %d: neighbourhoods meet nearly everywhere, as of features that hardly "
    "cluster or with k1 far above the images of an identity; lower k1, or look at the network that embedded them"
)
ALIKE = 0.98
"""Mean similarity of all images from which on a network is said to find them alike."""
ALL_ALIKE = (
    "features: the similarity of two images is %.4f on average, so that hardly anything tells them apart: they have "
    "collapsed, and clusters are those of small differences; look at the network that embedded them (weights that were "
    "not loaded, a loss that is not finite or has nothing to teach, too high a learning rate) and at the images"
)
COLLAPSED = (
    "features: of %d images no more than %d are distinct, too few for k1=%d: they have collapsed, and only copies are "
    "clustered; look at the network that embedded them (weights that were not loaded, a loss that is not finite or has "
    "nothing to teach, too high a learning rate) and at the images, or lower k1"
)


class JaccardDBSCAN(JaccardDBSCANKeys, Estimator):
    """DBSCAN on the k-reciprocal Jaccard distance, without an N x N matrix.

    Copies, images whose features are equal, share a label (with `convention="faiss"` only if there are more than k1 of
    one, as in the code it follows). Of more copies than a list holds, k1 + 1, or k1 with
    `convention="faiss"`, equal up to rounding too, the first that many are searched for and clustered; the others stand
    beside the first, and count towards `min_samples`. Distances and radius are those of the images that are kept. Where
    no more than k1 images are distinct, `fit` warns that the features have collapsed; a rule then gives the radius 0,
    as wherever all related images are copies, which leaves these together and nothing else.

    After `fit`: `labels_` (N,) int32, in torch int64, with -1 = outlier, `eps_`, `graph_` (CSR of the distances of all
    pairs with J < 1, both triangles without the diagonal, zeros stored; made when it is first asked for),
    `copies_` (how many images are copies of an earlier one), `recall_` (share of the neighbours that an approximate
    search found, measured on a sample; 1 for an exact one, None after `fit_graph`), `n_features_in_`. Arrays are of the
    library of the features and on their device.
    """

    estimator_type = "clusterer"

    def fit(self, features, y=None, *, source=None, cameras=None, progress=None, group=ALONE) -> JaccardDBSCAN:
        """Cluster unit rows.

        Args:
            features: (N, D) array or tensor, NumPy, CuPy or torch, on the CPU or on CUDA, finite unit rows.
            y: ignored, for scikit-learn.
            source: (M, D) features of the source domain; used where source_weight > 0.
            cameras: (N,) integers, the camera of every image; used unless the key `cameras` is `ignore`.
            progress: called with numbers of images, at most N in all, as the search of neighbours goes on.
            group: a `rapids_slr.group.Group` of processes that cluster together: `features` are then those of
                `group.share(N)`, N images in all; cameras and source are whole. All have to call `fit` and
                `labels_at` alike, and all get the same labels, of all images: bit by bit those of one process.
        Raises: InputError for features or settings that cannot be used; rows are named.
        """
        self._check_settings()
        with on_torch_stream(features):
            self._say_doubts(*self._fit(features, source, cameras, progress, group))
        return self

    def _fit(self, features, source, cameras, progress, group: Group) -> tuple[Array, Group]:
        """Fit; returns the features of the images that were clustered, whatever their cameras, and who holds them."""
        x_ND, group = self._held(features, group)
        N = group.total(len(x_ND))
        needed = list_length(self.k1, self.k2, self.convention)
        if needed > N:
            raise InputError(
                f"features: {N} rows, but k1={self.k1} and k2={self.k2} need at least {needed}; "
                "lower k1 and k2 or give more images"
            )
        if self.source_weight > 0 and source is None:
            raise InputError(f"source: source_weight={self.source_weight} needs the features of the source domain")

        plain_ND, camera_N = x_ND, None if cameras is None else check_cameras(cameras, N)
        if takes_centre(self.cameras, camera_N):
            assert camera_N is not None
            x_ND = centre_cameras(x_ND, camera_N, group)
        most = self.k1 + (self.convention == "rerank")
        approximate, why = takes_approximate(self.search, N, x_ND.shape[1], needed, on_gpu(x_ND) or group.size > 1)
        if self.search == "auto":
            log.info("search of neighbours: %s", why)
        x_ND, neighbours, copies = search_kept(x_ND, needed, most, approximate, progress, group)
        if neighbours is None:
            assert copies is not None
            x_ND, copies = x_ND[:0], keep(copies.leader_N, 1)
            alone = graph_without_pairs(copies.kept_U)
            rows = alone.indptr, alone.indices, alone.distances
        else:
            rows = memberships(x_ND, neighbours, self.k1, self.k2, self.convention, group=group)
        if copies is not None:
            plain_ND = kept_rows(plain_ND, copies.kept_U, N, group)
        reach_N = None
        if self.source_weight > 0:
            reach_N = source_reach(plain_ND, checked(source, "source"), group)  # the source has cameras of its own
        distances = Distances(rows, reach_N, self.source_weight, None if copies is None else copies.count_U, group)
        self.recall_: float | None = 1.0 if neighbours is None or neighbours.recall is None else neighbours.recall
        self.n_features_in_ = x_ND.shape[1]
        number = 0 if copies is None else copies.number
        if copies is not None and self.convention == "faiss" and copies.all_kept:
            copies = None  # images of their own, as in the code it follows
        self._take(distances, copies, number, collapsed=neighbours is None)
        labels_N, self.eps_ = self._labels_at(self.pairs_per_image, self.rho, self.eps)
        self.labels_ = labels_like(labels_N, features)
        return plain_ND, group

    def _held(self, features, group: Group) -> tuple[Array, Group]:
        """The features that this process works with, and the group that has the others: on CUDA each has them all."""
        first = 0
        if group.size > 1:
            if self.search == "approximate":
                raise InputError("search: approximate is for one process; search exactly, or start one")
            N = group.total(len(features))
            share = group.share(N)
            first = share.start
            if len(features) != len(share):
                raise InputError(
                    f"features: {len(features)} rows of {N}, but process {group.rank} of {group.size} has a share of "
                    f"{len(share)}; give those of group.share({N})"
                )
        x_ND = checked(features, first=first) if len(features) else as_array(features)
        return (group.gather(x_ND), ALONE) if on_gpu(x_ND) else (x_ND, group)

    def fit_graph(self, graph, features=None) -> JaccardDBSCAN:
        """Cluster by distances, or by neighbour lists, that are there already; nothing is searched.

        Copies are images of their own here.

        Args:
            graph: either distances, a sparse (N, N) matrix of scipy, cupyx or torch (sparse_csr), symmetric, values
                0..1, where a stored 0 is a distance and what is not stored is at 1; k1, k2 and convention then have no
                say. Or lists, (N, k) whole numbers: near images of each, in any order, from whatever search; they need
                `features`, by which they are sorted and measured.
            features: (N, D) unit rows, for lists.
        Returns: the estimator; `labels_` and `graph_` are of the library of `graph`.
        Raises: InputError for what cannot be used.
        """
        self._check_settings()
        if self.source_weight > 0 or self.cameras == "centre":
            raise InputError("fit_graph knows no source and no cameras: set source_weight=0 and cameras='ignore'")
        with on_torch_stream(graph):
            if features is None:
                if isinstance(graph, np.ndarray) or getattr(graph, "layout", None) is torch.strided:
                    raise InputError(
                        "graph: lists of neighbours need features=..., and distances come as a sparse matrix "
                        "(scipy.sparse.csr_matrix)"
                    )
                given = given_graph(graph)
                found = Distances.given(given)
                original = graph if isinstance(graph, torch.Tensor) else given.distances
            else:
                x_ND, original = checked(features), graph
                needed = list_length(self.k1, self.k2, self.convention)
                neighbours = given_lists(graph, x_ND, needed)
                found = Distances(memberships(x_ND, neighbours, self.k1, self.k2, self.convention))
                self.n_features_in_ = x_ND.shape[1]
            self.recall_ = None
            self._take(found, None, 0, collapsed=False)
            labels_N, self.eps_ = self._labels_at(self.pairs_per_image, self.rho, self.eps)
            self.labels_ = labels_like(labels_N, original)
        return self

    def _take(self, distances: Distances, copies: Copies | None, number: int, collapsed: bool) -> None:
        """Keep the distances of the images that are kept, and say how many are copies."""
        self._distances, self._copies, self._whole = distances, copies, None
        N = distances.N if copies is None else copies.of_N.size
        self.copies_ = number
        if collapsed:
            log.warning(COLLAPSED, N, N - self.copies_, self.k1)
        elif self.copies_:
            log.info("features: %d of %d images are copies of others", self.copies_, N)

    def _say_doubts(self, features_ND: Array, group: Group) -> None:
        """Warn of what makes graphs large and distances weak; each once, however often this estimator is fitted."""
        N, entries = self._distances.N, 2 * self._distances.met
        self._said: set[str] = getattr(self, "_said", set())
        labels_N = as_array(self.labels_)
        xp = array_module(labels_N)
        sizes = xp.bincount(labels_N + 1, minlength=2)[1:]  # outliers are the first
        sizes = sizes[sizes > 0]
        median = float(xp.median(sizes)) if sizes.size else 0.0
        if 0 < 2 * median < self.k1 and FAR_K1 not in self._said:
            self._said.add(FAR_K1)
            log.warning(FAR_K1, self.k1, median)
        if entries > N * max(DENSE, N / 4) and DENSE_GRAPH not in self._said:
            self._said.add(DENSE_GRAPH)
            mean_D = mean_of_rows(features_ND, group)
            similarity = float(mean_D @ mean_D)  # the mean over all pairs of rows
            if similarity >= ALIKE:
                log.warning(ALL_ALIKE, similarity)
            else:
                log.warning(DENSE_GRAPH, entries // N, N)

    @property
    def graph_(self):
        self._check_fitted()
        if self._whole is None:
            with on_torch_stream(self.labels_):
                graph = self._distances.whole()
                if self._copies is not None:
                    graph = with_copies(graph, self._copies)
                self._whole = csr_like(graph.indptr, graph.indices, graph.distances, (graph.N, graph.N), self.labels_)
        return self._whole

    def fit_predict(self, features, y=None, *, source=None, cameras=None, progress=None, group=ALONE):
        """fit, then `labels_`: (N,) int32, int64 in torch, of the library of the features, -1 = outlier."""
        return self.fit(features, source=source, cameras=cameras, progress=progress, group=group).labels_

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
            N = self._distances.N
            graph = self._distances.smallest(pairs_averaged(N, N * (N - 1) // 2, pairs_per_image, rho))
            # Copies and nothing else: the mean of what is nonzero would be that of unrelated pairs.
            alone = self._copies is not None and not bool(graph.distances.any())
            eps = 0.0 if alone else radius(graph, pairs_per_image=pairs_per_image, rho=rho)
        else:
            graph = self._distances.within(eps)
        labels_N = dbscan(graph, eps, self.min_samples, self.solver)
        if self._copies is not None:
            labels_N = labels_of_all(labels_N, self._copies)
        return drop_small(labels_N, self.min_size, self.min_share), float(eps)

    def _check_fitted(self) -> None:
        if not hasattr(self, "_distances"):
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
