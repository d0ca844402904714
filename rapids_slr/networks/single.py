"""The network of one head: what most methods but ABMT train."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rapids_slr.networks.backbones import build_backbone
from rapids_slr.networks.base import TIMM, Outputs
from rapids_slr.networks.network import ANY, Neck, Network
from rapids_slr.settings.spec import ImageSpec, ModelSpec

if TYPE_CHECKING:
    from rapids_slr.networks.timm import TimmBody


class Body(nn.Module):
    """A backbone and the mean over the maps of its last stage: images (B, C, H, W) -> (B, width) float32."""

    def __init__(self, spec: ModelSpec, channels: int) -> None:
        super().__init__()
        backbone = build_backbone(spec, channels)
        self.trunk, self.last_stage, self.width = backbone.trunk, backbone.last_stage, backbone.width

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)  # as the weights lie
        return self.last_stage(self.trunk(images)).mean((2, 3), dtype=torch.float32)


def body_of(spec: ModelSpec, images: ImageSpec) -> Body | TimmBody:
    """The body with the backbone of the spec: one that is cut for it, or a network of timm."""
    if not spec.backbone.startswith(TIMM):
        return Body(spec, images.channels)
    from rapids_slr.networks.timm import TimmBody

    return TimmBody(spec, images)


class Single(Network):
    """A body and a neck.

    The body computes in the precision of the spec, up to its mean; neck and classifier always in float32.

    Args:
        spec: backbone, its weights, and how it is computed.
        images: what it takes; size and normalisation matter to timm's networks alone.
    Source: Luo et al., Bag of Tricks, CVPR Workshops 2019, as MMT, SpCL and cluster-contrast have it.
    """

    heads = ("average",)

    def __init__(self, spec: ModelSpec, images: ImageSpec = ANY) -> None:
        body = body_of(spec, images)
        super().__init__(spec, body.width)
        self.body = body
        self.necks = nn.ModuleList([Neck(body.width)])
        self.classifiers = nn.ModuleList()

    def parts(self) -> list[nn.Module]:
        return [self.body]

    def forward(self, images: Tensor) -> Outputs:
        with self.autocast(images.device):
            pooled = self.body(images)
        necked = (self.necks[0](pooled),)
        return Outputs((pooled,), necked, self.classify(necked))
