"""What a network is to those who train and use it, and the tables of networks and backbones.

B images of a batch, C classes, d features of a head, H heads, m classes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rapids_slr.settings.spec import ModelSpec

BACKBONES = {
    "resnet50": "rapids_slr.networks.backbones:resnet50",
    "ibn_resnet50_a": "rapids_slr.networks.backbones:ibn_resnet50_a",
    "resnet18": "rapids_slr.networks.backbones:resnet18",
    "narrow": "rapids_slr.networks.backbones:narrow",
}
"""Backbones by `model.backbone`: where the function is that makes one from a ModelSpec."""

NETWORKS = {"two_branch": "rapids_slr.networks.two_branch:TwoBranch"}
"""Networks by the name that a host asks for (`HostSpec.network`)."""


class Outputs(NamedTuple):
    """What the heads of a network make of a batch, a tuple of H tensors each.

    Attributes:
        pooled: (B, d) float32 of each head, before the neck.
        necked: (B, d) float32 of each head, batch-normalised.
        logits: (B, m) float32 of each head; empty without classifiers.
    """

    pooled: tuple[Tensor, ...]
    necked: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]


class Network(Protocol):
    """A torch.nn.Module with one head or several, whose features are theirs side by side."""

    heads: tuple[str, ...]
    """Names of the heads; a row of features consists of their equal parts, in this order."""
    feature_dim: int
    """Length of a row of features."""

    def place(self, device: torch.device | str) -> Self:
        """Move to where the network will work."""

    def embed(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images -> (B, feature_dim) float32 rows of unit length."""

    def set_classifiers(self, width: int, generator: torch.Generator) -> None:
        """Classifiers for `width` classes with small random weights."""

    def set_classifiers_from(self, centroids: Tensor) -> None:
        """A class for each centroid (m, feature_dim)."""

    def drop_classifiers(self) -> None: ...


def imported(place: str) -> Any:
    """What "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def build_network(name: str, model: ModelSpec, channels: int) -> Any:
    """A network of NETWORKS with the backbone of `model`, on the CPU, without classifiers.

    Raises: InputError if the backbone or its weights cannot be had.
    """
    return imported(NETWORKS[name])(model, channels)
