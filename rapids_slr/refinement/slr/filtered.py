"""What trains in an epoch: labels, soft rows and centroids of the images that have a refined label, numbered alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rapids_slr.engine.arrays import (
    Array,
    array_module,
    csr_like,
    csr_product,
    labels_like,
    like,
    row_of_entry,
    take_rows,
)
from rapids_slr.refinement.slr.overlap import overlap
from rapids_slr.refinement.slr.soft_labels import Soft, SoftRows

CSR = tuple[Array, Array, Array]


@dataclass(frozen=True)
class Filtered:
    """The M of N images that train, of C classes, with R distinct soft labels. Arrays are of the library of the labels.

    The number of a class is a value of `hard`, a column of the soft rows, and a row of `centroids`.
    """

    images: Any
    """(M,) int64: which of the N images, ascending."""
    hard: Any
    """(M,) int32, or int64 in torch: the class of each, 0 .. C - 1 without gaps."""
    rows: SoftRows
    """Distinct soft labels, `matrix` (R, C), and `row_of_image` (M,). The weight of a cluster goes to the classes that
    its images are in, by their shares; where refined labels are clusters, to that class alone."""
    centroids: Any
    """(C, D) float32 rows of unit length: the mean feature of each class; None where no features were given."""


def filtered(
    now_N: Array, K: int, hard_N: Array, soft: Soft, row_N: Array, own_numbers: bool, features_ND: Array | None,
    labels: Any,
) -> Filtered:  # fmt: skip
    """Filter and number anew.

    Args:
        now_N: int32 clusters of the epoch, -1 or one of the K columns of the soft labels.
        hard_N: int32 refined labels, -1 = left out.
        row_N: int32 soft label of an image, -1 without one.
        own_numbers: whether `hard_N` has the numbers of the clusters.
        features_ND: float32, for centroids.
        labels: what the result is to be like.
    """
    xp = array_module(hard_N)
    image_M = xp.flatnonzero(hard_N >= 0)
    number_C, class_M = xp.unique(hard_N[image_M], return_inverse=True)
    C = int(number_C.size)
    class_M, row_M = class_M.astype(xp.int32), row_N[image_M]
    if own_numbers:
        share = _each_its_own(number_C, K)
    else:
        share = _shares(now_N[image_M], class_M, row_M, soft, (K, C))
    # The rows that images have, in order, and their weights moved from clusters to classes.
    used_R, row_M = xp.unique(row_M, return_inverse=True)
    indptr, entry = take_rows(soft.indptr, used_R)
    moved = _sum_to_one(*csr_product((indptr, soft.indices[entry], soft.values[entry]), share, (used_R.size, K, C)))
    matrix = csr_like(*moved[:2], moved[2].astype(np.float32), (int(used_R.size), C), labels)
    counts = xp.bincount(row_M, minlength=used_R.size)
    rows = SoftRows(matrix, like(counts, labels), labels_like(row_M.astype(xp.int32), labels))
    centroids = None if features_ND is None else like(_centroids(features_ND[image_M], class_M, C), labels)
    return Filtered(like(image_M, labels), labels_like(class_M, labels), rows, centroids)


def _each_its_own(number_C: Array, K: int) -> CSR:
    """(K, C): a cluster's weight stays its own; clusters that are no class have none."""
    xp = array_module(number_C)
    indptr = xp.searchsorted(number_C, xp.arange(K + 1, dtype=number_C.dtype))
    return indptr, xp.arange(number_C.size, dtype=xp.int32), xp.ones(number_C.size)


def _shares(now_M: Array, class_M: Array, row_M: Array, soft: Soft, shape: tuple[int, int]) -> CSR:
    """(K, C): how the images of a cluster are spread over classes. Of a cluster without images that train, as those
    whose soft labels hold it are, by weight; so that every soft label keeps some."""
    xp, (K, C) = array_module(class_M), shape
    held = _padded(overlap(now_M, class_M).shared, K)
    R = soft.indptr.size - 1
    of_rows = _padded(overlap(row_M, class_M).shared, R)
    # The transpose of the soft labels: entries sorted by cluster.
    order = xp.argsort(soft.indices, kind="stable")
    clusters = xp.searchsorted(soft.indices[order], xp.arange(K + 1, dtype=soft.indices.dtype))
    by_cluster = clusters, row_of_entry(soft.indptr, soft.indices.size)[order].astype(xp.int32), soft.values[order]
    by_weight = csr_product(by_cluster, of_rows, (K, R, C))
    # A cluster takes the row of `held` where it has one.
    stacked = tuple(xp.concatenate([held[part], by_weight[part]]) for part in (1, 2))
    indptr = xp.concatenate([held[0], held[0][-1] + by_weight[0][1:]])
    indptr, entry = take_rows(indptr, xp.arange(K) + xp.where(xp.diff(held[0]) > 0, 0, K))
    return _sum_to_one(indptr, stacked[0][entry], stacked[1][entry].astype(xp.float64))


def _padded(matrix: CSR, rows: int) -> CSR:
    """With empty rows at the end, as far as clusters have no images."""
    xp, indptr = array_module(matrix[0]), matrix[0]
    return xp.concatenate([indptr, xp.full(rows + 1 - indptr.size, indptr[-1])]), matrix[1], matrix[2]


def _sum_to_one(indptr: Array, indices: Array, values: Array) -> CSR:
    xp = array_module(indptr)
    before = xp.concatenate([xp.zeros(1), xp.cumsum(values)])
    total = before[indptr[1:]] - before[indptr[:-1]]
    return indptr, indices, values / total[row_of_entry(indptr, values.size)]


def _centroids(features_MD: Array, class_M: Array, C: int) -> Array:
    """Means of unit length; in float64, so that their order does not matter."""
    xp, M = array_module(class_M), class_M.size
    order = xp.argsort(class_M, kind="stable")
    indptr = xp.searchsorted(class_M[order], xp.arange(C + 1, dtype=class_M.dtype))
    members = csr_like(indptr, order.astype(xp.int32), xp.ones(M), (C, M), class_M)
    sums_CD = members @ features_MD.astype(xp.float64)
    length_C = xp.maximum(xp.linalg.norm(sums_CD, axis=1, keepdims=True), 1e-12)
    return (sums_CD / length_C).astype(xp.float32)
