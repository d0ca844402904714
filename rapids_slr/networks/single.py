"""The network of one head: what most methods but ABMT train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rapids_slr.networks.backbones import build_backbone
from rapids_slr.networks.base import Outputs
from rapids_slr.networks.network import Neck, Network
from rapids_slr.settings.spec import ModelSpec


class Single(Network):
    """The mean over the maps of the last stage, and a neck.

    The backbone computes in the precision of the spec; pooling, neck and classifier always in float32.

    Args:
        spec: backbone, its weights, and how it is computed.
        channels: 1 or 3, channels of an image.
    Source: Luo et al., Bag of Tricks, CVPR Workshops 2019, as MMT, SpCL and cluster-contrast have it.
    """

    heads = ("average",)

    def __init__(self, spec: ModelSpec, channels: int = 3) -> None:
        backbone = build_backbone(spec, channels)
        super().__init__(spec, backbone.width)
        self.trunk, self.last_stage = backbone.trunk, backbone.last_stage
        self.necks = nn.ModuleList([Neck(backbone.width)])
        self.classifiers = nn.ModuleList()

    def parts(self) -> list[nn.Module]:
        return [self.trunk, self.last_stage]

    def forward(self, images: Tensor) -> Outputs:
        images = images.contiguous(memory_format=torch.channels_last)  # as the weights lie
        with self.autocast(images.device):
            maps = self.last_stage(self.trunk(images))
        pooled = maps.mean((2, 3), dtype=torch.float32)
        necked = (self.necks[0](pooled),)
        return Outputs((pooled,), necked, self.classify(necked))
