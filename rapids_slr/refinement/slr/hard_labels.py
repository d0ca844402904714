"""Refined labels from soft labels: HDBSCAN, argmax or DBSCAN (the rows of the paper's Table 3).

All but `by_cuml` work on pairs of labels, of which there are few, and depend neither on the order of the images nor on
the numbering of the clusters.
"""

from __future__ import annotations

import numpy as np

from rapids_slr.clustering.hdbscan import hdbscan_cuml
from rapids_slr.engine.arrays import Array, array_module, row_of_entry
from rapids_slr.errors import InputError
from rapids_slr.kernels.argmax import argmax
from rapids_slr.kernels.core_distances import rows_by_column
from rapids_slr.kernels.heirs import heirs
from rapids_slr.kernels.renumber import renumber
from rapids_slr.kernels.row_dbscan import row_dbscan
from rapids_slr.refinement.slr.hdbscan import weighted_hdbscan
from rapids_slr.refinement.slr.overlap import Overlap
from rapids_slr.refinement.slr.overlap import overlap as count_overlap
from rapids_slr.refinement.slr.soft_labels import Soft

DBSCAN_RADIUS = 0.5
"""eps of `dbscan`. A soft label split evenly between two clusters is 0.71 from the pure label of either and must not
tie them together; at 0.5, labels join a pure one while at least 65 % of their weight is on its cluster."""


def by_argmax(overlap: Overlap, soft: Soft) -> Array:
    """The cluster with most weight, int32 (Q,). Ties: this epoch's cluster, then the largest overlap, else -1."""
    return argmax(overlap.before_Q, overlap.now_Q, soft.row_Q, soft.indptr, soft.indices, soft.values, *overlap.shared)


def by_hdbscan(
    overlap: Overlap, soft: Soft, min_cluster_size: int, min_samples: int, merge_distance: float = 0.0
) -> Array:
    """HDBSCAN on the soft labels, int32 (Q,), -1 = noise."""
    label_R = weighted_hdbscan(
        soft.indptr, soft.indices, soft.values, soft.count_R, overlap.size_K.size,
        min_cluster_size, min_samples, merge_distance,
    )  # fmt: skip
    return _of_pairs(label_R, soft)


def by_dbscan(overlap: Overlap, soft: Soft, min_samples: int) -> Array:
    """DBSCAN on the soft labels with eps = DBSCAN_RADIUS, int32 (Q,), -1 = noise."""
    rows = rows_by_column(soft.indptr, soft.indices, soft.values, overlap.size_K.size)
    return _of_pairs(row_dbscan(rows, soft.count_R, DBSCAN_RADIUS, min_samples), soft)


def by_cuml(
    overlap: Overlap, soft: Soft, min_cluster_size: int, min_samples: int, merge_distance: float = 0.0
) -> Array:
    """HDBSCAN by cuML on the soft label of every image, int32 (N,), -1 = noise or left out; numbered by first image.

    For comparison with `by_hdbscan`: it takes (N, K) float32 of memory, copies its tree to the host, and may part
    images with equal soft labels.

    Raises: InputError if the labels do not lie on a GPU.
    """
    xp, row_N = array_module(soft.values), soft.row_Q[overlap.pair_N]
    if xp is np:
        raise InputError(
            "hard='cuml' needs labels on a GPU; hard='hdbscan' is HDBSCAN of the same soft labels anywhere"
        )
    dense_RK = xp.zeros((soft.count_R.size, overlap.size_K.size), xp.float32)
    dense_RK[row_of_entry(soft.indptr, soft.indices.size), soft.indices] = soft.values
    # Without a soft label images would be equal rows of zeros, and so a cluster.
    kept = xp.flatnonzero(row_N >= 0)
    label_N = xp.full(row_N.size, -1, xp.int32)
    label_N[kept] = hdbscan_cuml(dense_RK[row_N[kept]], min_cluster_size, min_samples, merge_distance)
    return renumber(xp.arange(row_N.size, dtype=xp.int32), label_N)


def _of_pairs(label_R: Array, soft: Soft) -> Array:
    """Labels of the rows, given to the pairs that have them."""
    xp = array_module(label_R)
    return xp.concatenate((label_R, xp.full(1, -1, xp.int32)))[soft.row_Q]  # row -1 is the last of these


def place_noise(label_Q: Array, overlap: Overlap, soft: Soft) -> Array:
    """Give noise to the refined cluster that holds most images of its raw cluster, else to a new one, int32 (Q,).

    The raw cluster of an image is its own, or for an outlier the argmax of its soft label; images without a soft label
    stay left out. Among refined clusters that
    hold equally many of its images the largest wins; if these are equal as well, the noise gets a cluster of its own.
    """
    xp = array_module(label_Q)
    raw_Q = xp.where(overlap.now_Q >= 0, overlap.now_Q, by_argmax(overlap, soft))
    noise_Q = (label_Q < 0) & (raw_Q >= 0) & (soft.row_Q >= 0)
    # One wait spares the second counting.
    if not bool(noise_Q.any()):
        return label_Q
    held = count_overlap(overlap.now_Q[overlap.pair_N], label_Q[overlap.pair_N])
    return xp.where(noise_Q, heirs(*held.shared, held.size_K)[raw_Q], label_Q)
