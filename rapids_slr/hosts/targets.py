"""What an epoch trains on: an identity for every image, soft rows where asked for, what it counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rapids_slr.errors import RunError
from rapids_slr.group import ALONE, Group
from rapids_slr.refinement.base import Refined
from rapids_slr.refinement.slr.soft_labels import SoftRows
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import RunSpec

UNIT = 2.0**-40
"""Of features that are added as whole numbers: a million of them stay below 2^63."""


@dataclass(frozen=True)
class Targets:
    """Labels of one epoch on the training device.

    Attributes:
        identities_N: (N,) int64, identity of an image for the sampler and the triplet loss; -1 is left out.
        classes: number of classes (K), the width of the classifiers.
        rows_RK: (R, K) float32 distinct soft labels, None where labels are hard.
        row_of_image_N: (N,) int64 row of an image, -1 is left out; None where labels are hard.
        weights_N: (N,) float32, what an image counts in losses with its label; None where all count alike.
    """

    identities_N: Tensor
    classes: int
    rows_RK: Tensor | None = None
    row_of_image_N: Tensor | None = None
    weights_N: Tensor | None = None

    def of(self, images_B: Tensor) -> Tensor:
        """Cross-entropy targets of a batch: (B,) int64 labels, or (B, K) float32 soft rows."""
        if self.rows_RK is None or self.row_of_image_N is None:
            return self.identities_N[images_B]
        return self.rows_RK[self.row_of_image_N[images_B]]

    def weights_of(self, images_B: Tensor) -> Tensor | None:
        """What the images of a batch count: (B,) float32, or None where all count alike."""
        return None if self.weights_N is None else self.weights_N[images_B]


def targets_of(refined: Refined, spec: RunSpec, epoch: int, identities_N: Any) -> Targets:
    """What an epoch trains on: refined labels, soft rows (`refine.hard: none`), or a control (`training.labels`).

    With `training.weights: confidence` an image counts as much as its label is sure; the true identities all are.

    Args:
        identities_N: (N,) integers, the true identities; looked at for the control alone.
    Raises: RunError if no image has a label.
    """
    labels_N = torch.as_tensor(refined.hard)
    # Before outliers are counted: this control trains on them too.
    if spec.training.labels == "identities":
        return true_identities(torch.as_tensor(identities_N).to(labels_N.device))
    if not bool((labels_N >= 0).any()):
        raise RunError(
            f"epoch {epoch}: every one of the {len(labels_N)} images is an outlier, nothing is left to train on; "
            "raise clusters.pairs_per_image (or eps), or start from a better pre-trained network"
        )
    targets = soft_targets(labels_N, refined.rows) if spec.refine.soft_targets else hard_targets(labels_N)
    if spec.training.weights == "confidence":
        targets = replace(targets, weights_N=torch.as_tensor(refined.confidence, device=labels_N.device))
    if spec.training.labels == "shuffled":
        return shuffled(targets, generator(spec.seed, "shuffled labels", epoch, device=labels_N.device))
    return targets


def hard_targets(labels_N: Tensor) -> Targets:
    """Targets from labels (N,) of any integer type, -1 left out and no gaps in the numbering."""
    identities_N = labels_N.long()
    return Targets(identities_N, int(identities_N.max()) + 1)


def soft_targets(hard_N: Tensor, rows: SoftRows) -> Targets:
    """Targets from soft labels; `hard_N` (their argmax) serves the sampler and the triplet loss."""
    device = hard_N.device
    rows_RK = torch.as_tensor(rows.to_dense(), dtype=torch.float32, device=device)
    row_of_image_N = torch.as_tensor(rows.row_of_image, dtype=torch.int64, device=device)
    return Targets(hard_N.long(), rows_RK.shape[1], rows_RK, row_of_image_N)


class ClassMeans:
    """Means of features by class, of one epoch's targets, to be taken again and again; none of them waits for a device.

    A soft label gives its image to several classes by weight.
    """

    def __init__(self, targets: Targets) -> None:
        # Soft labels: sums over the R rows first, so that the product is with (K, R) and not (K, N).
        groups_N = targets.identities_N if targets.row_of_image_N is None else targets.row_of_image_N
        self._groups = targets.classes if targets.rows_RK is None else len(targets.rows_RK)
        self._groups_N = torch.where(groups_N >= 0, groups_N, self._groups)  # those left out are one more group
        self._rows_RK = targets.rows_RK
        counts = torch.bincount(self._groups_N, minlength=self._groups + 1)[: self._groups].float()
        self._counts = counts if self._rows_RK is None else self._rows_RK.T @ counts

    def of(self, features_ND: Tensor, group: Group = ALONE) -> Tensor:
        """Mean feature of every class (K, D) float32; zeros where a class has no image.

        Args:
            group: its processes hold the features, each its share.
        """
        sums_of = _sums_by_group if group.size == 1 else partial(_sums_of_shares, processes=group)
        sums = sums_of(features_ND, self._groups_N, self._groups + 1)[: self._groups]
        if self._rows_RK is not None:
            sums = self._rows_RK.T @ sums
        return sums / self._counts.clamp_min(torch.finfo(sums.dtype).tiny)[:, None]


def class_centroids(features_ND: Tensor, targets: Targets, group: Group = ALONE) -> Tensor:
    """Mean feature of every class (K, D) float32; a soft label gives its image to several classes by weight.

    Args:
        group: its processes hold the features, each its share.
    """
    return ClassMeans(targets).of(features_ND, group)


def _sums_by_group(features_ND: Tensor, groups_N: Tensor, groups: int) -> Tensor:
    """Sum of the features of every group, (groups, D), in the same order of additions every time."""
    sums = features_ND.new_zeros(groups, features_ND.shape[1])
    if features_ND.is_cuda:  # where index_add_ adds in any order; this one sorts the groups first
        return sums.index_put_((groups_N,), features_ND, accumulate=True)
    return sums.index_add_(0, groups_N, features_ND)


def _sums_of_shares(features_nD: Tensor, groups_N: Tensor, groups: int, processes: Group) -> Tensor:
    """`_sums_by_group` of features of which every process holds its share, as whole numbers: whatever their number."""
    share = processes.share(len(groups_N))
    whole_nD = (features_nD.double() / UNIT).round().long()
    own = whole_nD.new_zeros(groups, whole_nD.shape[1]).index_add_(0, groups_N[share.start : share.stop], whole_nD)
    return (processes.added(own).double() * UNIT).to(features_nD.dtype)


def shuffled(targets: Targets, generator: torch.Generator) -> Targets:
    """A control: the same labels, dealt out at random among the images that have one."""
    kept = torch.nonzero(targets.identities_N >= 0).squeeze(1)
    # A generator draws on its own device alone.
    order = torch.randperm(len(kept), generator=generator, device=generator.device).to(kept.device)
    identities_N = targets.identities_N.clone()
    identities_N[kept] = identities_N[kept[order]]
    return Targets(identities_N, targets.classes, weights_N=targets.weights_N)


def true_identities(identities_N: Tensor) -> Targets:
    """A control: the true identities, numbered without gaps; unknown ones (below 1) are left out."""
    known_N = identities_N > 0
    _, numbers = torch.unique(identities_N[known_N], return_inverse=True)
    return hard_targets(torch.full_like(identities_N, -1, dtype=torch.int64).masked_scatter_(known_N, numbers))
