"""ABMT: a student and its mean teacher, each with two branches that learn from the other's other branch.

Source: Chen et al., Enhancing Diversity in Teacher-Student Networks via Asymmetric Branches, WACV 2021; with soft
labels and the teacher's own cross entropy as in the paper (Eqs. 5-6). B images of a batch, M classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rapids_slr.data.images import Images
from rapids_slr.data.store import ImageStore
from rapids_slr.group import current
from rapids_slr.hosts.early_learning import EarlyLearning
from rapids_slr.hosts.loop import (
    Batch,
    Batches,
    GuardedAdam,
    Report,
    adaptation_rate,
    meter_of,
    step_memory,
    train_steps,
)
from rapids_slr.hosts.losses import (
    Terms,
    cross_entropy,
    distillation,
    mean_over_heads,
    soft_margin_triplet,
    softened_triplet,
)
from rapids_slr.hosts.source import SourceLoss, source_beside
from rapids_slr.hosts.targets import Targets, class_centroids
from rapids_slr.marks import stage
from rapids_slr.networks.base import Outputs
from rapids_slr.networks.batchnorm import statistics_of
from rapids_slr.networks.network import Network
from rapids_slr.networks.teacher import averaged_parameters, update_teacher
from rapids_slr.networks.whole import OnWholeBatch
from rapids_slr.settings.spec import RunSpec, TrainingSpec

if TYPE_CHECKING:
    from rapids_slr.session import Session


class ABMT:
    """The student is trained; the teacher follows it, embeds and is evaluated."""

    student: Network
    teacher: Network

    def __init__(self) -> None:
        self.step = 0
        """Training steps done, over all epochs; it sets the decay of the moving average."""
        self.early: EarlyLearning | None = None
        """What was said of every image before; None where `training.elr_weight` is 0."""

    def begin(self, network: Network, session: Session) -> None:
        self.session = session
        self.teacher = network.requires_grad_(False)
        self.student = self.teacher.frozen_copy().requires_grad_(True)
        settings = session.spec.training
        self.early = EarlyLearning(settings.elr_momentum) if settings.elr_weight > 0 else None

    def embed(self, images: Images, epoch: int | None = None) -> Tensor:
        return self.session.embed(self.teacher, images, epoch)

    def fit_epoch(self, features_ND: Tensor, targets: Targets, epoch: int) -> dict[str, float]:
        session = self.session
        # Clusters of an epoch are other classes than those of the last. Both networks start from the same classifiers,
        # so that the average of two rows is one of the same class.
        with stage("targets"):  # dynamic classifiers, from the centroids of the epoch's classes
            centroids_KD = class_centroids(features_ND, targets, current())
            self.student.set_classifiers_from(centroids_KD)
            self.teacher.set_classifiers_from(centroids_KD)
        if self.early is not None:
            self.early.begin(targets, len(self.student.heads))
        source = source_beside(session, self.embed, epoch)
        with session.epoch_bar(epoch) as report:
            losses = self._train(targets, epoch, report, source)
        # A checkpoint holds none: their number is that of an epoch's classes.
        self.student.drop_classifiers()
        self.teacher.drop_classifiers()
        return losses

    def _train(self, targets: Targets, epoch: int, report: Report, source: SourceLoss | None) -> dict[str, float]:
        """An epoch of networks that have classifiers. Gives the means of the loss terms."""
        store, spec = self.session.images.target.store, self.session.spec
        losses, self.step = adapt_epoch(
            self.student, self.teacher, store, targets, spec, epoch, self.step, report, source, self.early
        )
        return losses

    def state_dict(self) -> dict[str, Any]:
        state = {"step": self.step, "student": self.student.state_dict(), "teacher": self.teacher.state_dict()}
        return state if self.early is None else state | {"early_learning": self.early.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        if self.early is not None:
            self.early.load_state_dict(state["early_learning"])


def adapt_epoch(
    student: Network,
    teacher: Network,
    target: ImageStore,
    targets: Targets,
    spec: RunSpec,
    epoch: int,
    step: int,
    report: Report,
    source: SourceLoss | None = None,
    early: EarlyLearning | None = None,
) -> tuple[dict[str, float], int]:
    """Train the student on refined labels and its teacher's predictions; the teacher follows it (Eqs. 5-6).

    Args:
        targets: labels of this epoch; images with identity -1 take no part.
        epoch: from 1; it decides all that is random.
        step: training steps before this epoch, for the decay of the moving average.
        source: a loss on the labelled source that is added to every step.
        early: early-learning regularisation, which has begun with these targets.
    Returns: means of the loss terms, and the steps after this epoch.
    Raises: RunError if memory runs out, or if the loss is not finite: what is trained is then as before that step, and
        BatchNorm has seen its batch. On a GPU up to LOG_INTERVAL - 1 later batches pass before the error: BatchNorm
        sees them too, and the teacher's average moves on towards the student's finite weights.
    """
    settings, where, steps = spec.training, f"epoch {epoch}", itertools.count(step)
    trained = [*student.parameters(), *(teacher.classifiers.parameters() if settings.teacher_ce else ())]
    if source is not None:
        trained += source.begin(student)
    # Afresh every epoch, as classifiers are; so no state of it is in a checkpoint.
    optimizer = GuardedAdam(trained, lr=adaptation_rate(settings, epoch), weight_decay=settings.weight_decay)
    learner, guide_of = OnWholeBatch(student, trained=True), OnWholeBatch(teacher)

    def loss_of(batch: Batch) -> tuple[Tensor, Terms]:
        outputs = learner(batch.images)
        # The same batch, in training mode: the teacher keeps BatchNorm statistics of its own, which no average reaches.
        # Not inference_mode, whose tensors autograd refuses to keep for the gradients of teacher_ce.
        with torch.no_grad():
            guide = guide_of(batch.images)
        total, terms = target_loss(outputs, guide, teacher, targets, batch.rows_B, settings, early)
        if source is not None:
            # A pass of its own: BatchNorm normalises either domain by its own batch.
            kept, more = source.next(learner)
            total, terms = total + kept, terms | more
        return total, terms

    def follow(_: Batch) -> None:
        update_teacher(teaching, taught, next(steps), settings.ema)

    teaching, taught = (averaged_parameters(network, settings.teacher_ce) for network in (teacher, student))
    student.train()
    teacher.train()
    with step_memory("training", where), statistics_of(settings.bn_images, student, teacher):
        batches = Batches(target, targets.identities_N, spec, settings, epoch)
        losses = train_steps(batches, loss_of, optimizer, meter_of(report, where, target.device), after=follow)
    return losses, next(steps)  # the first that no step has taken


def target_loss(
    outputs: Outputs,
    guide: Outputs,
    teacher: Network,
    targets: Targets,
    rows_B: Tensor,
    settings: TrainingSpec,
    early: EarlyLearning | None,
) -> tuple[Tensor, Terms]:
    """Loss of a batch of the target: `adaptation_loss`, and what settings add to it.

    Args:
        outputs, guide: outputs of the student and of the teacher.
        rows_B: (B,) images of the batch.
    """
    labels, weights_B = targets.of(rows_B), targets.weights_of(rows_B)
    total, terms = adaptation_loss(outputs, guide, labels, targets.identities_N[rows_B], settings, weights_B)
    if settings.teacher_ce:
        terms["teacher_ce"] = teacher_cross_entropy(teacher, guide, labels, settings.label_smoothing, weights_B)
        # One backward for both networks: this term reaches the teacher's classifiers alone, and no other term does.
        total = total + terms["teacher_ce"]
    if early is not None:
        terms["elr"] = early.loss(outputs.logits, rows_B)
        total = total + settings.elr_weight * terms["elr"]
    return total, terms


def adaptation_loss(
    student: Outputs,
    teacher: Outputs,
    targets: Tensor,
    identities_B: Tensor,
    weights: TrainingSpec,
    weights_B: Tensor | None = None,
) -> tuple[Tensor, Terms]:
    """Loss on pseudo-labelled images: L = ce_weight L_ce + soft_weight L_soft + triplet_weight L_tri (Eq. 6).

    Each term is the mean over the student's branches; a branch learns from the teacher's other one.

    Args:
        targets: (B,) int64 refined labels, or (B, M) soft ones (rows sum to 1; no smoothing).
        identities_B: (B,) int64 labels of the triplet loss.
        weights: weights of the terms and label smoothing.
        weights_B: (B,) what each image counts in the cross entropy with its label; all alike where not given.
    Returns: the total, and its terms `ce`, `soft` and `triplet`.
    """

    def labelled(logits_BM: Tensor) -> Tensor:
        return cross_entropy(logits_BM, targets, weights.label_smoothing, weights_B)

    def triplet(pooled_BD: Tensor, other_BD: Tensor) -> Tensor:
        if weights.triplet == "plain":
            return soft_margin_triplet(pooled_BD, identities_B)
        softened = softened_triplet(pooled_BD, other_BD, identities_B)
        return (
            softened if weights.triplet == "softened" else (softened + soft_margin_triplet(pooled_BD, identities_B)) / 2
        )

    terms = {
        "ce": mean_over_heads(labelled, student.logits),
        "soft": mean_over_heads(distillation, student.logits, teacher.logits[::-1]),
        "triplet": mean_over_heads(triplet, student.pooled, teacher.pooled[::-1]),
    }
    total = (
        weights.ce_weight * terms["ce"]
        + weights.soft_weight * terms["soft"]
        + weights.triplet_weight * terms["triplet"]
    )
    return total, terms


def teacher_cross_entropy(
    teacher: Network, guide: Outputs, targets: Tensor, smoothing: float, weights_B: Tensor | None = None
) -> Tensor:
    """Cross entropy of the teacher's classifiers on its own features (Eq. 5); no gradient reaches the features.

    Args:
        guide: outputs of the teacher for the batch.
        targets, weights_B: as in `adaptation_loss`.
    """
    logits = teacher.classify(tuple(necked.detach() for necked in guide.necked))
    return mean_over_heads(lambda branch: cross_entropy(branch, targets, smoothing, weights_B), logits)
