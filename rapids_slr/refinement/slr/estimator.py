"""SLR: pseudo-labels refined with those of the epoch before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

import numpy as np
import torch

from rapids_slr.clustering.neighbours import check_features
from rapids_slr.engine.arrays import (
    Array,
    array_module,
    as_array,
    csr_like,
    labels_like,
    like,
    on_torch_stream,
    row_of_entry,
    take_rows,
)
from rapids_slr.errors import InputError
from rapids_slr.kernels.argmax import largest
from rapids_slr.kernels.renumber import renumber
from rapids_slr.marks import step
from rapids_slr.refinement.slr.filtered import Filtered, filtered
from rapids_slr.refinement.slr.hard_labels import by_argmax, by_cuml, by_dbscan, by_hdbscan, place_noise
from rapids_slr.refinement.slr.keys import SLRKeys
from rapids_slr.refinement.slr.label_arrays import check_labels
from rapids_slr.refinement.slr.overlap import Overlap, overlap
from rapids_slr.refinement.slr.projection import project
from rapids_slr.refinement.slr.soft_labels import Soft, SoftRows, confident, soft_labels
from rapids_slr.refinement.slr.sources import combine
from rapids_slr.settings.estimator import Estimator
from rapids_slr.settings.keys import check_keys

DENSE = 2**20  # entries up to which a projection is given as a dense array


def _on_request(compute: Callable[[Refined], Any]) -> cached_property[Any]:
    """A property of `Refined` that is computed when it is first asked for, on the stream of whoever asks."""

    @wraps(compute)
    def on_stream(self: Refined) -> Any:
        with on_torch_stream(self._labels):
            return compute(self)

    # It writes into __dict__, which a frozen dataclass does not mind.
    return cached_property(on_stream)


@dataclass(frozen=True)
class Refined:
    """Labels of one epoch after refinement. Arrays are of the library of the labels given; large ones are built when
    they are first asked for.
    """

    hard: Any
    """(N,) int32 refined labels, in torch int64, -1 = left out. Numbered by first image, except for the first epoch and
    `argmax` of soft labels (`hard="none"`), which keep the numbers of the clusters."""
    rescued: int
    """Images that are outliers in the labels given and have a refined label."""
    _labels: Any
    _overlap: Overlap
    _projection: tuple[Array, Array, Array]
    _blended: Overlap
    """The pairs of labels that have the soft labels: those of _overlap, unless there were other clusterings."""
    _soft: Soft
    _own_numbers: bool
    """Whether `hard` has the numbers of the clusters."""

    def filtered(self, features: Any = None) -> Filtered:
        """The images that train, their labels, soft labels and centroids, numbered alike: classes 0 .. C - 1.

        Args:
            features: (N, D) rows of unit length of the library of the labels, for the centroids of the classes.
        Raises: InputError for features that are not those of the N images.
        """
        with on_torch_stream(self._labels):
            now_N = self._overlap.now_Q[self._overlap.pair_N]
            x_ND = None if features is None else check_features(features)
            if x_ND is not None and len(x_ND) != now_N.size:
                raise InputError(f"features: {len(x_ND)} rows, but there are labels of {now_N.size} images")
            hard_N = check_labels(self.hard, "hard")
            return filtered(
                now_N, self._shape[1], hard_N, self._soft, self._row_N, self._own_numbers, x_ND, self._labels
            )

    @property
    def _shape(self) -> tuple[int, int]:
        return self._overlap.size_P.size, self._overlap.size_K.size

    @_on_request
    def _row_N(self) -> Array:
        return self._soft.row_Q[self._blended.pair_N]

    @_on_request
    def rows(self) -> SoftRows:
        """The distinct soft labels and the images that have them."""
        soft = self._soft
        shape = (soft.count_R.size, self._shape[1])
        matrix = csr_like(soft.indptr, soft.indices, soft.values.astype(np.float32), shape, self._labels)
        return SoftRows(matrix, like(soft.count_R, self._labels), labels_like(self._row_N, self._labels))

    @_on_request
    def soft(self) -> Any:
        """(N, K) float32 CSR of soft labels: rows sum to 1, or are empty for images that are left out."""
        soft, row_N = self._soft, self._row_N
        xp = array_module(row_N)
        # Row -1 is the last of these, an empty one.
        indptr, entry = take_rows(xp.concatenate((soft.indptr, soft.indptr[-1:])), row_N)
        data = soft.values[entry].astype(xp.float32)
        return csr_like(indptr, soft.indices[entry], data, (row_N.size, self._shape[1]), self._labels)

    @_on_request
    def projection(self) -> Any:
        """(P, K) float64: IoU of last epoch's and this epoch's clusters, rows sum to 1, or to 0 without a common image.

        Dense up to a million entries, CSR beyond. (0, K) in the first epoch.
        """
        return self._matrix(*self._projection)

    @_on_request
    def overlap(self) -> Any:
        """(P, K) int64: images in both clusters; dense or CSR as `projection` is. CuPy's CSR holds them as float64."""
        return self._matrix(*self._overlap.shared)

    @_on_request
    def confidence(self) -> Any:
        """(N,) float32: the largest entry of an image's soft label, 0 for images that are left out."""
        soft = self._soft
        xp = array_module(soft.values)
        largest_R = xp.concatenate((largest(soft.indptr, soft.values), xp.zeros(1, xp.float32)))
        return like(largest_R[self._row_N], self._labels)

    def _matrix(self, indptr: Array, indices: Array, values: Array) -> Any:
        P, K = self._shape
        xp = array_module(values)
        if P * K > DENSE:
            if xp is not np and values.dtype == xp.int64 and not isinstance(self._labels, torch.Tensor):
                values = values.astype(xp.float64)  # CuPy has no sparse integers
            return csr_like(indptr, indices, values, (P, K), self._labels)
        dense_PK = xp.zeros((P, K), values.dtype)
        dense_PK[row_of_entry(indptr, values.size), indices] = values
        return like(dense_PK, self._labels)


