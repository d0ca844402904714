"""MMT: two networks, and a mean teacher of each that teaches the other.

Source: Ge et al., Mutual Mean-Teaching, ICLR 2020. B images of a batch, M classes.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from rapids_slr.hosts.abmt import ABMT
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
from rapids_slr.hosts.sections import MMTSpec
from rapids_slr.hosts.source import SourceLoss
from rapids_slr.hosts.targets import Targets
from rapids_slr.networks.base import Outputs
from rapids_slr.networks.batchnorm import statistics_of
from rapids_slr.networks.teacher import averaged_parameters, update_teacher
from rapids_slr.networks.whole import OnWholeBatch


class MMT(ABMT):
    """Student and teacher as ABMT has them, but each of two whole networks, and each network with a view of its own."""

    def __init__(self, spec: MMTSpec) -> None:
        super().__init__()
        self.spec = spec

    def _train(self, targets: Targets, epoch: int, report: Report, source: SourceLoss | None) -> dict[str, float]:
        student, teacher, spec, settings = self.student, self.teacher, self.session.spec, self.session.spec.training
        store, where, steps = self.session.images.target.store, f"epoch {epoch}", itertools.count(self.step)
        trained = [*student.parameters(), *(() if source is None else source.begin(student))]
        optimizer = GuardedAdam(trained, adaptation_rate(settings, epoch), settings.weight_decay)

        learner, guide_of = OnWholeBatch(student, trained=True), OnWholeBatch(teacher)

        def loss_of(batch: Batch) -> tuple[Tensor, Terms]:
            outputs = learner(batch.images)
            with torch.no_grad():
                guide = guide_of(batch.images)  # in training mode, with statistics of its own
            labels, identities_B = targets.of(batch.rows_B), targets.identities_N[batch.rows_B]
            weights_B = targets.weights_of(batch.rows_B)
            total, terms = mutual_loss(
                outputs, guide, labels, identities_B, self.spec, settings.label_smoothing, weights_B
            )
            if self.early is not None:
                terms["elr"] = self.early.loss(outputs.logits, batch.rows_B)
                total = total + len(student.heads) * settings.elr_weight * terms["elr"]
            if source is not None:
                kept, more = source.next(learner)
                # A mean over the networks, each of which has a loss of its own.
                total, terms = total + len(student.heads) * kept, terms | more
            return total, terms

        def follow(_: Batch) -> None:
            update_teacher(teaching, taught, next(steps), settings.ema)

        teaching, taught = averaged_parameters(teacher), averaged_parameters(student)
        student.train()
        teacher.train()
        with step_memory("training", where), statistics_of(settings.bn_images, student, teacher):
            batches = Batches(store, targets.identities_N, spec, settings, epoch, views=student.views)
            losses = train_steps(batches, loss_of, optimizer, meter_of(report, where, store.device), after=follow)
        self.step = next(steps)  # the first that no step has taken
        return losses


def mutual_loss(
    student: Outputs,
    teacher: Outputs,
    targets: Tensor,
    identities_B: Tensor,
    spec: MMTSpec,
    smoothing: float,
    weights_B: Tensor | None = None,
) -> tuple[Tensor, Terms]:
    """Sum of the losses of the two networks; each learns from labels and from the teacher of the other (Eq. 9).

    Args:
        targets: (B,) int64 refined labels, or (B, M) soft ones (rows sum to 1; no smoothing).
        identities_B: (B,) int64 labels of the triplet losses.
        weights_B: (B,) what each image counts in the cross entropy with its label; all alike where not given.
    Returns: the total, and the terms `ce`, `soft`, `triplet` and `soft_triplet`, means over the two.
    """
    terms = {
        "ce": mean_over_heads(lambda logits: cross_entropy(logits, targets, smoothing, weights_B), student.logits),
        "soft": mean_over_heads(distillation, student.logits, teacher.logits[::-1]),
        "triplet": mean_over_heads(lambda pooled: soft_margin_triplet(pooled, identities_B), student.pooled),
        "soft_triplet": mean_over_heads(
            lambda pooled, other: softened_triplet(pooled, other, identities_B), student.pooled, teacher.pooled[::-1]
        ),
    }
    entropy = torch.lerp(terms["ce"], terms["soft"], spec.soft_weight)
    triplet = torch.lerp(terms["triplet"], terms["soft_triplet"], spec.soft_triplet_weight)
    return len(student.logits) * (entropy + triplet), terms
