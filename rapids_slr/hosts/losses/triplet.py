"""Triplet losses on the hardest pairs of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_margin_triplet(pooled_BD: Tensor, labels_B: Tensor) -> Tensor:
    """Mean over the batch of -log (e^n / (e^p + e^n)), p and n the distances to the hardest positive and negative.

    Args:
        pooled_BD: (B, D) features before the neck.
        labels_B: (B,) classes. An image alone in its class is its own positive, at distance 0; where there is one class
            only, and so no negative, the loss is 0.
    Source: Hermans et al., arXiv:1703.07737, batch hard, as a softmax over the two distances (MMT).
    """
    positive_B, negative_B, counts_B = hardest(pooled_BD, labels_B)
    gap_B = _distance(pooled_BD, positive_B) - _distance(pooled_BD, negative_B)
    # softplus(p - n) is this loss without exponentials, which far features would overflow.
    return torch.where(counts_B, F.softplus(gap_B), 0.0).mean()


def softened_triplet(pooled_BD: Tensor, other_BD: Tensor, labels_B: Tensor) -> Tensor:
    """Mean over the batch of the cross entropy between two softmaxes over (p, n): the teacher's and the student's.

    Positive and negative are the student's hardest; the teacher's distances are those of the same images.

    Args:
        pooled_BD: (B, D) the student's features before the neck.
        other_BD: (B, D) the teacher's, of its other branch; no gradient reaches them.
        labels_B: (B,) classes, as in `soft_margin_triplet`.
    Source: Ge et al., Mutual Mean-Teaching, ICLR 2020, Eq. 8.
    """
    positive_B, negative_B, counts_B = hardest(pooled_BD, labels_B)
    gap_B = _distance(pooled_BD, positive_B) - _distance(pooled_BD, negative_B)
    other_BD = other_BD.detach()
    # A softmax over two distances is the sigmoid of their difference.
    target_B = torch.sigmoid(_distance(other_BD, positive_B) - _distance(other_BD, negative_B))
    loss_B = F.binary_cross_entropy_with_logits(gap_B, target_B, reduction="none")
    return torch.where(counts_B, loss_B, 0.0).mean()


@torch.no_grad()
def hardest(pooled_BD: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For every image the farthest of its class and the nearest of the others, by Euclidean distance.

    Returns: two (B,) int64 of indices into the batch, and (B,) bool: whether there is an image of another class (if
        not, the second index means nothing).
    """
    # Differences, not a matrix product: equal images are then at distance 0, and ties go to the first index.
    distance_BB = torch.cdist(pooled_BD.float(), pooled_BD.float(), compute_mode="donot_use_mm_for_euclid_dist")
    same_BB = labels_B[:, None] == labels_B[None, :]
    # -1 is below any distance, so an image alone in its class finds itself, at 0. Without a negative argmin gives 0: a
    # distance that is finite, as where() does not keep NaN of what it leaves out from the gradient.
    positive_B = distance_BB.masked_fill(~same_BB, -1.0).argmax(dim=1)
    negative_B = distance_BB.masked_fill(same_BB, torch.inf).argmin(dim=1)
    return positive_B, negative_B, ~same_BB.all(dim=1)


def _distance(features_BD: Tensor, partners_B: Tensor) -> Tensor:
    """(B,) Euclidean distance of each row to its partner row; its gradient is 0 where they are equal."""
    features_BD = features_BD.float()
    return torch.linalg.vector_norm(features_BD - features_BD[partners_B], dim=1)
