"""The two training loops: an epoch of source pre-training and an epoch of adaptation.

On a GPU the host never waits inside a loop but to read the losses, once per LOG_INTERVAL steps. A loss that is not
finite is therefore found out late, but kept from the weights at once, by a flag on the device that the optimizer heeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from rapids_slr.data import ImageStore, augment, identity_batches
from rapids_slr.engine.memory import memory_advice
from rapids_slr.errors import RunError
from rapids_slr.hosts.losses import adaptation_loss, pretrain_loss, teacher_cross_entropy
from rapids_slr.hosts.targets import Targets
from rapids_slr.networks import TwoBranch, update_teacher
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import PretrainSpec, RunSpec

LOG_INTERVAL = 10
"""Steps between two readings of the losses; reading them waits for the device."""

Report = Callable[..., None]
"""Called as report(steps, images=..., **losses) every LOG_INTERVAL steps."""


def host_runs_ahead(device: torch.device) -> bool:
    """Whether steps are queued on the device, so that to read a loss is to wait. On the CPU it costs nothing."""
    return device.type != "cpu"


class LossMeter:
    """Means of the loss terms of an epoch, and a watch for losses that are not finite.

    Both stay on the device and are read together: `add` raises RunError, naming the first such step, when it reads.

    Args:
        where: the epoch, for the error.
        unread: most steps that go by before the losses are looked at; 1 finds a fault before its step is taken.
    """

    def __init__(self, report: Report, where: str = "training", unread: int = 1) -> None:
        self._report, self._where, self._most_unread = report, where, unread
        self._sums: dict[str, Tensor] = {}
        self._unread: list[tuple[Tensor, dict[str, Tensor], Tensor]] = []
        self._steps = self._reported = self._images = 0
        self.spoilt: Tensor | None = None
        """() float32 on the device: 1 from the first loss on that is not finite, else 0."""

    def add(self, total: Tensor, terms: dict[str, Tensor], batch_B: Tensor) -> None:
        """Take note of a step between its loss and its optimizer."""
        total, terms = total.detach(), {name: value.detach() for name, value in terms.items()}
        not_finite = (~torch.isfinite(total)).float()
        self.spoilt = not_finite if self.spoilt is None else torch.maximum(self.spoilt, not_finite)
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._unread.append((total, terms, batch_B))
        self._steps += 1
        self._images += len(batch_B)
        if self._steps % LOG_INTERVAL == 0:
            self.flush()
        elif len(self._unread) == self._most_unread:
            self._read()

    def flush(self) -> dict[str, float]:
        """Report what was not reported yet; gives the means so far."""
        means = {name: value / self._steps for name, value in self._read().items()}
        if self._steps > self._reported:
            self._report(self._steps - self._reported, images=self._images, **means)
            self._reported, self._images = self._steps, 0
        return means

    def _read(self) -> dict[str, float]:
        """Sums of the terms, by one copy from the device; raises if a loss was not finite."""
        if not self._steps:
            return {}
        numbers = torch.stack([*self._sums.values(), *(total for total, *_ in self._unread)]).tolist()
        unread, self._unread = self._unread, []
        for value, (_, terms, batch_B) in zip(numbers[len(self._sums) :], unread, strict=True):
            if not math.isfinite(value):
                values = ", ".join(f"{name} {float(term):.4g}" for name, term in terms.items())
                raise RunError(
                    f"{self._where}: the loss is not finite ({values}) on images {batch_B.tolist()}; the last "
                    "checkpoint is intact. Lower the learning rate, or look at these images with "
                    "`rapids-slr data check`"
                )
        return dict(zip(self._sums, numbers, strict=False))


class GuardedAdam(Adam):
    """Adam; where the host runs ahead of the device it is fused, and a step can be called off by a flag there.

    Source: `found_inf` is what torch's gradient scaler hands to fused optimizers.
    """

    found_inf: Tensor | None = None

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        parameters = list(parameters)
        ahead = host_runs_ahead(parameters[0].device)
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True if ahead else None)

    def step_unless(self, spoilt: Tensor | None) -> None:
        """A step that leaves everything as it is if `spoilt` is 1; losses that were read before need no such flag."""
        self.found_inf = spoilt if self.defaults["fused"] else None
        self.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, also from a run on another device: fused or not is a matter of this one."""
        groups = [group | {"fused": self.defaults["fused"]} for group in state_dict["param_groups"]]
        super().load_state_dict(state_dict | {"param_groups": groups})
        for parameter, state in self.state.items():  # moments lie in memory as their parameter does
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.empty_like(parameter).copy_(state[name])


