"""The labelled source beside the target: a loss that keeps a network from losing what the source taught."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapids_slr.data.images import Images
from rapids_slr.hosts.loop import Batches
from rapids_slr.hosts.losses import Terms, cross_entropy, mean_over_heads, soft_margin_triplet
from rapids_slr.hosts.targets import class_centroids, hard_targets, true_identities
from rapids_slr.networks.base import Outputs
from rapids_slr.networks.network import Network
from rapids_slr.settings.spec import RunSpec, SourceLossSpec

if TYPE_CHECKING:
    from rapids_slr.session import Session


class SourceLoss:
    """Batches of the source of one epoch, and the loss of a network on the next of them.

    Args:
        settings: weights, and how large a batch is.
        features_SD: (S, D) float32 features of the source, for its classifiers; needed where ce_weight > 0.
        epoch: from 1; it decides all that is random.
    """

    def __init__(
        self, source: Images, spec: RunSpec, settings: SourceLossSpec, epoch: int, features_SD: Tensor | None = None
    ) -> None:
        self._settings = settings
        self._labels_S = source_labels(source)
        self._batches = iter(source_batches(source, self._labels_S, spec, settings, epoch))
        # Not the network's own: the teacher does not average them, and no checkpoint has to know the source's classes.
        self.classifiers = nn.ParameterList()
        """A weight (M, D) for each head, trained with the network; none without cross entropy."""
        if settings.ce_weight > 0:
            assert features_SD is not None
            self._centroids_MD = class_centroids(features_SD, hard_targets(self._labels_S))

    def begin(self, network: Network) -> list[nn.Parameter]:
        """Make classifiers for the heads of a network. Gives what is to be trained with it."""
        if self._settings.ce_weight > 0:
            parts = self._centroids_MD.split(network.head_dim, dim=1)
            self.classifiers = nn.ParameterList([nn.Parameter(F.normalize(part, dim=1)) for part in parts])
        return list(self.classifiers)

    def next(self, forward: Callable[[Tensor], Outputs]) -> tuple[Tensor, Terms]:
        """The weighted loss of a network, in training mode, on the next batch, and its terms.

        Args:
            forward: gives the outputs of the whole batch: the network, or `OnWholeBatch`.
        """
        batch, settings = next(self._batches), self._settings
        outputs, labels_B = forward(batch.images), self._labels_S[batch.rows_B]
        triplet = mean_over_heads(lambda pooled: soft_margin_triplet(pooled, labels_B), outputs.pooled)
        terms: Terms = {"source_triplet": triplet}
        total = settings.triplet_weight * triplet
        if settings.ce_weight > 0:
            logits = [F.linear(x, weight) for x, weight in zip(outputs.necked, self.classifiers, strict=True)]
            terms["source_ce"] = mean_over_heads(lambda x: cross_entropy(x, labels_B, 0.1), logits)
            total = total + settings.ce_weight * terms["source_ce"]
        return total, terms


def source_beside(session: Session, embed: Callable[[Images], Tensor], epoch: int) -> SourceLoss | None:
    """The source beside the target, where `training.source` asks for it.

    Args:
        embed: gives the features of the source, for its classifiers.
    """
    settings = session.spec.training.source
    if settings is None:
        return None
    source = session.images.source
    return SourceLoss(source, session.spec, settings, epoch, embed(source) if settings.ce_weight > 0 else None)


def source_labels(source: Images) -> Tensor:
    """(S,) int64 identities of the source, numbered without gaps; -1 where nobody knows."""
    return true_identities(torch.as_tensor(source.split.identities).to(source.store.device)).identities_N


def source_batches(source: Images, labels_S: Tensor, spec: RunSpec, settings: SourceLossSpec, epoch: int) -> Batches:
    """A batch of the source for every step of an epoch."""
    sampling = _Sampling(settings.identities, settings.images, spec.training.iterations)
    return Batches(source.store, labels_S, spec, sampling, epoch, purpose="source ")


class _Sampling:
    def __init__(self, identities: int, images: int, iterations: int) -> None:
        self.identities, self.images, self.iterations = identities, images, iterations
