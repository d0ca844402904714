"""SpCL: one network that learns from a hybrid memory, in which no image of the target is left out.

Source: Ge et al., Self-paced Contrastive Learning with Hybrid Memory, NeurIPS 2020. B images of a batch, M rows of the
memory: the S classes of the source, then the N images of the target. C classes: those of the source, K clusters, and
every image without a cluster by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rapids_slr.data.images import Images
from rapids_slr.data.sampler import mixed_batches
from rapids_slr.group import current
from rapids_slr.hosts.loop import Batch, Batches, GuardedAdam, adaptation_rate, meter_of, step_memory, train_steps
from rapids_slr.hosts.losses import Terms, info_nce
from rapids_slr.hosts.memory import Memory, most_turns
from rapids_slr.hosts.sections import SpCLSpec
from rapids_slr.hosts.source import source_batches, source_labels
from rapids_slr.hosts.targets import ClassMeans, Targets, class_centroids, hard_targets
from rapids_slr.marks import stage
from rapids_slr.networks.batchnorm import statistics_kept, statistics_of
from rapids_slr.networks.network import Network
from rapids_slr.networks.whole import OnWholeBatch

if TYPE_CHECKING:
    from rapids_slr.session import Session


class SpCL:
    """The encoder is trained and evaluated. The memory goes on from epoch to epoch; what is clustered are its rows of
    the target, renewed by the network or as they are.

    Every process of a group has the memory whole, and moves it alike.
    """

    encoder: Network

    def __init__(self, spec: SpCLSpec) -> None:
        self.spec = spec
        self.memory: Memory | None = None
        """None before the first epoch."""

    def begin(self, network: Network, session: Session) -> None:
        self.encoder, self.session = network, session

    def embed(self, images: Images, epoch: int | None = None) -> Tensor:
        of_training = epoch is not None and images is self.session.images.target
        if of_training and self.memory is not None and not self.spec.renew:
            share = current().share(len(images.store))
            return self.memory.rows_MD[-len(images.store) :][share.start : share.stop].clone()
        return self.session.embed(self.encoder, images, epoch)

    def fit_epoch(self, features_ND: Tensor, targets: Targets, epoch: int) -> dict[str, float]:
        session, spec, settings = self.session, self.session.spec, self.session.spec.training
        store, where, encoder = session.images.target.store, f"epoch {epoch}", self.encoder
        with stage("targets"):
            source = None if settings.source is None else SourcePart(session, epoch)
            if self.memory is None:
                of_source = () if source is None else (source.centroids(self.embed),)
                self.memory = Memory(torch.cat([*of_source, current().gather(features_ND)]), self.spec.momentum)
            elif self.spec.renew:
                self.memory.load(torch.cat([self.memory.rows_MD[: -len(store)], current().gather(features_ND)]))
            classes = Classes(targets, self.memory.rows_MD)

        def draw(labels_N: Tensor, order: torch.Generator) -> Tensor:
            size = settings.identities * settings.images
            return mixed_batches(labels_N, settings.images, size, settings.iterations, order)

        batches = Batches(store, targets.identities_N, spec, settings, epoch, draw=draw)
        learner = OnWholeBatch(encoder, trained=True)
        step = Step(learner, self.memory, classes, source, self.spec.temperature, most_turns(batches.rows_TB))
        optimizer = GuardedAdam(encoder.parameters(), adaptation_rate(settings, epoch), settings.weight_decay)
        encoder.train()
        with session.epoch_bar(epoch) as report, step_memory("training", where):
            meter = meter_of(report, where, store.device)
            with statistics_of(settings.bn_images, encoder):
                return train_steps(batches, step.loss, optimizer, meter, after=step.follow)

    def state_dict(self) -> dict[str, Any]:
        memory = None if self.memory is None else self.memory.rows_MD
        return {"encoder": self.encoder.state_dict(), "memory": memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.encoder.load_state_dict(state["encoder"])
        self.memory = None
        if state["memory"] is not None:
            rows_MD = state["memory"].to(self.session.device)
            self.memory = Memory(rows_MD, self.spec.momentum)
            self.memory.load(rows_MD)


class Classes:
    """The classes of an epoch, as keys of the contrast and as labels of images.

    Args:
        rows_MD: the memory, for its size.
    """

    def __init__(self, targets: Targets, rows_MD: Tensor) -> None:
        self._targets, self._means, N = targets, ClassMeans(targets), len(targets.identities_N)
        self.sources = len(rows_MD) - N
        """Classes of the source, S, the first rows of the memory."""
        alone_N = targets.identities_N < 0
        self._alone_A = alone_N.nonzero()[:, 0]
        behind = self.sources + targets.classes
        self._class_N = torch.where(alone_N, behind + alone_N.cumsum(0) - 1, self.sources + targets.identities_N)
        self._number = behind + len(self._alone_A)

    def keys(self, rows_MD: Tensor) -> Tensor:
        """(C, D): classes of the source, means of the clusters, and images by themselves."""
        of_source, of_target = rows_MD[: self.sources], rows_MD[self.sources :]
        return torch.cat([of_source, self._means.of(of_target), of_target[self._alone_A]])

    def labels(self, images_B: Tensor) -> Tensor:
        """Of images of the target: (B,) int64 classes, or where clusters are soft (B, C) rows."""
        class_B, targets = self._class_N[images_B], self._targets
        if targets.rows_RK is None or targets.row_of_image_N is None:
            return class_B
        # An image by itself has row -1, the last of these: an empty one.
        row_BK = F.pad(targets.rows_RK, (0, 0, 0, 1))[targets.row_of_image_N[images_B]]
        rows_BC = F.pad(row_BK, (self.sources, len(self._alone_A)))
        alone_B = (targets.identities_N[images_B] < 0).float()
        return rows_BC + alone_B[:, None] * F.one_hot(class_B, self._number)

    def weights(self, images_B: Tensor) -> Tensor | None:
        """What each counts; an image by itself, of which nobody doubts what it is, one."""
        weights_B = self._targets.weights_of(images_B)
        return None if weights_B is None else torch.where(self._targets.identities_N[images_B] < 0, 1.0, weights_B)


class SourcePart:
    """The labelled source in the steps of an epoch."""

    def __init__(self, session: Session, epoch: int) -> None:
        settings = session.spec.training.source
        assert settings is not None
        self._images, self.weight = session.images.source, settings.ce_weight
        self.labels_S = source_labels(self._images)
        batches = source_batches(self._images, self.labels_S, session.spec, settings, epoch)
        self.turns, self.batches = most_turns(self.labels_S[batches.rows_TB]), iter(batches)

    def centroids(self, embed: Callable[[Images], Tensor]) -> Tensor:
        """Mean feature of every class, unit rows."""
        return F.normalize(class_centroids(embed(self._images), hard_targets(self.labels_S)), dim=1)


class Step:
    """A step of an epoch: the unified contrast of a batch, and of one of the source; then the memory follows both."""

    def __init__(
        self,
        learner: OnWholeBatch,
        memory: Memory,
        classes: Classes,
        source: SourcePart | None,
        temperature: float,
        turns: int,
    ) -> None:
        self._learner, self._memory, self._classes, self._source = learner, memory, classes, source
        self._temperature, self._turns = temperature, turns
        self._seen: list[tuple[Tensor, Tensor, int]] = []
        """Features of the step, their rows of the memory, and most of them that share one."""

    def loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        images_B, classes, source = batch.rows_B, self._classes, self._source
        keys_CD = classes.keys(self._memory.rows_MD)

        def contrast(queries_BD: Tensor, labels: Tensor, weights_B: Tensor | None = None) -> Tensor:
            return info_nce(queries_BD, keys_CD, labels, self._temperature, weights_B)

        queries_BD = self._learner.embed(batch.images)
        self._seen = [(queries_BD.detach(), classes.sources + images_B, self._turns)]
        terms = {"contrast": contrast(queries_BD, classes.labels(images_B), classes.weights(images_B))}
        total = terms["contrast"]
        if source is not None:
            other = next(source.batches)
            labels_B = source.labels_S[other.rows_B]
            # Statistics of BatchNorm are those of the target, by which the encoder is evaluated.
            with statistics_kept(self._learner.network):
                queries_BD = self._learner.embed(other.images)
            self._seen.append((queries_BD.detach(), labels_B, source.turns))
            terms["source_contrast"] = contrast(queries_BD, labels_B)
            total = total + source.weight * terms["source_contrast"]
        return total, terms

    def follow(self, _: Batch) -> None:
        for features_BD, rows_B, turns in self._seen:
            self._memory.follow(features_BD, rows_B, turns)
