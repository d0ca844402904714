"""The two-branch network: two views of the same trunk that teach each other."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rapids_slr.networks.backbones import build_backbone
from rapids_slr.networks.base import Outputs
from rapids_slr.networks.network import ANY, Neck, Network
from rapids_slr.settings.spec import ImageSpec, ModelSpec


class TwoBranch(Network):
    """Branch 1 averages over the maps of the last stage; branch 2 takes the maximum behind a copy and one more block.

    Trunk and branches compute in the precision of the spec; pooling, necks and classifiers always in float32.

    Args:
        spec: backbone, its weights, and how it is computed.
        images: of how many channels they are.
    Source: Chen et al., Enhancing Diversity in Teacher-Student Networks via Asymmetric Branches (ABMT), WACV 2021.
    """

    heads = ("average", "maximum")

    def __init__(self, spec: ModelSpec, images: ImageSpec = ANY) -> None:
        backbone = build_backbone(spec, images.channels)
        super().__init__(spec, backbone.width)
        self.trunk = backbone.trunk
        second = nn.Sequential(copy.deepcopy(backbone.last_stage), backbone.extra_block)
        self.branches = nn.ModuleList([backbone.last_stage, second])
        self.necks = nn.ModuleList([Neck(backbone.width), Neck(backbone.width)])
        self.classifiers = nn.ModuleList()

    def parts(self) -> list[nn.Module]:
        return [self.trunk, *self.branches]

    def forward(self, images: Tensor) -> Outputs:
        images = images.contiguous(memory_format=torch.channels_last)  # as the weights lie
        with self.autocast(images.device):
            maps = self.trunk(images)
            first, second = self.branches[0](maps), self.branches[1](maps)
        # A mean rounds and so adds in float32; a maximum is exact in any precision.
        average, maximum = first.mean((2, 3), dtype=torch.float32), second.amax((2, 3)).float()
        necked = (self.necks[0](average), self.necks[1](maximum))
        return Outputs((average, maximum), necked, self.classify(necked))
