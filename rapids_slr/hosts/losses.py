"""The losses of pre-training and adaptation, as functions of network outputs (paper, Eqs. 5-6).

B images of a batch, d branch features, m classes. Cross entropies and distances are computed in float32 whatever the
precision of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rapids_slr.networks.two_branch import Outputs, TwoBranch
from rapids_slr.settings.spec import TrainingSpec

Terms = dict[str, Tensor]
"""Loss terms by name, each a scalar before its weight."""


def pretrain_loss(outputs: Outputs, labels: Tensor, smoothing: float) -> tuple[Tensor, Terms]:
    """Loss on labelled images: L = L_ce + L_tri, each the mean over the two branches.

    Args:
        labels: (B,) int64 classes.
        smoothing: label smoothing of the cross entropy.
    Returns: the total, and its terms `ce` and `triplet`.
    """
    terms = {
        "ce": branch_mean(lambda logits: cross_entropy(logits, labels, smoothing), outputs.logits),
        "triplet": branch_mean(lambda pooled: soft_margin_triplet(pooled, labels), outputs.pooled),
    }
    return terms["ce"] + terms["triplet"], terms


def adaptation_loss(
    student: Outputs, teacher: Outputs, targets: Tensor, identities: Tensor, weights: TrainingSpec
) -> tuple[Tensor, Terms]:
    """Loss on pseudo-labelled images: L = ce_weight L_ce + soft_weight L_soft + triplet_weight L_tri (Eq. 6).

    Each term is the mean over the student's branches; a branch learns from the teacher's other one.

    Args:
        targets: (B,) int64 refined labels, or (B, m) soft ones (rows sum to 1; no smoothing).
        identities: (B,) int64 labels of the triplet loss.
        weights: weights of the terms and label smoothing.
    Returns: the total, and its terms `ce`, `soft` and `triplet`.
    """

    def labelled(logits: Tensor) -> Tensor:
        return cross_entropy(logits, targets, weights.label_smoothing)

    def softened(pooled: Tensor, other: Tensor) -> Tensor:
        return softened_triplet(pooled, other, identities)

    terms = {
        "ce": branch_mean(labelled, student.logits),
        "soft": branch_mean(distillation, student.logits, teacher.logits[::-1]),
        "triplet": branch_mean(softened, student.pooled, teacher.pooled[::-1]),
    }
    total = (
        weights.ce_weight * terms["ce"]
        + weights.soft_weight * terms["soft"]
        + weights.triplet_weight * terms["triplet"]
    )
    return total, terms


def teacher_cross_entropy(teacher: TwoBranch, guide: Outputs, targets: Tensor, smoothing: float) -> Tensor:
    """Cross entropy of the teacher's classifiers on its own features (Eq. 5); no gradient reaches the features.

    Args:
        guide: outputs of the teacher for the batch.
        targets: (B,) int64 labels or (B, m) soft ones, as in `adaptation_loss`.
    """
    first, second = guide.necked
    logits = teacher.classify((first.detach(), second.detach()))
    return branch_mean(lambda branch: cross_entropy(branch, targets, smoothing), logits)


def branch_mean(loss: Callable[..., Tensor], *outputs: Sequence[Tensor]) -> Tensor:
    """Mean of a loss over the branches; `outputs` are its arguments, one sequence each, branch by branch."""
    return torch.stack([loss(*branch) for branch in zip(*outputs, strict=True)]).mean()


# Cross entropies ------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the batch of -sum_c q_c log softmax(logits)_c.

    Args:
        logits: (B, m).
        targets: (B,) int64 classes with q = (1 - smoothing) onehot + smoothing / m, or (B, m) rows q as they are.
    """
    if targets.ndim == 2:
        return soft_cross_entropy(logits, targets)
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def soft_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Mean over the batch of -sum_c probabilities_c log softmax(logits)_c; both arguments (B, m)."""
    return F.cross_entropy(logits.float(), probabilities.float())


def distillation(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross entropy with the softmax of the teacher's logits, both (B, m); no gradient reaches the teacher."""
    return soft_cross_entropy(logits, teacher_logits.detach().float().softmax(dim=1))


# Triplet losses -------------------------------------------------------------------------------------------------------


def soft_margin_triplet(pooled: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of -log (e^n / (e^p + e^n)), p and n the distances to the hardest positive and negative.

    Args:
        pooled: (B, d) features before the neck.
        labels: (B,) classes. An image alone in its class is its own positive, at distance 0; where there is one class
            only, and so no negative, the loss is 0.
    Source: Hermans et al., arXiv:1703.07737, batch hard, as a softmax over the two distances (MMT).
    """
    positive, negative, counts = hardest(pooled, labels)
    gap = _distance(pooled, positive) - _distance(pooled, negative)
    return torch.where(counts, F.softplus(gap), 0.0).mean()


def softened_triplet(pooled: Tensor, other: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of the cross entropy between two softmaxes over (p, n): the teacher's and the student's.

    Positive and negative are the student's hardest; the teacher's distances are those of the same images.

    Args:
        pooled: (B, d) the student's features before the neck.
        other: (B, d) the teacher's, of its other branch; no gradient reaches them.
        labels: (B,) classes, as in `soft_margin_triplet`.
    Source: Ge et al., Mutual Mean-Teaching, ICLR 2020, Eq. 8.
    """
    positive, negative, counts = hardest(pooled, labels)
    gap = _distance(pooled, positive) - _distance(pooled, negative)
    other = other.detach()
    target = torch.sigmoid(_distance(other, positive) - _distance(other, negative))
    loss = F.binary_cross_entropy_with_logits(gap, target, reduction="none")
    return torch.where(counts, loss, 0.0).mean()


@torch.no_grad()
def hardest(pooled: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For every image the farthest of its class and the nearest of the others, by Euclidean distance.

    Returns: two (B,) int64 of indices into the batch, and (B,) bool: whether there is an image of another class (if
        not, the second index means nothing).
    """
    # Differences, not a matrix product: equal images are then at distance 0, and ties go to the first index.
    distances = torch.cdist(pooled.float(), pooled.float(), compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~same, -1.0).argmax(dim=1)
    negative = distances.masked_fill(same, torch.inf).argmin(dim=1)
    return positive, negative, ~same.all(dim=1)


def _distance(features: Tensor, partners: Tensor) -> Tensor:
    """(B,) Euclidean distance of each row to its partner row; its gradient is 0 where they are equal."""
    features = features.float()
    return torch.linalg.vector_norm(features - features[partners], dim=1)
