"""Losses as functions of network outputs (paper, Eqs. 5-6); each is a scalar, a mean over the batch.

B images of a batch, D features of a head, M classes, H heads. Cross entropies and distances are computed in float32
whatever the precision of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rapids_slr.hosts.losses.contrast import info_nce
from rapids_slr.hosts.losses.cross_entropy import cross_entropy, distillation, soft_cross_entropy
from rapids_slr.hosts.losses.triplet import hardest, soft_margin_triplet, softened_triplet

__all__ = [
    "Terms",
    "cross_entropy",
    "distillation",
    "hardest",
    "info_nce",
    "mean_over_heads",
    "soft_cross_entropy",
    "soft_margin_triplet",
    "softened_triplet",
]

Terms = dict[str, Tensor]
"""Loss terms by name, each a scalar before its weight."""


def mean_over_heads(loss: Callable[..., Tensor], *outputs: Sequence[Tensor]) -> Tensor:
    """Mean of a loss over the heads of a network; `outputs` are its arguments, one sequence of H tensors each."""
    return torch.stack([loss(*head) for head in zip(*outputs, strict=True)]).mean()
