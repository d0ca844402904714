"""The tables of networks and backbones, and what a network gives to those who train it.

B images of a batch, H heads, D features of a head, M classes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from rapids_slr.networks.network import Network
    from rapids_slr.settings.spec import ImageSpec, ModelSpec

# Places and not functions: a spec is checked against these names without an import of torch.
BACKBONES = {
    "resnet50": "rapids_slr.networks.backbones:resnet50",
    "ibn_resnet50_a": "rapids_slr.networks.backbones:ibn_resnet50_a",
    "resnet18": "rapids_slr.networks.backbones:resnet18",
    "narrow": "rapids_slr.networks.backbones:narrow",
}
"""Backbones by `model.backbone`: where the function is that makes one from a ModelSpec."""

TIMM = "timm:"
"""What a backbone begins with that is a network of timm, by its name there."""

NETWORKS = {
    "two_branch": "rapids_slr.networks.two_branch:TwoBranch",  # the first is that of checkpoints that name none
    "single": "rapids_slr.networks.single:Single",
    "twins": "rapids_slr.networks.twins:Twins",
}
"""Networks by the name that a host asks for (`HostSpec.network`)."""


class Outputs(NamedTuple):
    """What the heads of a network make of a batch, a tuple of H tensors each.

    Attributes:
        pooled: (B, D) float32 of each head, before the neck.
        necked: (B, D) float32 of each head, batch-normalised.
        logits: (B, M) float32 of each head; empty without classifiers.
    """

    pooled: tuple[Tensor, ...]
    necked: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]


def imported(place: str) -> Any:
    """What "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def build_network(name: str, model: ModelSpec, images: ImageSpec) -> Network:
    """A network of NETWORKS with the backbone of `model`, on the CPU, without classifiers.

    Args:
        images: what it takes.
    Raises: InputError if the backbone or its weights cannot be had.
    """
    return imported(NETWORKS[name])(model, images)
