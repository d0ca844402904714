"""Exact HDBSCAN of points that repeat: distinct sparse rows with counts, never the points themselves."""

from __future__ import annotations

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.core_distances import core_distances, rows_by_column
from rapids_slr.kernels.density_clusters import density_clusters
from rapids_slr.kernels.spanning_tree import spanning_tree


def weighted_hdbscan(
    indptr: Array,
    indices: Array,
    values: Array,
    count_R: Array,
    columns: int,
    min_cluster_size: int,
    min_samples: int,
    merge_distance: float = 0.0,
) -> Array:
    """HDBSCAN* with Euclidean distances and excess of mass on the multiset in which row r occurs count_R[r] times.

    - A point's k-th neighbour counts copies, its own included, but not the point itself: k + 1 copies have core
      distance 0. With fewer points than that, min_samples is the number of the others.
    - Equal distances are merged at once, as Campello et al. define it, so no order of points can matter: a point that
      joins two clusters at one distance belongs to neither. (`hdbscan` gives it to either, by order, unless
      match_reference_implementation is set.)
    - Copies never part. max(min_cluster_size, min_samples + 1) copies of a row are always a cluster.
    - The root is no cluster, except around a row of that many copies where there is no other cluster.
    - One distinct row only is one cluster.

    Args:
        indptr, indices, values: distinct rows, CSR of int64, int32 and positive float64, for CUDA on the grid of soft
            labels (multiples of 2^-26).
        count_R: int64, at least 1.
        columns: width of the rows.
        min_cluster_size: points of the smallest cluster, at least 2.
        min_samples: neighbours of a core distance, at least 1.
        merge_distance: clusters that part below this distance stay together (cluster_selection_epsilon).
    Returns: (R,) int32, -1 = noise; clusters in no particular order.
    """
    if count_R.size <= 1:
        xp = array_module(count_R)
        return xp.zeros(count_R.size, xp.int32)
    rows = rows_by_column(indptr, indices, values, columns)
    core_R = core_distances(rows, count_R, min_samples)
    return density_clusters(count_R, core_R, spanning_tree(rows, core_R), min_cluster_size, merge_distance)
