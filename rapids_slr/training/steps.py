"""The two training loops: an epoch of source pre-training and an epoch of adaptation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from rapids_slr.data import ImageStore, augment, identity_batches
from rapids_slr.errors import RunError
from rapids_slr.models import TwoBranch, update_teacher
from rapids_slr.seeds import generator
from rapids_slr.spec import PretrainSpec, RunSpec
from rapids_slr.training.losses import adaptation_loss, pretrain_loss, teacher_cross_entropy
from rapids_slr.training.targets import Targets

LOG_INTERVAL = 10
"""Steps between two readings of the losses; reading them waits for the device."""

Report = Callable[..., None]
"""Called as report(steps, images=..., **losses) every LOG_INTERVAL steps."""


class LossMeter:
    """Means of the loss terms of an epoch, summed on the device and read once per LOG_INTERVAL."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._sums: dict[str, Tensor] = {}
        self._steps = self._reported = self._images = 0

    def add(self, terms: dict[str, Tensor], images: int) -> None:
        for name, value in terms.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1
        self._images += images
        if self._steps % LOG_INTERVAL == 0:
            self.flush()

    def flush(self) -> dict[str, float]:
        """Report what was not reported yet; gives the means so far."""
        means = {name: float(value) / self._steps for name, value in self._sums.items()}
        if self._steps > self._reported:
            self._report(self._steps - self._reported, images=self._images, **means)
            self._reported, self._images = self._steps, 0
        return means


def stop_unless_finite(total: Tensor, terms: dict[str, Tensor], batch_B: Tensor, where: str) -> None:
    """Refuse a step whose loss is not finite, before it reaches the weights."""
    if not torch.isfinite(total):
        values = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in terms.items())
        raise RunError(
            f"{where}: the loss is not finite ({values}) on images {batch_B.tolist()}; the last checkpoint is intact. "
            "Lower the learning rate, or look at these images with `rapids-slr data check`"
        )


def pretrain_optimizer(network: TwoBranch, spec: PretrainSpec) -> Optimizer:
    return Adam(network.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)


def pretrain_rate(spec: PretrainSpec, epoch: int) -> float:
    """Learning rate of an epoch (from 1): a linear rise from a hundredth, then a fall at every milestone."""
    rise = 0.01 + 0.99 * (epoch - 1) / spec.warmup_epochs if epoch <= spec.warmup_epochs else 1.0
    return spec.lr * rise * spec.gamma ** sum(epoch > milestone for milestone in spec.milestones)


def pretrain_epoch(
    network: TwoBranch,
    optimizer: Optimizer,
    source: ImageStore,
    labels_N: Tensor,
    target: ImageStore,
    spec: RunSpec,
    epoch: int,
    report: Report,
) -> dict[str, float]:
    """Train one epoch on the labelled source; target images pass without a loss so that BatchNorm sees them.

    Args:
        labels_N: (N,) int64 source identities, numbered without gaps, -1 left out.
        epoch: from 1; it decides the learning rate and all that is random.
    Returns: means of the loss terms.
    Raises: RunError if the loss is not finite; the weights are those of the step before.
    """
    settings = spec.pretrain
    for group in optimizer.param_groups:
        group["lr"] = pretrain_rate(settings, epoch)
    draw = generator(spec.seed, "pretrain augmentation", epoch)
    batches_TB = identity_batches(
        labels_N,
        settings.identities,
        settings.images,
        settings.iterations,
        generator(spec.seed, "pretrain sampler", epoch),
    )
    passers_TB = torch.randint(
        len(target), batches_TB.shape, generator=generator(spec.seed, "pretrain target", epoch)
    ).to(batches_TB.device)
    meter = LossMeter(report)
    network.train()
    for batch_B, passers_B in zip(batches_TB, passers_TB, strict=True):
        images = augment(source.batch(batch_B), spec.augment, spec.data, draw)
        total, terms = pretrain_loss(network(images), labels_N[batch_B], settings.label_smoothing)
        stop_unless_finite(total, terms, batch_B, f"pre-training epoch {epoch}")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        if settings.target_forward:
            with torch.no_grad():
                network(augment(target.batch(passers_B), spec.augment, spec.data, draw))
        meter.add(terms, len(batch_B))
    return meter.flush()


def adapt_epoch(
    student: TwoBranch,
    teacher: TwoBranch,
    target: ImageStore,
    targets: Targets,
    spec: RunSpec,
    epoch: int,
    step: int,
    report: Report,
) -> tuple[dict[str, float], int]:
    """Train the student on refined labels and its teacher's predictions; the teacher follows it (Eqs. 5-6).

    Args:
        targets: labels of this epoch; images with identity -1 take no part.
        epoch: from 1; it decides all that is random.
        step: training steps before this epoch, for the decay of the moving average.
    Returns: means of the loss terms, and the steps after this epoch.
    Raises: RunError if the loss is not finite; the weights are those of the step before.
    """
    settings = spec.training
    trained = list(student.parameters())
    if settings.teacher_ce:
        trained += list(teacher.classifiers.parameters())
    optimizer = Adam(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    draw = generator(spec.seed, "augmentation", epoch)
    batches_TB = identity_batches(
        targets.identities_N,
        settings.identities,
        settings.images,
        settings.iterations,
        generator(spec.seed, "sampler", epoch),
    )
    meter = LossMeter(report)
    student.train()
    teacher.train()
    for batch_B in batches_TB:
        images = augment(target.batch(batch_B), spec.augment, spec.data, draw)
        taught = student(images)
        with torch.no_grad():
            guide = teacher(images)
        total, terms = adaptation_loss(taught, guide, targets.of(batch_B), targets.identities_N[batch_B], settings)
        if settings.teacher_ce:
            terms["teacher_ce"] = teacher_cross_entropy(teacher, guide, targets.of(batch_B), settings.label_smoothing)
            total = total + terms["teacher_ce"]
        stop_unless_finite(total, terms, batch_B, f"epoch {epoch}")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        update_teacher(teacher, student, step, settings.ema, skip_classifiers=settings.teacher_ce)
        step += 1
        meter.add(terms, len(batch_B))
    return meter.flush(), step
