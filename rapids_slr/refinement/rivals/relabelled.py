"""What a rival makes of the clusters of an epoch, and how it is told. N images, K clusters.

The rivals are there for comparison: they compute in host memory, whatever the labels lie on, which makes them the same
on every engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from rapids_slr.clustering.neighbours import check_features
from rapids_slr.engine.arrays import Array, array_module, as_array, csr_like, labels_like, to_host
from rapids_slr.errors import InputError
from rapids_slr.kernels.renumber import renumber
from rapids_slr.refinement.slr.label_arrays import check_labels
from rapids_slr.refinement.slr.soft_labels import SoftRows

LEAST = 1e-6
"""Confidence of an image that has a label, at least: the weights of a batch have to add up to more than nothing."""


@dataclass(frozen=True)
class Relabelled:
    """Labels of one epoch after refinement. Arrays are of the library of the labels given."""

    hard: Any
    """(N,) int32, in torch int64, -1 = left out; numbered by first image, but with soft rows as the clusters are."""
    rescued: int
    """Images that are outliers in the labels given and have a refined label."""
    confidence: Any
    """(N,) float32 in [0, 1], 0 for images that are left out."""
    _rows: SoftRows | None = None

    @property
    def rows(self) -> SoftRows:
        """Distinct soft labels, where `targets` is `soft`."""
        if self._rows is None:
            raise TypeError("labels that are hard have no soft rows; set targets: soft")
        return self._rows


# What is given --------------------------------------------------------------------------------------------------------


def host_labels(labels: Any) -> np.ndarray:
    """Labels of any library, checked, int32 (N,) in host memory."""
    return to_host(check_labels(labels))


def features_of(features: Any, N: int) -> Array:
    """Features (N, D) float32 of the images that have labels, checked, where they are.

    Raises: InputError for features that are not theirs.
    """
    x_ND = check_features(features)
    if len(x_ND) != N:
        raise InputError(f"features: {len(x_ND)} rows, but there are labels of {N} images")
    return x_ND


# What is given back ---------------------------------------------------------------------------------------------------


def relabelled(now_N: np.ndarray, label_N: np.ndarray, confidence_N: np.ndarray, labels: Any) -> Relabelled:
    """Hard labels, as a refiner gives them.

    Args:
        now_N: int32 clusters of the epoch, -1 = outlier.
        label_N: labels in any numbering, -1 = left out.
        confidence_N: in [0, 1]; those of images that are left out are not looked at.
        labels: what the result is to be like.
    """
    return _told(now_N, renumber(np.arange(now_N.size, dtype=np.int32), label_N.astype(np.int32)), confidence_N, labels)


def by_rows(now_N: np.ndarray, rows: csr_matrix, least: float, soft: bool, labels: Any) -> Relabelled:
    """Labels by the largest entry of every image's row, which is how sure they are.

    Ties go to this epoch's cluster of the image, then to the lowest number.

    Args:
        now_N: int32 clusters of the epoch, -1 = outlier.
        rows: (N, K) float64, no entry below 0; an image whose row has none above is left out.
        least: images whose largest entry is below are left out.
        soft: give soft labels, rows divided by their sums; hard labels then keep the numbers of the clusters.
    """
    # In float32, in which entries that rounding parts are equal.
    entries = rows.astype(np.float32)
    best_N, label_N = np.zeros(now_N.size, np.float32), np.full(now_N.size, -1)
    if rows.shape[1]:
        best_N = entries.max(axis=1).toarray().ravel()
        label_N = np.asarray(entries.argmax(axis=1)).ravel()
        own_N = np.asarray(entries[np.arange(now_N.size), np.maximum(now_N, 0)]).ravel()
        label_N = np.where((now_N >= 0) & (own_N == best_N), now_N, label_N)
    label_N = np.where((best_N > 0) & (best_N >= np.float32(least)), label_N, -1)
    if not soft:
        return relabelled(now_N, label_N, best_N, labels)
    return _told(now_N, label_N.astype(np.int32), best_N, labels, soft_rows(label_N >= 0, rows, labels))


def soft_rows(kept_N: np.ndarray, rows: csr_matrix, labels: Any) -> SoftRows:
    """The rows of the images that are kept, each divided by its sum: a row an image."""
    kept = rows[np.flatnonzero(kept_N)]
    total_R = np.asarray(kept.sum(axis=1)).ravel()
    values = (kept.data / np.repeat(total_R, np.diff(kept.indptr))).astype(np.float32)
    parts = kept.indptr.astype(np.int64), kept.indices.astype(np.int32), values
    indptr, indices, data = (as_array(placed(part, labels)) for part in parts)
    matrix = csr_like(indptr, indices, data, kept.shape, labels)
    row_N = np.where(kept_N, np.cumsum(kept_N) - 1, -1).astype(np.int32)
    return SoftRows(matrix, placed(np.ones(len(total_R), np.int64), labels), _as_labels(row_N, labels))


def _told(
    now_N: np.ndarray, hard_N: np.ndarray, confidence_N: np.ndarray, labels: Any, rows: SoftRows | None = None
) -> Relabelled:
    rescued = int(((now_N < 0) & (hard_N >= 0)).sum())
    sure_N = np.where(hard_N >= 0, np.clip(confidence_N, LEAST, 1), 0).astype(np.float32)
    return Relabelled(_as_labels(hard_N, labels), rescued, placed(sure_N, labels), rows)


def _as_labels(label_N: np.ndarray, labels: Any) -> Any:
    return labels_like(as_array(placed(label_N, labels)), labels)


def placed(x: np.ndarray, labels: Any) -> Any:
    """An array of host memory in the library and on the device of the labels."""
    if isinstance(labels, torch.Tensor):
        return torch.from_numpy(x).to(labels.device)
    return array_module(labels).asarray(x)


class Forgetful:
    """A refiner that remembers nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
