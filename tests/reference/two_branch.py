"""The two-branch ResNet-50 and IBN-ResNet-50-a, tensor by tensor and layer by layer, on a plain dict of tensors.

Written from what the sources do, without torchvision. Names are those that the sources' state dicts have:

- ImageNet networks: `conv1`, `bn1`, `layer1` to `layer4`, `fc`; torchvision's resnet50, and resnet50_ibn_a of
  github.com/XingangPan/IBN-Net (ibnnet/resnet_ibn.py, ibnnet/modules.py), where `bn1` of every block of stages 1 to 3
  is an InstanceNorm of the first half of the channels, `IN`, and a BatchNorm of the rest, `BN`.
- Two branches: github.com/chenhao2345/ABMT, abmt/models/resnet_AB.py and resnet_AB_ibn.py. The trunk is `base`, a list
  of conv1, bn1, maxpool, layer1, layer2, layer3: ResNet-50 goes from bn1 to maxpool ("no relu"), IBN-ResNet-50-a has a
  ReLU in between and counts on from it. `global_branch` is layer4 with stride 1, `max_branch` a copy of it and one
  Bottleneck; `feat_bn` and `feat_bn_max` are the necks, whose `bias` stays 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = dict[str, tuple[int, ...]]
STAGES = {"layer1": (3, 64), "layer2": (4, 128), "layer3": (6, 256), "layer4": (3, 512)}  # blocks, inner width
FIRST_STRIDE = {"layer1": 1, "layer2": 2, "layer3": 2, "layer4": 1}  # two branches; layer4 of ImageNet networks has 2
EPSILON = 1e-5


# Names and shapes -----------------------------------------------------------------------------------------------------


def batch_norm_shapes(name: str, width: int) -> Shapes:
    shapes: Shapes = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def bottleneck_shapes(name: str, inputs: int, width: int, ibn: bool, shortcut: bool) -> Shapes:
    shapes: Shapes = {f"{name}.conv1.weight": (width, inputs, 1, 1)}
    if ibn:
        shapes |= {f"{name}.bn1.IN.weight": (width // 2,), f"{name}.bn1.IN.bias": (width // 2,)}
        shapes |= batch_norm_shapes(f"{name}.bn1.BN", width // 2)
    else:
        shapes |= batch_norm_shapes(f"{name}.bn1", width)
    shapes |= {f"{name}.conv2.weight": (width, width, 3, 3)} | batch_norm_shapes(f"{name}.bn2", width)
    shapes |= {f"{name}.conv3.weight": (4 * width, width, 1, 1)} | batch_norm_shapes(f"{name}.bn3", 4 * width)
    if shortcut:
        shapes |= {f"{name}.downsample.0.weight": (4 * width, inputs, 1, 1)}
        shapes |= batch_norm_shapes(f"{name}.downsample.1", 4 * width)
    return shapes


def stage_shapes(name: str, stage: str, ibn: bool) -> Shapes:
    blocks, width = STAGES[stage]
    inputs = 64 if stage == "layer1" else 2 * width
    shapes: Shapes = {}
    for block in range(blocks):
        first = block == 0
        shapes |= bottleneck_shapes(
            f"{name}.{block}", inputs if first else 4 * width, width, ibn and stage != "layer4", first
        )
    return shapes


def imagenet_shapes(ibn: bool) -> Shapes:
    """Names and shapes of an ImageNet file."""
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7)} | batch_norm_shapes("bn1", 64)
    for stage in STAGES:
        shapes |= stage_shapes(stage, stage, ibn)
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def trunk_names(ibn: bool) -> dict[str, str]:
    """Part of the trunk -> its name in ABMT."""
    parts = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
    if not ibn:
        parts.remove("relu")
    return {part: f"base.{place}" for place, part in enumerate(parts)}


def two_branch_shapes(ibn: bool) -> Shapes:
    """Names and shapes of ABMT's network without classifiers."""
    at = trunk_names(ibn)
    shapes: Shapes = {f"{at['conv1']}.weight": (64, 3, 7, 7)} | batch_norm_shapes(at["bn1"], 64)
    for stage in ("layer1", "layer2", "layer3"):
        shapes |= stage_shapes(at[stage], stage, ibn)
    shapes |= stage_shapes("global_branch", "layer4", ibn) | stage_shapes("max_branch.0", "layer4", ibn)
    shapes |= bottleneck_shapes("max_branch.1", 2048, 512, ibn=False, shortcut=False)
    return shapes | batch_norm_shapes("feat_bn", 2048) | batch_norm_shapes("feat_bn_max", 2048)


