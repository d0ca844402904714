"""What all networks share: heads side by side, each with a neck and, while it is trained, a classifier.

B images of a batch, H heads, D features of a head, M classes.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapids_slr.engine.backend import takes_bfloat16
from rapids_slr.errors import InputError
from rapids_slr.networks.base import Outputs
from rapids_slr.settings.spec import ComputeSpec, ImageSpec

ANY = ImageSpec()
"""Images of three channels, for networks to which size and normalisation are all one."""


class Neck(nn.BatchNorm1d):
    """BatchNorm that scales but does not shift."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_parameter("bias", None)


def features_of(outputs: Outputs) -> Tensor:
    """The necked outputs of all heads, one beside the other: (B, feature_dim) float32 rows of unit length."""
    return F.normalize(torch.cat(outputs.necked, dim=1).float(), dim=1)


class Network(nn.Module):
    """A network of one head or several, whose features are the necked outputs of all heads, one beside the other.

    A subclass makes `necks` and then `classifiers`, one after the other, as their order is that of checkpoints.

    Args:
        compute: how it is computed. Weights are float32; what `forward` does within `autocast` is in the precision
            that is asked for.
        head_dim: D.
    """

    heads: ClassVar[tuple[str, ...]]
    """Names of the heads, in the order of a row of features."""
    views: ClassVar[int] = 1
    """Augmented views of an image that it learns from at once; with several, `forward` takes them too."""
    necks: nn.ModuleList
    classifiers: nn.ModuleList

    def __init__(self, compute: ComputeSpec, head_dim: int) -> None:
        super().__init__()
        self.precision, self.compiled, self.head_dim = compute.precision, compute.compile, head_dim

    @abstractmethod
    def forward(self, images: Tensor) -> Outputs:
        """(B, C, H, W) normalised images, or (views, B, C, H, W) -> pooled, necked and classified, for each head."""

    @abstractmethod
    def parts(self) -> list[nn.Module]:
        """The parts that are worth compiling, each by itself."""

    @property
    def feature_dim(self) -> int:
        """Length of a row of features: all heads."""
        return len(self.heads) * self.head_dim

    def place(self, device: torch.device | str) -> Self:
        """Move to a device where the network will work: weights lie channels-last, and what the spec wants compiled is
        compiled at its first batch of a kind."""
        # Two calls: torch's stubs take one of them at a time.
        self.to(device)
        self.to(memory_format=torch.channels_last)
        if self.compiled:
            for part in self.parts():
                part.compile()  # in place; torch.compile() would put _orig_mod into the names of checkpoints
        return self

    def frozen_copy(self) -> Self:
        """The same network, on its device, that takes no gradient."""
        copied = copy.deepcopy(self).requires_grad_(False)
        return copied.place(next(self.parameters()).device)  # a copy of what was compiled is not

    def autocast(self, device: torch.device) -> AbstractContextManager:
        bfloat16 = takes_bfloat16(device) if self.precision == "auto" else self.precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()

    def embed(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images -> (B, feature_dim) float32 rows of unit length."""
        return features_of(self(images))

    # Classifiers, which come and go with the classes ------------------------------------------------------------------

    def classify(self, necked: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Logits (B, M) of each head; empty without classifiers."""
        if not self.classifiers:
            return ()
        return tuple(classifier(x) for classifier, x in zip(self.classifiers, necked, strict=True))

    def set_classifiers(self, width: int, generator: torch.Generator) -> None:
        """Classifiers for `width` classes with small random weights (standard deviation 0.001)."""
        # On the CPU, so that every engine starts from the same weights.
        self._set_classifiers(
            [torch.empty(width, self.head_dim).normal_(std=0.001, generator=generator) for _ in self.heads]
        )

    def set_classifiers_from(self, centroids: Tensor) -> None:
        """One class for each centroid (M, feature_dim): each head starts from its own part, rows of unit length."""
        if centroids.ndim != 2 or centroids.shape[1] != self.feature_dim or len(centroids) == 0:
            raise InputError(
                f"centroids: expected (m, {self.feature_dim}) with m >= 1, got {tuple(centroids.shape)}; "
                "average the features that embed() gives, class by class"
            )
        self._set_classifiers([F.normalize(part.float(), dim=1) for part in centroids.split(self.head_dim, dim=1)])

    def drop_classifiers(self) -> None:
        self.classifiers = nn.ModuleList()

    def _set_classifiers(self, weights: list[Tensor]) -> None:
        self.drop_classifiers()
        device = next(self.necks.parameters()).device
        for weight in weights:
            # On `meta` nothing is drawn: weights are given, and the global generator stays where it is.
            classifier = nn.Linear(self.head_dim, len(weight), bias=False, device="meta")
            classifier.weight = nn.Parameter(weight.detach().to(device))
            self.classifiers.append(classifier)
