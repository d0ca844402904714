"""Cluster contrast: one network that learns to tell its image's cluster from all others in a memory of centroids.

Source: Dai et al., Cluster Contrast for Unsupervised Person Re-Identification, ACCV 2022. B images of a batch, K
clusters, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rapids_slr.data.images import Images
from rapids_slr.group import current
from rapids_slr.hosts.loop import Batch, Batches, GuardedAdam, adaptation_rate, meter_of, step_memory, train_steps
from rapids_slr.hosts.losses import Terms, info_nce
from rapids_slr.hosts.memory import Memory, most_turns
from rapids_slr.hosts.sections import ClusterContrastSpec
from rapids_slr.hosts.source import source_beside
from rapids_slr.hosts.targets import Targets, class_centroids
from rapids_slr.marks import stage
from rapids_slr.networks.batchnorm import statistics_kept, statistics_of
from rapids_slr.networks.network import Network
from rapids_slr.networks.whole import OnWholeBatch

if TYPE_CHECKING:
    from rapids_slr.session import Session


class ClusterContrast:
    """The encoder is trained, embeds and is evaluated. The memory begins every epoch with the epoch's centroids."""

    encoder: Network

    def __init__(self, spec: ClusterContrastSpec) -> None:
        self.spec = spec

    def begin(self, network: Network, session: Session) -> None:
        self.encoder, self.session = network, session

    def embed(self, images: Images, epoch: int | None = None) -> Tensor:
        return self.session.embed(self.encoder, images, epoch)

    def fit_epoch(self, features_ND: Tensor, targets: Targets, epoch: int) -> dict[str, float]:
        session, spec, settings, encoder = self.session, self.session.spec, self.session.spec.training, self.encoder
        with stage("targets"):
            memory = Memory(class_centroids(features_ND, targets, current()), self.spec.momentum)
        source = source_beside(session, self.embed, epoch)
        where, store = f"epoch {epoch}", session.images.target.store
        trained = [*encoder.parameters(), *(() if source is None else source.begin(encoder))]
        optimizer = GuardedAdam(trained, adaptation_rate(settings, epoch), settings.weight_decay)
        batches = Batches(store, targets.identities_N, spec, settings, epoch)
        turns = most_turns(targets.identities_N[batches.rows_TB])
        learner = OnWholeBatch(encoder, trained=True)
        queries_BD: Tensor

        def loss_of(batch: Batch) -> tuple[Tensor, Terms]:
            nonlocal queries_BD
            queries_BD = learner.embed(batch.images)
            labels, weights_B = targets.of(batch.rows_B), targets.weights_of(batch.rows_B)
            terms = {"contrast": info_nce(queries_BD, memory.rows_MD, labels, self.spec.temperature, weights_B)}
            total = terms["contrast"]
            if source is not None:
                with statistics_kept(encoder):  # those of the target, which the encoder embeds
                    kept, more = source.next(learner)
                total, terms = total + kept, terms | more
            return total, terms

        def follow(batch: Batch) -> None:
            found_BD, labels_B = queries_BD.detach(), targets.identities_N[batch.rows_B]
            if self.spec.memory == "hardest":
                memory.follow_hardest(found_BD, labels_B)
            else:
                memory.follow(found_BD, labels_B, turns)

        encoder.train()
        with session.epoch_bar(epoch) as report, step_memory("training", where):
            meter = meter_of(report, where, store.device)
            with statistics_of(settings.bn_images, encoder):
                return train_steps(batches, loss_of, optimizer, meter, after=follow)

    def state_dict(self) -> dict[str, Any]:
        return {"encoder": self.encoder.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.encoder.load_state_dict(state["encoder"])
