"""The clusterers of a run: what the sections of CLUSTERERS build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from rapids_slr.clustering.base import Clusters
from rapids_slr.clustering.hdbscan import cluster_hdbscan
from rapids_slr.clustering.jaccard_dbscan import JaccardDBSCAN
from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.clustering.reliable import Reliability
from rapids_slr.clustering.sections import DBSCANSpec, HDBSCANSpec, OtherClustersSpec
from rapids_slr.errors import InputError
from rapids_slr.group import current
from rapids_slr.settings.keys import values_of


class EpochDBSCAN:
    """JaccardDBSCAN, and further radii or heads of the same epoch where the section asks for them."""

    def __init__(self, spec: DBSCANSpec) -> None:
        self._spec = spec
        self._said: set[str] = set()  # doubts that estimators of earlier epochs had
        self._reliability = None if spec.reliable is None else Reliability(spec.reliable)

    def check(self, N: int) -> None:
        if self._spec.k1 >= N:
            raise InputError(
                f"data.target: {N} training images, but clusters.k1 {self._spec.k1} needs more than that; lower k1"
            )

    def fit_predict(
        self,
        features_ND: Tensor,
        *,
        source_SD: Tensor | None = None,
        cameras_N: Any = None,
        heads: Sequence[str] = (),
    ) -> Clusters:
        fitted: dict[str, JaccardDBSCAN] = {}  # a graph for each set of features, whatever the radii

        def labels_of(other: OtherClustersSpec | None) -> Tensor:
            head = "both" if other is None else other.branch
            if head not in fitted:
                source = None if source_SD is None else head_features(source_SD, head, heads)
                model = JaccardDBSCAN(**values_of(JaccardDBSCANKeys, self._spec))
                model._said = self._said
                own_ND = head_features(features_ND, head, heads)
                fitted[head] = model.fit(own_ND, source=source, cameras=cameras_N, group=current())
            # The same radius needs no second DBSCAN.
            radius = {} if other is None else other.radius
            return fitted[head].labels_at(**radius) if radius else fitted[head].labels_

        labels_N = labels_of(None)
        model, reliable = fitted["both"], self._spec.reliable
        if reliable is not None and self._reliability is not None and model.eps_ > 0:
            tight_N, loose_N = (model.labels_at(eps=model.eps_ * (1 + gap)) for gap in (-reliable.gap, reliable.gap))
            labels_N = self._reliability.select(labels_N, tight_N, loose_N)
        return Clusters(labels_N, [labels_of(other) for other in self._spec.also], lambda: model.graph_)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._reliability is None else {"threshold": self._reliability.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._reliability is not None:
            self._reliability.threshold = state.get("threshold")


class EpochHDBSCAN:
    """HDBSCAN on the features themselves."""

    def __init__(self, spec: HDBSCANSpec) -> None:
        self._spec = spec

    def check(self, N: int) -> None:
        pass

    def fit_predict(
        self,
        features_ND: Tensor,
        *,
        source_SD: Tensor | None = None,
        cameras_N: Any = None,
        heads: Sequence[str] = (),
    ) -> Clusters:
        return Clusters(cluster_hdbscan(features_ND, self._spec.min_cluster_size))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def head_features(features_ND: Tensor, head: str, heads: Sequence[str]) -> Tensor:
    """The features of all heads (`both`), or the part of one of them with unit rows."""
    if head == "both":
        return features_ND
    return F.normalize(features_ND.chunk(len(heads), dim=1)[list(heads).index(head)], dim=1)
