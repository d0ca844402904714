"""Cross entropies with hard, smoothed and soft targets."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits_BM: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the batch of -sum_c q_c log softmax(logits)_c.

    Args:
        logits_BM: (B, M).
        targets: (B,) int64 classes with q = (1 - smoothing) onehot + smoothing / m, or (B, M) rows q as they are.
    """
    if targets.ndim == 2:
        return soft_cross_entropy(logits_BM, targets)
    return F.cross_entropy(logits_BM.float(), targets, label_smoothing=smoothing)


def soft_cross_entropy(logits_BM: Tensor, probabilities_BM: Tensor) -> Tensor:
    """Mean over the batch of -sum_c p_c log softmax(logits)_c; both arguments (B, M)."""
    return F.cross_entropy(logits_BM.float(), probabilities_BM.float())


def distillation(logits_BM: Tensor, teacher_BM: Tensor) -> Tensor:
    """Cross entropy with the softmax of the teacher's logits, both (B, M); no gradient reaches the teacher."""
    return soft_cross_entropy(logits_BM, teacher_BM.detach().float().softmax(dim=1))
