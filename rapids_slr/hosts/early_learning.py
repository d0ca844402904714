"""Early-learning regularisation: what a network said of an image before holds it back from learning a wrong label.

Source: Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020. N images of the
target, B of a batch, M classes of an epoch, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rapids_slr.engine.arrays import as_array, like
from rapids_slr.hosts.losses import mean_over_heads
from rapids_slr.hosts.targets import Targets
from rapids_slr.refinement.slr.overlap import overlap
from rapids_slr.refinement.slr.projection import project

SURE = 1e-4
"""How far predictions are kept from 0 and 1, so that the loss stays finite; as in the authors' code."""


class EarlyLearning:
    """A running mean of the predictions of every head for every image, t, and the loss mean log(1 - p.t).

    A step moves the rows of its batch, t <- momentum t + (1 - momentum) p, and then takes the loss with them; no
    gradient reaches t. Where an image is in a batch more than once, p is the mean of its predictions.

    The classes of an epoch are its clusters, numbered anew, and others than those before. t goes on by what the two
    have in common: each old class hands its share to the new ones by the intersection over union of their images, rows
    summing to 1, which is how SLR projects labels. What belonged to classes with no heir is lost, and an image that was
    never seen has a row of zeros, for which the loss is 0. To begin anew every epoch would leave a memory of the few
    steps that show an image in one.

    It takes H x N x M float32 on the training device.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self._mean_HNM: Tensor | None = None
        self._class_N: Tensor | None = None

    def begin(self, targets: Targets, heads: int) -> None:
        """Hand the memory on to the classes of an epoch."""
        class_N = targets.identities_N
        mean_HNM = torch.zeros(heads, len(class_N), targets.classes, device=class_N.device)
        if self._mean_HNM is not None and self._class_N is not None:
            before_HNP = self._mean_HNM.to(class_N.device)
            share_PM = projection(self._class_N.to(class_N.device), class_N)
            P, M = share_PM.shape  # classes up to the largest label: soft ones may have no image at the end
            mean_HNM[:, :, :M] = before_HNP[:, :, :P] @ share_PM
        self._mean_HNM, self._class_N = mean_HNM, class_N.clone()

    def loss(self, logits: Sequence[Tensor], rows_B: Tensor) -> Tensor:
        """Mean over the batch and the heads of log(1 - p.t), after the predictions have moved t.

        Args:
            logits: (B, M) of every head.
            rows_B: (B,) images of the batch.
        """
        assert self._mean_HNM is not None
        # Rows of one image become equal, so that whichever is written last is the same.
        same_BB = (rows_B[:, None] == rows_B[None, :]).float()
        same_BB = same_BB / same_BB.sum(dim=1, keepdim=True)

        def of_head(logits_BM: Tensor, mean_NM: Tensor) -> Tensor:
            chance_BM = logits_BM.float().softmax(dim=1).clamp(SURE, 1 - SURE)
            with torch.no_grad():
                said_BM = same_BB @ (chance_BM / chance_BM.sum(dim=1, keepdim=True))
                mean_BM = self.momentum * mean_NM[rows_B] + (1 - self.momentum) * said_BM
                mean_NM[rows_B] = mean_BM
            return torch.log(1 - (mean_BM * chance_BM).sum(dim=1)).mean()

        return mean_over_heads(of_head, logits, list(self._mean_HNM))

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean_HNM, "classes": self._class_N}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; it is copied."""
        self._mean_HNM, self._class_N = (x if x is None else x.clone() for x in (state["mean"], state["classes"]))


def projection(before_N: Tensor, now_N: Tensor) -> Tensor:
    """(P, M) float32: intersection over union of the classes of two epochs, rows divided by their sums."""
    shared = overlap(*(as_array(labels.int()) for labels in (before_N, now_N)))
    indptr, indices, values = (like(part, now_N) for part in project(shared))
    shape = (len(shared.size_P), len(shared.size_K))
    row = torch.repeat_interleave(torch.arange(shape[0], device=now_N.device), indptr.diff())
    dense_PM = torch.zeros(shape, device=now_N.device)
    dense_PM[row, indices.long()] = values.float()
    return dense_PM
