"""Ensembling over epochs: images join the cluster whose images they were with most often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from rapids_slr.errors import InputError
from rapids_slr.refinement.rivals.keys import EnsemblingKeys
from rapids_slr.refinement.rivals.relabelled import Relabelled, by_rows, host_labels
from rapids_slr.settings.estimator import Estimator
from rapids_slr.settings.keys import check_keys


class Ensembling(EnsemblingKeys, Estimator):
    """Temporal ensembling by co-association: the clusters of this epoch, corrected by those of the epochs before.

    The co-association of two images is the share of the last epochs, this one included, that had them in one cluster;
    an outlier is in none. Every image goes to the cluster of this epoch with whose images its co-association is the
    largest on average, which is also the confidence of its label; an outlier may come back.

    It is computed on the CPU from labels alone, without an (N, N) matrix.
    """

    _past: tuple[np.ndarray, ...] = ()
    """int32 labels of earlier epochs, the oldest first."""

    def update(self, labels: Any, others: Any = ()) -> Relabelled:
        """Refine the labels of an epoch, and remember them for the next ones.

        Args:
            labels: (N,) whole numbers, -1 = outlier, clusters from 0; NumPy, CuPy or torch. The same images in the same
                order every epoch. In the first epoch the refined labels are these, numbered by first image.
            others: further clusterings, which are not looked at.
        Raises: InputError for labels or settings that cannot be used; the memory is then as before.
        Source: Fred and Jain, Combining Multiple Clusterings Using Evidence Accumulation, PAMI 2005; predictions of
            several epochs as one, of Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017.
        """
        check_keys(self)
        now_N = host_labels(labels)
        if self._past and self._past[0].size != now_N.size:
            raise InputError(
                f"labels: {now_N.size} images, but the last epoch had {self._past[0].size}; give the same images in "
                "the same order every epoch, or start with a new Ensembling"
            )
        epochs = (*self._past, now_N)[-self.window :]
        refined = by_rows(now_N, co_association(epochs), self.majority, self.targets == "soft", labels)
        self._past = epochs[-(self.window - 1) :] if self.window > 1 else ()
        return refined

    def state_dict(self) -> dict[str, torch.Tensor | None]:
        """The memory, for a checkpoint: `past`, labels of earlier epochs (E, N) int32, the oldest first; None before
        the first. Settings are not part of it."""
        return {"past": torch.from_numpy(np.stack(self._past)) if self._past else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the memory of `state_dict`; refinement goes on as if it had not been interrupted."""
        if set(state) != {"past"}:
            raise InputError(f"state: expected the key 'past', got {sorted(state)}")
        past = state["past"]
        self._past = () if past is None else tuple(host_labels(labels) for labels in past)


def co_association(epochs: Sequence[np.ndarray]) -> csr_matrix:
    """Mean co-association of every image with the images of each cluster of the last epoch, float64 (N, K).

    Images of one cluster of an epoch share what they have in common with the last: a row of the overlap of its
    clusters with the last ones.

    Args:
        epochs: int32 labels of the same images, -1 = outlier.
    """
    member_NK = memberships(epochs[-1])
    size_K = np.maximum(np.asarray(member_NK.sum(axis=0)).ravel(), 1)
    total_NK = csr_matrix(member_NK.shape)
    for label_N in epochs:
        before_NP = memberships(label_N)
        total_NK = total_NK + before_NP @ (before_NP.T @ member_NK)
    # Whole numbers up to here: neither the order of epochs nor that of images can matter.
    return csr_matrix(total_NK.multiply(1 / (len(epochs) * size_K)))


def memberships(label_N: np.ndarray) -> csr_matrix:
    """(N, K) of a 1 for the cluster of every image; an outlier has an empty row."""
    image = np.flatnonzero(label_N >= 0)
    shape = (label_N.size, int(label_N.max(initial=-1)) + 1)
    return csr_matrix((np.ones(image.size), (image, label_N[image])), shape)
