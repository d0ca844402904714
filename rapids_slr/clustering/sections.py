"""The clusterers that come with the package, as sections of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from rapids_slr.clustering.base import Clusterer, ClustererSpec
from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.settings.base import Settings
from rapids_slr.settings.keys import Fraction, Positive


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


class ReliableSpec(Settings):
    """Clusters that hold at a tighter and a looser radius; the others lose images (SpCL)."""

    gap: Annotated[float, Gt(0), Lt(1)] = 0.033
    """The two radii are this share of eps below and above it; SpCL's .58 and .62 about .6."""
    independent: Fraction = 0.9
    """Share of the first epoch's clusters that are independent enough, by their IoU at the looser radius; what the last
    of them has is asked of all later ones."""


class DBSCANSpec(ClustererSpec, JaccardDBSCANKeys):
    """DBSCAN on the k-reciprocal Jaccard distance."""

    takes_share = True
    gives_graph = True
    method: Literal["dbscan"] = "dbscan"
    """DBSCAN on the k-reciprocal Jaccard distance."""
    min_share: Fraction = 0.33
    """Clusters with fewer than this share of the images that a typical image's cluster has (the median over clustered
    images) become outliers; 0 keeps them (paper)."""
    also: list[OtherClustersSpec] = []
    """Further clusterings of every epoch, by other radii or branches. `refine` projects them onto the clusters as it
    does last epoch's, and takes the mean (beyond the paper)."""
    reliable: ReliableSpec | None = None
    """Leave images out whose cluster changes with the radius, before anything refines it; `none` keeps all."""

    @property
    def for_one_process(self) -> str:
        return "clusters.search: approximate" if self.search == "approximate" else ""

    @property
    def needs_source(self) -> bool:
        return self.source_weight > 0

    @property
    def needs_refinement(self) -> bool:
        return bool(self.also)

    @property
    def heads(self) -> set[str]:
        return {other.branch for other in self.also} - {"both"}

    @property
    def cuml_for(self) -> dict[str, str]:
        return {"clusters.solver: cuml": "clusters.solver: graph (or auto)"} if self.solver == "cuml" else {}

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
        for key in ("also", "reliable"):  # to pass it over would leave out what was asked for
            if values.get(key) not in (None, "none", []):
                raise ValueError(f"{key} needs method: dbscan, whose radius it changes")
        if values.get("cameras") == "centre":
            raise ValueError("cameras: centre needs method: dbscan")

    @property
    def cuml_for(self) -> dict[str, str]:
        return {"clusters.method: hdbscan": "clusters.method: dbscan"}

    def build(self) -> Clusterer:
        from rapids_slr.clustering.epoch import EpochHDBSCAN

        return EpochHDBSCAN(self)
