"""A network on batches of which every process of a group has its part."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rapids_slr.group import current
from rapids_slr.networks.base import Outputs
from rapids_slr.networks.network import Network, features_of


class OnWholeBatch:
    """From this process's part of a batch to the network's outputs for all of it, the same on every process.

    So losses see the hardest pairs of the whole batch, and agree. Of one process it is the network itself.

    Args:
        network: with its classifiers, which must not be replaced after.
        trained: its gradients become the mean over the processes, that of the whole batch.
    """

    def __init__(self, network: Network, trained: bool = False) -> None:
        self._group, self.network = current(), network
        self._forward: nn.Module = network
        if trained and self._group.size > 1:
            # Statistics of BatchNorm are the same on all (`batchnorm.statistics_of`): no buffer is sent.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
                self._forward = DistributedDataParallel(network, broadcast_buffers=False)

    def __call__(self, images: Tensor) -> Outputs:
        outputs: Outputs = self._forward(images)
        if self._group.size == 1:
            return outputs
        heads = [head for part in outputs for head in part]
        whole = iter(self._group.batch(torch.cat(heads, dim=1)).split([head.shape[1] for head in heads], dim=1))
        return Outputs(*(tuple(next(whole) for _ in part) for part in outputs))

    def embed(self, images: Tensor) -> Tensor:
        """Features of the whole batch: (B, feature_dim) float32 rows of unit length."""
        return features_of(self(images))
