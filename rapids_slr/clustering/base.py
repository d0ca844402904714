"""What a clusterer is: from the features of an epoch to cluster labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

from annotated_types import Ge, Gt, Le

from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.settings.base import Section, Settings
from rapids_slr.settings.keys import Positive

if TYPE_CHECKING:
    from torch import Tensor


class Clusters(NamedTuple):
    """Labels of one epoch, where the features are; int32 (N,), -1 = outlier."""

    labels_N: Tensor
    others: Sequence[Tensor] = ()
    """Further clusterings of the same images, for a refiner that projects them too."""


class Clusterer(Protocol):
    """A way to cluster the images of an epoch."""

    def check(self, N: int) -> None:
        """Raises: InputError if N images are too few, before anything is trained."""

    def fit_predict(
        self,
        features_ND: Tensor,
        *,
        source_SD: Tensor | None = None,
        cameras_N: Any = None,
        heads: Sequence[str] = (),
    ) -> Clusters:
        """Cluster the images of an epoch.

        Args:
            features_ND: (N, D) float32, unit rows.
            source_SD: (S, D) float32 features of the source, where the section says `needs_source`.
            cameras_N: (N,) integers, the camera of every image; None where nobody knows.
            heads: names of the equal parts that a row of features consists of, in order.
        Raises: InputError if the features cannot be clustered with these settings.
        """


class ClustererSpec(Section):
    """From features to cluster labels."""

    TAG = "method"

    @property
    def needs_source(self) -> bool:
        """Whether `fit_predict` wants the features of the source."""
        return False

    @property
    def needs_refinement(self) -> bool:
        """Whether there are further clusterings, which only a refiner reads."""
        return False

    @property
    def heads(self) -> set[str]:
        """Names of the heads of the network whose features are clustered on their own."""
        return set()

    def build(self) -> Clusterer:
        raise NotImplementedError


class OtherClustersSpec(Settings):
    """A further clustering of every epoch, for `refine` to project; what is not given is as in `clusters`."""

    branch: str = "both"
    """Features of all heads of the network (`both`), or of one: ABMT's `average` or `maximum`, by how they pool."""
    pairs_per_image: Positive | None = None
    """Another radius, by the rule of clusters.pairs_per_image."""
    rho: Annotated[float, Gt(0), Le(1)] | None = None
    """Another radius, by the rule of clusters.rho."""
    eps: Positive | None = None
    """Another radius, fixed."""

    @property
    def radius(self) -> dict[str, float]:
        """What to ask `JaccardDBSCAN.labels_at` for; empty for the radius of `clusters`."""
        given = {"pairs_per_image": self.pairs_per_image, "rho": self.rho, "eps": self.eps}
        return {name: value for name, value in given.items() if value is not None}


class DBSCANSpec(ClustererSpec, JaccardDBSCANKeys):
    """DBSCAN on the k-reciprocal Jaccard distance."""

    method: Literal["dbscan"] = "dbscan"
    """DBSCAN on the k-reciprocal Jaccard distance."""
    also: list[OtherClustersSpec] = []
    """Further clusterings of every epoch, by other radii or branches. `refine` projects them onto the clusters as it
    does last epoch's, and takes the mean (beyond the paper)."""

    @property
    def needs_source(self) -> bool:
        return self.source_weight > 0

    @property
    def needs_refinement(self) -> bool:
        return bool(self.also)

    @property
    def heads(self) -> set[str]:
        return {other.branch for other in self.also} - {"both"}

    def build(self) -> Clusterer:
        from rapids_slr.clustering.epoch import EpochDBSCAN

        return EpochDBSCAN(self)


class HDBSCANSpec(ClustererSpec):
    """HDBSCAN on the features (paper, Table 3)."""

    method: Literal["hdbscan"] = "hdbscan"
    """HDBSCAN on the features (paper, Table 3)."""
    min_cluster_size: Annotated[int, Ge(2)] = 7
    """Images of the smallest cluster."""

    @classmethod
    def look_at_foreign(cls, values: Mapping[str, Any]) -> None:
        if values.get("also"):
            raise ValueError("also needs method: dbscan, whose radius it changes")

    def build(self) -> Clusterer:
        from rapids_slr.clustering.epoch import EpochHDBSCAN

        return EpochHDBSCAN(self)


CLUSTERERS: dict[str, type[ClustererSpec]] = {"dbscan": DBSCANSpec, "hdbscan": HDBSCANSpec}
"""Ways to cluster, by `clusters.method`."""
