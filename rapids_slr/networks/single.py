"""The network of one head: what most methods but ABMT train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rapids_slr.networks.backbones import build_backbone
from rapids_slr.networks.base import Outputs
from rapids_slr.networks.network import Neck, Network
from rapids_slr.settings.spec import ModelSpec


class Body(nn.Module):
    """A backbone and the mean over the maps of its last stage: images (B, C, H, W) -> (B, width) float32."""

    def __init__(self, spec: ModelSpec, channels: int) -> None:
        super().__init__()
        backbone = build_backbone(spec, channels)
        self.trunk, self.last_stage, self.width = backbone.trunk, backbone.last_stage, backbone.width

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)  # as the weights lie
        return self.last_stage(self.trunk(images)).mean((2, 3), dtype=torch.float32)


class Single(Network):
    """A body and a neck.

    The body computes in the precision of the spec, up to its mean; neck and classifier always in float32.

    Args:
        spec: backbone, its weights, and how it is computed.
        channels: 1 or 3, channels of an image.
    Source: Luo et al., Bag of Tricks, CVPR Workshops 2019, as MMT, SpCL and cluster-contrast have it.
    """

    heads = ("average",)

    def __init__(self, spec: ModelSpec, channels: int = 3) -> None:
        body = Body(spec, channels)
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
