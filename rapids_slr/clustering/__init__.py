"""Features of one epoch -> cluster labels."""

from rapids_slr.clustering.dbscan import JaccardDBSCAN
from rapids_slr.clustering.hdbscan import cluster_hdbscan

__all__ = ["JaccardDBSCAN", "cluster_hdbscan"]