def pretrain_optimizer(network: TwoBranch, spec: PretrainSpec) -> GuardedAdam:
    return GuardedAdam(network.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)


def meter_of(report: Report, where: str, device: torch.device) -> LossMeter:
    return LossMeter(report, where, LOG_INTERVAL if host_runs_ahead(device) else 1)


def step_memory(section: str, where: str):
    """A training step that runs out of memory cannot be halved: BatchNorm would see other batches."""
    return memory_advice(
        where,
        f"lower {section}.identities or {section}.images, or data.height and data.width, or set data.store: host",
    )


def pretrain_rate(spec: PretrainSpec, epoch: int) -> float:
    """Learning rate of an epoch (from 1): a linear rise from a hundredth, then a fall at every milestone."""
    rise = 0.01 + 0.99 * (epoch - 1) / spec.warmup_epochs if epoch <= spec.warmup_epochs else 1.0
    return spec.lr * rise * spec.gamma ** sum(epoch > milestone for milestone in spec.milestones)


def pretrain_epoch(
    network: TwoBranch,
    optimizer: GuardedAdam,
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
    Raises: RunError if memory runs out, or if the loss is not finite: parameters and optimizer are then as before that
        step, and BatchNorm has seen its batch (on a GPU up to LOG_INTERVAL - 1 later ones too).
    """
    settings = spec.pretrain
    for group in optimizer.param_groups:
        group["lr"] = pretrain_rate(settings, epoch)
    device, where = source.device, f"pre-training epoch {epoch}"
    draw = generator(spec.seed, "pretrain augmentation", epoch, device=device)
    batches_TB = identity_batches(
        labels_N,
        settings.identities,
        settings.images,
        settings.iterations,
        generator(spec.seed, "pretrain sampler", epoch, device=device),
    )
    passers_TB = torch.randint(
        len(target),
        batches_TB.shape,
        generator=generator(spec.seed, "pretrain target", epoch, device=device),
        device=device,
    )
    batches = zip(batches_TB, source.indices(batches_TB), target.indices(passers_TB), strict=True)
    meter = meter_of(report, where, device)
    network.train()
    with step_memory("pretrain", where):
        for batch_B, source_B, passers_B in batches:
            images = augment(source.batch(source_B), spec.augment, spec.data, draw)
            total, terms = pretrain_loss(network(images), labels_N[batch_B], settings.label_smoothing)
            meter.add(total, terms, batch_B)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step_unless(meter.spoilt)
            if settings.target_forward:
                with torch.no_grad():
                    network(augment(target.batch(passers_B), spec.augment, spec.data, draw))
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
    Raises: RunError if memory runs out, or if the loss is not finite: what is trained is then as before that step, and
        BatchNorm has seen its batch. On a GPU up to LOG_INTERVAL - 1 later batches pass before the error: BatchNorm
        sees them too, and the teacher's average moves on towards the student's finite weights.
    """
    settings = spec.training
    trained = list(student.parameters())
    if settings.teacher_ce:
        trained += list(teacher.classifiers.parameters())
    optimizer = GuardedAdam(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    device, where = target.device, f"epoch {epoch}"
    draw = generator(spec.seed, "augmentation", epoch, device=device)
    batches_TB = identity_batches(
        targets.identities_N,
        settings.identities,
        settings.images,
        settings.iterations,
        generator(spec.seed, "sampler", epoch, device=device),
    )
    batches = zip(batches_TB, target.indices(batches_TB), strict=True)
    meter = meter_of(report, where, device)
    student.train()
    teacher.train()
    with step_memory("training", where):
        for batch_B, stored_B in batches:
            images = augment(target.batch(stored_B), spec.augment, spec.data, draw)
            taught = student(images)
            with torch.no_grad():
                guide = teacher(images)
            labels, identities_B = targets.of(batch_B), targets.identities_N[batch_B]
            total, terms = adaptation_loss(taught, guide, labels, identities_B, settings)
            if settings.teacher_ce:
                terms["teacher_ce"] = teacher_cross_entropy(teacher, guide, labels, settings.label_smoothing)
                total = total + terms["teacher_ce"]
            meter.add(total, terms, batch_B)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step_unless(meter.spoilt)
            update_teacher(teacher, student, step, settings.ema, skip_classifiers=settings.teacher_ce)
            step += 1
    return meter.flush(), step
