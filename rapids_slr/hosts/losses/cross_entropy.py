"""Cross entropies with hard, smoothed and soft targets."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(
    logits_BM: Tensor, targets: Tensor, smoothing: float = 0.0, weights_B: Tensor | None = None
) -> Tensor:
    """Mean over the batch of -sum_c q_c log softmax(logits)_c.

    Args:
        logits_BM: (B, M).
        targets: (B,) int64 classes with q = (1 - smoothing) onehot + smoothing / m, or (B, M) rows q as they are.
        weights_B: (B,) above 0, what each image counts in the mean; all alike where not given.
    """
    if targets.ndim == 2:
        targets, smoothing = targets.float(), 0.0
    if weights_B is None:
        return F.cross_entropy(logits_BM.float(), targets, label_smoothing=smoothing)
    loss_B = F.cross_entropy(logits_BM.float(), targets, reduction="none", label_smoothing=smoothing)
    return (weights_B * loss_B).sum() / weights_B.sum()


def soft_cross_entropy(logits_BM: Tensor, probabilities_BM: Tensor) -> Tensor:
    """Mean over the batch of -sum_c p_c log softmax(logits)_c; both arguments (B, M)."""
    return cross_entropy(logits_BM, probabilities_BM)


def distillation(logits_BM: Tensor, teacher_BM: Tensor) -> Tensor:
    """Cross entropy with the softmax of the teacher's logits, both (B, M); no gradient reaches the teacher."""
    return soft_cross_entropy(logits_BM, teacher_BM.detach().float().softmax(dim=1))
