"""Clusters that hold when the radius changes a little; the others lose images.

Source: Ge et al., Self-paced Contrastive Learning with Hybrid Memory, NeurIPS 2020, section 3.2, as its code has it.
N images, K clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rapids_slr.clustering.sections import ReliableSpec
from rapids_slr.marks import step


class Reliability:
    """Leaves images out whose cluster falls apart at a tighter radius, or is joined by others at a looser one.

    A cluster is as independent as its most independent image: the largest IoU of the cluster with an image's cluster at
    the looser radius. Clusters below a threshold are left out whole; the first epoch with clusters sets it, so that a
    share of these passes. Of the others those images stay whose IoU with their cluster at the tighter radius is the
    largest of the cluster's.
    """

    def __init__(self, spec: ReliableSpec) -> None:
        self._share = spec.independent
        self.threshold: float | None = None
        """Smallest independence of a cluster that stays; None before the first clusters."""

    @step("reliability")
    def select(self, labels_N: Tensor, tight_N: Tensor, loose_N: Tensor) -> Tensor:
        """The labels (N,) of what is reliable, whole numbers without gaps, -1 = outlier; all three as labels are."""
        labels_N = labels_N.long()
        clusters = int(labels_N.max()) + 1
        if clusters == 0:
            return labels_N
        # Outliers are one group more; what it comes to is not looked at.
        group_N = torch.where(labels_N >= 0, labels_N, clusters)
        compact_N, independent_N = agreement(labels_N, tight_N.long()), agreement(labels_N, loose_N.long())
        compact_K, independent_K = (
            values_N.new_zeros(clusters + 1).scatter_reduce(0, group_N, values_N, "amax")
            for values_N in (compact_N, independent_N)
        )
        if self.threshold is None:
            passing = min(clusters - 1, round(self._share * clusters))
            self.threshold = float(torch.kthvalue(independent_K[:-1], clusters - passing).values)
        kept_N = (labels_N >= 0) & (independent_K[group_N] >= self.threshold) & (compact_N >= compact_K[group_N])
        _, number_M = torch.unique(labels_N[kept_N], return_inverse=True)
        return torch.full_like(labels_N, -1).masked_scatter_(kept_N, number_M)


def agreement(labels_N: Tensor, other_N: Tensor) -> Tensor:
    """IoU of the two clusters of every image, (N,) float64; an outlier is a cluster by itself.

    Args:
        labels_N, other_N: (N,) int64, -1 = outlier.
    """
    both_N = torch.where((labels_N < 0) | (other_N < 0), 1, _sizes(labels_N * (other_N.max() + 2) + other_N))
    size_N, other_size_N = (torch.where(label_N < 0, 1, _sizes(label_N)) for label_N in (labels_N, other_N))
    return both_N / (size_N + other_size_N - both_N).double()


def _sizes(values_N: Tensor) -> Tensor:
    """How many have the value of each, (N,) int64."""
    _, inverse_N, counts = torch.unique(values_N, return_inverse=True, return_counts=True)
    return counts[inverse_N]