class SLR(SLRKeys, Estimator):
    """Pseudo-label refinement: labels of this epoch, blended with last epoch's and clustered anew.

    Example:
        slr = SLR()
        for epoch in range(epochs):
            refined = slr.update(JaccardDBSCAN().fit_predict(features))
            train(refined.hard)
    """

    _before_N: Array | None = None

    def update(self, labels, others=()) -> Refined:
        """Refine the labels of an epoch, and remember them for the next.

        Args:
            labels: (N,) whole numbers, -1 = outlier, clusters from 0; NumPy, CuPy or torch. The same images in the same
                order every epoch. In the first epoch the refined labels are these, unless there are others.
            others: further clusterings of the epoch, each as `labels` are. They are projected as last epoch's labels
                are, and the soft label takes the mean of all projections in place of last epoch's (beyond the paper).
        Raises: InputError for labels or settings that cannot be used; the memory is then as before.
        Source: Zia-ur-Rehman et al., arXiv:2410.14242.
        """
        # Here and not in __init__, which keeps what it is given, as scikit-learn wants it.
        self._check_settings()
        with on_torch_stream(labels):
            return self._update(labels, others)

    def _update(self, labels: Any, others: Any) -> Refined:
        now_N = check_labels(labels)
        xp, first = array_module(now_N), self._before_N is None
        # In a first epoch all were outliers before, so that a soft label is this epoch's cluster alone.
        before_N = xp.full(now_N.size, -1, xp.int32) if self._before_N is None else _beside(self._before_N, now_N)
        if now_N.size != before_N.size:
            raise InputError(
                f"labels: {now_N.size} images, but the last epoch had {before_N.size}; give the same images in the "
                "same order every epoch, or start with a new SLR"
            )

        other_clusterings = [check_labels(other, f"others[{place}]") for place, other in enumerate(others)]
        for place, other_N in enumerate(other_clusterings):
            if other_N.size != now_N.size:
                raise InputError(f"others[{place}]: {other_N.size} images, but labels has {now_N.size}")

        last = overlap(before_N, now_N)
        projection = project(last)
        shared, projected = (
            (last, projection) if not other_clusterings else combine([before_N, *other_clusterings], now_N)
        )
        soft = confident(soft_labels(shared, projected, self.alpha, self.outliers), self.min_confidence)
        hard_N = now_N.copy() if first and not other_clusterings else self._hard_labels(shared, soft)

        # Last of all, as what was refused leaves the memory as it was. No array that the caller has: to write into what
        # was given or returned does not change it.
        self._before_N = hard_N.copy() if self.memory == "refined" else now_N
        rescued = int(((now_N < 0) & (hard_N >= 0)).sum())
        own_numbers = self.hard == "none" or (first and not other_clusterings)
        return Refined(labels_like(hard_N, labels), rescued, labels, last, projection, shared, soft, own_numbers)

    @step("hard labels")
    def _hard_labels(self, shared: Overlap, soft: Soft) -> Array:
        if self.hard == "none":
            # Not renumbered: the columns of the soft labels are the clusters.
            return by_argmax(shared, soft)[shared.pair_N]
        min_samples = self.min_cluster_size if self.min_samples is None else self.min_samples
        if self.hard == "cuml":
            return by_cuml(shared, soft, self.min_cluster_size, min_samples, self.merge_distance)
        if self.hard == "argmax":
            label_Q = by_argmax(shared, soft)
        elif self.hard == "dbscan":
            label_Q = by_dbscan(shared, soft, min_samples)
        else:
            label_Q = by_hdbscan(shared, soft, self.min_cluster_size, min_samples, self.merge_distance)
        if self.noise == "argmax":
            label_Q = place_noise(label_Q, shared, soft)
        return renumber(shared.pair_N, label_Q)

    def state_dict(self) -> dict[str, torch.Tensor | None]:
        """The memory, for a checkpoint: `previous`, the labels of the last epoch (N,) int32 on the CPU, None before
        the first.

        Settings are not part of it.
        """
        before_N = self._before_N
        return {"previous": None if before_N is None else like(before_N, torch.empty(0)).to("cpu", copy=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the memory of `state_dict`; refinement goes on as if it had not been interrupted."""
        if set(state) != {"previous"}:
            raise InputError(f"state: expected the key 'previous', got {sorted(state)}")
        previous = state["previous"]
        self._before_N = None if previous is None else check_labels(previous, "state['previous']")

    def _check_settings(self) -> None:
        check_keys(self)
        if self.hard == "cuml" and self.noise == "argmax":
            raise InputError(
                "noise='argmax' places pairs of labels, and hard='cuml' labels images; take hard='hdbscan'"
            )


def _beside(before_N: Array, now_N: Array) -> Array:
    """Labels of the last epoch on the device of this epoch's: a checkpoint comes from the CPU."""
    if before_N.device == now_N.device:
        return before_N
    anything = torch.empty(0)
    return as_array(like(before_N, anything).to(like(now_N, anything).device))
