"""The images of a run: the splits of its source and target, decoded when they are first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from rapids_slr.data.augment import augment
from rapids_slr.data.domain import Domain, Split, joined
from rapids_slr.data.imagefile import read_images
from rapids_slr.data.layouts import SplitName
from rapids_slr.data.read import read_domain
from rapids_slr.data.store import ImageStore
from rapids_slr.errors import InputError
from rapids_slr.group import current
from rapids_slr.seeds import generator
from rapids_slr.settings.spec import DomainSpec, EvaluationSpec, RunSpec

Role = Literal["target", "source"]
"""What a domain is in a run."""
Bar = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""bar(label, total) opens a progress bar and gives what is called with the images done."""


@dataclass(frozen=True)
class Images:
    """A split of a domain, decoded: row i of the store is name i of the split."""

    split: Split
    store: ImageStore


class RunImages:
    """Source and target of a run.

    Args:
        device: where batches are wanted.
        bar: shows what is read.
        warn: told of images that are left out.
    Raises: InputError, whenever a split is first asked for, if it cannot be read.
    """

    def __init__(self, spec: RunSpec, device: torch.device, bar: Bar, warn: Callable[[str], None]) -> None:
        self._spec, self._device, self._bar, self.warn = spec, device, bar, warn

    @property
    def evaluation(self) -> EvaluationSpec:
        """How the run wants its networks scored."""
        return self._spec.evaluation

    @property
    def has_source(self) -> bool:
        return bool(self._spec.data.sources)

    @cached_property
    def source(self) -> Images:
        """The labelled source, its training split; of several sources all images, one source after the other."""
        if not self._spec.data.sources:
            raise InputError("data.source is missing: pre-training and clusters.source_weight need a labelled source")
        return self._load(self.source_domain, "train", "source")

    @cached_property
    def source_domain(self) -> Domain:
        domains = [self._domain(spec, "source") for spec in self._spec.data.sources]
        for domain in domains:
            if not domain.is_labelled:
                raise InputError(f"data.source: {domain.name} tells no identity of its images; give a labelled source")
        return domains[0] if len(domains) == 1 else joined(domains, self._spec.task.by_name)

    @cached_property
    def target(self) -> Images:
        """The images to adapt to."""
        return self._load(self.target_domain, "train", "target")

    @cached_property
    def target_domain(self) -> Domain:
        return self._domain(self._spec.data.target, "target")

    def domain(self, role: Role) -> Domain:
        return self.target_domain if role == "target" else self.source_domain

    def test(self, split: SplitName, role: Role = "target") -> Images:
        """A split of a domain that tests a network; whoever asks keeps it."""
        return self._load(self.domain(role), split, role)

    def training_batches(self, images: Images) -> Iterator[Tensor]:
        """All images once, in random order and augmented as in training, float32 (B, C, H, W)."""
        spec = self._spec
        order_N = torch.randperm(len(images.store), generator=generator(spec.seed, "batchnorm order"))
        draw = generator(spec.seed, "batchnorm augmentation")
        for indices_B in order_N.split(spec.features.batch):
            yield augment(images.store.batch(indices_B), spec.augment, spec.data, draw)

    def _domain(self, spec: DomainSpec, role: str) -> Domain:
        domain = read_domain(spec, self._spec.data.on_error, self._spec.task.asks)
        for line in domain.unused:
            self.warn(f"{role}, not used: {line}")
        return domain

    def _load(self, domain: Domain, split_name: SplitName, role: str) -> Images:
        split = domain.split(split_name)
        with self._bar(f"reading {role} {split_name}", len(split)) as report:
            store, kept = read_images(domain, split, self._spec.data, self._device, report)
        _check_alike(kept, f"{role} {split_name}")
        if len(kept) < len(split):
            self.warn(
                f"{role} {split_name}: {len(split) - len(kept)} of {len(split)} images could not be read; left out"
            )
        return Images(kept, store)


def _check_alike(split: Split, what: str) -> None:
    """Raises: InputError if this process of a group has found other images than the first one."""
    own = len(split), hashlib.sha256("\n".join(split.names).encode()).hexdigest()
    first = current().from_first(own)
    if own != first:
        raise InputError(
            f"{what}: process {current().rank} can read {own[0]} images, and the first process other ones "
            f"({first[0]}); give every machine the same data, and look at it with `rapids-slr data check`"
        )
