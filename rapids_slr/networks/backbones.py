"""Residual networks cut where the two-branch network joins them: a trunk, a last stage, one more block.

The last stage of a torchvision ResNet keeps its resolution (stride 1). There is no ReLU after the stem but in
IBN-ResNet-50-a: so they are in ABMT. Weights are loaded by name into the whole network before it is cut, so official
files fit as they are.
"""

from __future__ import annotations

import urllib.error
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models import ResNet18_Weights, ResNet50_Weights
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from rapids_slr.errors import InputError
from rapids_slr.networks.base import BACKBONES, imported
from rapids_slr.networks.weights import load_weights, read_weights, warn_of_left_out
from rapids_slr.settings.spec import ModelSpec

IBN_RESNET50_A_URL = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/resnet50_ibn_a-d9d0bb7b.pth"

ONEDNN_BLOCK = 8
"""Channels that oneDNN takes at once with AVX2."""
RELU_AFTER_STEM = ("ibn_resnet50_a",)
"""ABMT, as MMT before it, leaves out the ReLU after the stem of ResNet-50 and keeps that of IBN-ResNet-50-a."""


class Backbone(NamedTuple):
    """The parts of one residual network.

    Attributes:
        trunk: (B, C, H, W) images -> maps, all stages but the last.
        last_stage: trunk maps -> (B, width, h, w) maps.
        extra_block: one more block of the same kind, (B, width, h, w) -> the same.
        width: channels behind the last stage.
    """

    trunk: nn.Sequential
    last_stage: nn.Sequential
    extra_block: nn.Module
    width: int


def build_backbone(spec: ModelSpec, channels: int) -> Backbone:
    """The backbone that `spec` names, with `channels` input channels, its weights loaded where the spec gives some.

    A function of BACKBONES gives a residual network with torchvision's names, which is cut here; or, of any other kind,
    a Backbone that is ready.

    Raises: InputError if the widths, or the file of weights, do not fit.
    """
    network = imported(BACKBONES[spec.backbone])(spec)
    if isinstance(network, Backbone):
        return network
    # Before the weights are read, which are fitted to the stem they meet.
    if channels != network.conv1.in_channels:
        network.conv1 = _first_convolution(network.conv1, channels)
    if spec.weights is not None:
        _load_weights(network, spec)
    return _cut(network, spec.backbone in RELU_AFTER_STEM)


# Networks -------------------------------------------------------------------------------------------------------------


class InstanceBatchNorm(nn.Module):
    """IBN-a: InstanceNorm on the first half of the channels, BatchNorm on the rest.

    Source: Pan et al., Two at Once, ECCV 2018. `IN` and `BN` are the names in the official files.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.IN = nn.InstanceNorm2d(half, affine=True)
        self.BN = nn.BatchNorm2d(channels - half)

    def forward(self, maps: Tensor) -> Tensor:
        first, rest = maps.split([self.IN.num_features, self.BN.num_features], dim=1)
        return torch.cat((self.IN(first), self.BN(rest)), dim=1)


class Picked(nn.Conv2d):
    """A 1 x 1 convolution that picks the places of its stride first, and then has none.

    For fewer than ONEDNN_BLOCK channels: of such a one with a stride the backward pass of oneDNN 3.13, that of torch
    2.15, writes past the end of its memory on CPUs that have AVX2 and no AVX-512, and the program crashes.
    """

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(maps[:, :, ::rows, ::columns], self.weight, self.bias)


class NarrowResNet(nn.Module):
    """Three stages of one basic block each behind a 5 x 5 stem of stride 2, without max pooling: 32 -> 16, 16, 8, 4."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = nn.Sequential(_basic_block(first, first, 1))
        self.layer2 = nn.Sequential(_basic_block(first, second, 2))
        self.layer3 = nn.Sequential(_basic_block(second, third, 2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _basic_block(inputs: int, width: int, stride: int) -> BasicBlock:
    shortcut = None
    if stride != 1 or inputs != width:
        kind = nn.Conv2d if inputs >= ONEDNN_BLOCK else Picked
        shortcut = nn.Sequential(kind(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    return BasicBlock(inputs, width, stride, shortcut)


def narrow(spec: ModelSpec) -> NarrowResNet:
    if len(spec.widths) != 3:
        raise InputError(f"model.widths: narrow has three stages, got {len(spec.widths)} widths {spec.widths}")
    return NarrowResNet(spec.widths)


def resnet18(spec: ModelSpec) -> ResNet:
    network = models.resnet18()
    # Of a basic block the first convolution strides, of a bottleneck the second; the shortcut has to follow.
    network.layer4[0].conv1.stride = network.layer4[0].downsample[0].stride = (1, 1)
    return network


def resnet50(spec: ModelSpec) -> ResNet:
    network = models.resnet50()
    network.layer4[0].conv2.stride = network.layer4[0].downsample[0].stride = (1, 1)
    return network


def ibn_resnet50_a(spec: ModelSpec) -> ResNet:
    network = resnet50(spec)
    # The last stage has none, as in the official files.
    for stage in (network.layer1, network.layer2, network.layer3):
        for block in stage:
            block.bn1 = InstanceBatchNorm(block.bn1.num_features)
    return network


def _first_convolution(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The same convolution for another number of channels, with weights drawn anew as torchvision does."""
    size, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    new = nn.Conv2d(channels, conv.out_channels, size, stride, int(padding), bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def _cut(network: ResNet | NarrowResNet, relu_after_stem: bool) -> Backbone:
    stem = ("conv1", "bn1", "relu", "maxpool") if relu_after_stem else ("conv1", "bn1", "maxpool")
    # `narrow` has no max pooling.
    trunk = [name for name in (*stem, "layer1", "layer2", "layer3") if hasattr(network, name)]
    # `narrow` has no layer4: its third stage is the last.
    last = "layer4" if hasattr(network, "layer4") else trunk.pop()
    last_stage = getattr(network, last)
    block = last_stage[-1]
    if isinstance(block, Bottleneck):
        width = block.conv3.out_channels
        extra: nn.Module = Bottleneck(width, width // Bottleneck.expansion)
    else:
        width = block.conv2.out_channels
        extra = BasicBlock(width, width)
    _initialise_extra_block(extra)
    # By name, so that a checkpoint says conv1, bn1, layer1 and not 0, 1, 2.
    return Backbone(
        nn.Sequential(OrderedDict((name, getattr(network, name)) for name in trunk)), last_stage, extra, width
    )


def _initialise_extra_block(block: nn.Module) -> None:
    """No file has weights for this block; drawn as the authors of the asymmetric branches (ABMT) draw them."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


# Weights --------------------------------------------------------------------------------------------------------------


def _load_weights(network: ResNet | NarrowResNet, spec: ModelSpec) -> None:
    assert spec.weights is not None
    if spec.weights == "imagenet":
        load_weights(network, _imagenet(spec.backbone), spec.weights)
    else:
        warn_of_left_out(load_weights(network, read_weights(Path(spec.weights)), spec.weights), spec.weights)


def _imagenet(backbone: str) -> dict[str, Tensor]:
    try:
        match backbone:
            case "resnet18":
                return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
            case "resnet50":
                return dict(ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
            case "ibn_resnet50_a":
                return torch.hub.load_state_dict_from_url(
                    IBN_RESNET50_A_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
                )
    except (urllib.error.URLError, OSError, RuntimeError) as fault:
        raise InputError(
            f"model.weights: the ImageNet weights of {backbone} could not be downloaded ({fault}); "
            "fetch the file elsewhere and give its path"
        ) from fault
    raise InputError(f"model.weights: there are no ImageNet weights for {backbone}; leave weights out")
