"""Features of one epoch -> cluster labels."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapids_slr.clustering.hdbscan import cluster_hdbscan
    from rapids_slr.clustering.jaccard_dbscan import JaccardDBSCAN

__all__ = ["JaccardDBSCAN", "cluster_hdbscan"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that the keys beside it can be read without torch."""
    if name == "JaccardDBSCAN":
        from rapids_slr.clustering.jaccard_dbscan import JaccardDBSCAN

        return JaccardDBSCAN
    if name == "cluster_hdbscan":
        from rapids_slr.clustering.hdbscan import cluster_hdbscan

        return cluster_hdbscan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
