"""What every way of training shares: the batches of an epoch, the steps over them, and the watch over their losses.

On a GPU the host never waits inside a loop but to read the losses, once per LOG_INTERVAL steps. A loss that is not
finite is therefore found out late, but kept from the weights at once, by a flag on the device that the optimizer heeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim import Adam

from rapids_slr.data.augment import augment, random_draws
from rapids_slr.data.sampler import identity_batches
from rapids_slr.data.store import ImageStore
from rapids_slr.engine.memory import memory_advice
from rapids_slr.errors import RunError
from rapids_slr.group import current
from rapids_slr.hosts.losses import Terms
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import RunSpec, TrainingSpec

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
        # Detached, or what is held until it is read would hold the graph of every step.
        total, terms = total.detach(), {name: value.detach() for name, value in terms.items()}
        # float32 is what fused optimizers take. The maximum, as what follows a bad step is called off too.
        not_finite = (~torch.isfinite(total)).float()
        self.spoilt = not_finite if self.spoilt is None else torch.maximum(self.spoilt, not_finite)
        # No +=: the first sum is the term itself, which is kept for the error.
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
        # The numbers go on with the totals.
        return dict(zip(self._sums, numbers, strict=False))


class GuardedAdam(Adam):
    """Adam; where the host runs ahead of the device it is fused, and a step can be called off by a flag there.

    Source: `found_inf` is what torch's gradient scaler hands to fused optimizers.
    """

    found_inf: Tensor | None = None

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        parameters = list(parameters)  # an iterator would be spent by the look at the first
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


def adaptation_rate(spec: TrainingSpec, epoch: int) -> float:
    """Learning rate of an epoch of the adaptation (from 1)."""
    fall = (1 + math.cos(math.pi * (epoch - 1) / spec.epochs)) / 2 if spec.decay == "cosine" else 1.0
    return spec.lr * fall


def meter_of(report: Report, where: str, device: torch.device) -> LossMeter:
    """A meter that looks at every loss where that costs nothing, else once per LOG_INTERVAL steps."""
    return LossMeter(report, where, LOG_INTERVAL if host_runs_ahead(device) else 1)


def step_memory(section: str, where: str):
    """A training step that runs out of memory cannot be halved: BatchNorm would see other batches."""
    return memory_advice(
        where,
        f"lower {section}.identities or {section}.images, or data.height and data.width, or set data.store: host",
    )


# Batches --------------------------------------------------------------------------------------------------------------


class Sampling(Protocol):
    """Keys of `training` and of `pretrain` that say which images an epoch shows."""

    @property
    def identities(self) -> int: ...
    @property
    def images(self) -> int: ...
    @property
    def iterations(self) -> int: ...


class Batch(NamedTuple):
    images: Tensor
    """(B, C, H, W) float32, augmented and normalised; of several views (views, B, C, H, W). Of a group the part of this
    process."""
    rows_B: Tensor
    """(B,) int64 rows of the labels, of the whole batch."""


class Batches:
    """The augmented batches of an epoch: P identities, K images of each, unless it is said how they are drawn.

    The processes of a group draw the same batches, of which each augments whole identities.

    Args:
        labels_N: (N,) int64, -1 left out.
        epoch: from 1; it decides all that is random.
        purpose: a word before the names of the random generators, so that other epochs draw other numbers.
        draw: gives the rows (T, B) of T batches from labels and generator, where they are not to be P times K.
        views: how often every image of a batch is augmented, each time by other numbers.
    """

    def __init__(
        self,
        store: ImageStore,
        labels_N: Tensor,
        spec: RunSpec,
        sampling: Sampling,
        epoch: int,
        purpose: str = "",
        draw: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        views: int = 1,
    ) -> None:
        self._store, self._spec, self._views = store, spec, views
        # Generators of their own: how many numbers an augmentation takes does not change which images are drawn.
        self._draw = generator(spec.seed, f"{purpose}augmentation", epoch, device=store.device)
        order = generator(spec.seed, f"{purpose}sampler", epoch, device=store.device)
        if draw is not None:
            self.rows_TB = draw(labels_N, order)
        else:
            self.rows_TB = identity_batches(labels_N, sampling.identities, sampling.images, sampling.iterations, order)
        self._stored_TB = store.indices(self.rows_TB)  # of all steps at once: no step waits for its own

    def __iter__(self) -> Iterator[Batch]:
        for rows_B, stored_B in zip(self.rows_TB, self._stored_TB, strict=True):
            views = [self.augmented(self._store, stored_B) for _ in range(self._views)]
            yield Batch(views[0] if self._views == 1 else torch.stack(views), rows_B)

    def augmented(self, store: ImageStore, indices_B: Tensor) -> Tensor:
        """Images of any store, augmented with the next random numbers of this epoch; of a group this process's part."""
        part, draws = current().part(len(indices_B)), random_draws(len(indices_B), self._draw)
        return augment(store.batch(indices_B[part]), self._spec.augment, self._spec.data, draws[part])


# Steps ----------------------------------------------------------------------------------------------------------------


def train_steps(
    batches: Iterable[Batch],
    loss_of: Callable[[Batch], tuple[Tensor, Terms]],
    optimizer: GuardedAdam,
    meter: LossMeter,
    after: Callable[[Batch], object] | None = None,
) -> dict[str, float]:
    """A step of the optimizer for every batch.

    Args:
        loss_of: gives what is to fall, and its terms for the meter.
        after: called when a step is done.
    Returns: means of the terms.
    Raises: RunError if a loss is not finite: parameters and optimizer are then as before that step.
    """
    for batch in batches:
        total, terms = loss_of(batch)
        meter.add(total, terms, batch.rows_B)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step_unless(meter.spoilt)
        if after is not None:
            after(batch)
    return meter.flush()