def parameters(shapes: Shapes) -> int:
    """Numbers that are learnt, the biases of the necks left out: they stay 0."""
    return sum(
        torch.Size(shape).numel()
        for name, shape in shapes.items()
        if name.rpartition(".")[2] in ("weight", "bias") and name not in ("feat_bn.bias", "feat_bn_max.bias")
    )


def draw(shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors that keep the activations of a deep network in bounds; necks without a shift."""
    state = {}
    for name, shape in shapes.items():
        kind = name.rpartition(".")[2]
        if kind == "num_batches_tracked":
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            state[name] = torch.randn(shape, generator=generator) / torch.Size(shape[1:]).numel() ** 0.5
        elif kind in ("weight", "running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(shape, generator=generator) / 5
    return state | {name: torch.zeros(shapes[name]) for name in ("feat_bn.bias", "feat_bn_max.bias") if name in shapes}


# Forward --------------------------------------------------------------------------------------------------------------


class Network:
    """ABMT's network on a state dict; `training` normalises by the batch."""

    def __init__(self, state: dict[str, Tensor], ibn: bool, training: bool) -> None:
        self.state, self.ibn, self.training = state, ibn, training

    def convolve(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def normalise(self, name: str, x: Tensor) -> Tensor:
        """BatchNorm; IBN where the state has it."""
        if f"{name}.IN.weight" in self.state:
            half = len(self.state[f"{name}.IN.weight"])
            alone, together = x[:, :half], x[:, half:]
            mean, var = alone.mean((2, 3), keepdim=True), alone.var((2, 3), correction=0, keepdim=True)
            return torch.cat([self.scale(f"{name}.IN", alone, mean, var), self.normalise(f"{name}.BN", together)], 1)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        if self.training:
            mean, var = x.mean(axes), x.var(axes, correction=0)
        else:
            mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        return self.scale(name, x, mean.reshape(shape), var.reshape(shape))

    def scale(self, name: str, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        shape = [1, -1, *[1] * (x.ndim - 2)]
        weight, bias = (self.state[f"{name}.{part}"].reshape(shape) for part in ("weight", "bias"))
        return (x - mean) / (var + EPSILON).sqrt() * weight + bias

    def bottleneck(self, name: str, x: Tensor, stride: int) -> Tensor:
        y = self.normalise(f"{name}.bn1", self.convolve(f"{name}.conv1", x)).relu()
        y = self.normalise(f"{name}.bn2", self.convolve(f"{name}.conv2", y, stride)).relu()
        y = self.normalise(f"{name}.bn3", self.convolve(f"{name}.conv3", y))
        if f"{name}.downsample.0.weight" in self.state:
            x = self.normalise(f"{name}.downsample.1", self.convolve(f"{name}.downsample.0", x, stride))
        return (x + y).relu()

    def stage(self, name: str, stage: str, x: Tensor) -> Tensor:
        for block in range(STAGES[stage][0]):
            x = self.bottleneck(f"{name}.{block}", x, FIRST_STRIDE[stage] if block == 0 else 1)
        return x

    def trunk(self, images: Tensor) -> Tensor:
        at = trunk_names(self.ibn)
        x = self.normalise(at["bn1"], self.convolve(at["conv1"], images, 2))
        if "relu" in at:
            x = x.relu()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in ("layer1", "layer2", "layer3"):
            x = self.stage(at[stage], stage, x)
        return x

    def branches(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        first = self.stage("global_branch", "layer4", maps)
        second = self.bottleneck("max_branch.1", self.stage("max_branch.0", "layer4", maps), 1)
        return first, second

    def pooled_and_necked(self, images: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        first, second = self.branches(self.trunk(images))
        pooled = first.flatten(2).mean(2), second.flatten(2).max(2).values
        return pooled, (self.normalise("feat_bn", pooled[0]), self.normalise("feat_bn_max", pooled[1]))
