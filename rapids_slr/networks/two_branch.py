"""The two-branch network: two views of the same trunk that teach each other."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapids_slr.errors import InputError
from rapids_slr.networks.backbones import build_backbone
from rapids_slr.networks.base import Outputs
from rapids_slr.settings.spec import ModelSpec


class Neck(nn.BatchNorm1d):
    """BatchNorm that scales but does not shift."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_parameter("bias", None)


class TwoBranch(nn.Module):
    """Branch 1 averages over the maps of the last stage; branch 2 takes the maximum behind a copy and one more block.

    Weights are float32. Trunk and branches compute in the precision of the spec; pooling, necks and classifiers always
    in float32.

    Args:
        spec: backbone, its weights, and how it is computed.
        channels: 1 or 3, channels of an image.
    Source: Chen et al., Enhancing Diversity in Teacher-Student Networks via Asymmetric Branches (ABMT), WACV 2021.
    """

    heads = ("average", "maximum")

    def __init__(self, spec: ModelSpec, channels: int = 3) -> None:
        super().__init__()
        self.precision, self.compiled = spec.precision, spec.compile
        backbone = build_backbone(spec, channels)
        self.trunk = backbone.trunk
        second = nn.Sequential(copy.deepcopy(backbone.last_stage), backbone.extra_block)
        self.branches = nn.ModuleList([backbone.last_stage, second])
        self.necks = nn.ModuleList([Neck(backbone.width), Neck(backbone.width)])
        self.classifiers = nn.ModuleList()
        self.branch_dim = backbone.width

    @property
    def feature_dim(self) -> int:
        """Length of an embedding: both branches."""
        return 2 * self.branch_dim

    def place(self, device: torch.device | str) -> TwoBranch:
        """Move to a device where the network will work: weights lie channels-last, and what the spec wants compiled is
        compiled at its first batch of a kind."""
        self.to(device)
        self.to(memory_format=torch.channels_last)
        if self.compiled:
            for part in (self.trunk, *self.branches):
                part.compile()
        return self

    def forward(self, images: Tensor) -> Outputs:
        """(B, C, H, W) normalised images -> pooled, necked and classified, for each branch."""
        images = images.contiguous(memory_format=torch.channels_last)
        with self._autocast(images.device):
            maps = self.trunk(images)
            first, second = self.branches[0](maps), self.branches[1](maps)
        average, maximum = first.mean((2, 3), dtype=torch.float32), second.amax((2, 3)).float()
        necked = (self.necks[0](average), self.necks[1](maximum))
        return Outputs((average, maximum), necked, self.classify(necked))

    def _autocast(self, device: torch.device) -> AbstractContextManager:
        bfloat16 = takes_bfloat16(device) if self.precision == "auto" else self.precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()

    def classify(self, necked: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Logits (B, m) of each branch; empty without classifiers."""
        if not self.classifiers:
            return ()
        return tuple(classifier(x) for classifier, x in zip(self.classifiers, necked, strict=True))

    def embed(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images -> (B, feature_dim) float32 rows of unit length."""
        return F.normalize(torch.cat(self(images).necked, dim=1).float(), dim=1)

    def set_classifiers(self, width: int, generator: torch.Generator) -> None:
        """Classifiers for `width` classes with small random weights (standard deviation 0.001)."""
        weights = [torch.empty(width, self.branch_dim).normal_(std=0.001, generator=generator) for _ in self.branches]
        self._set_classifiers(weights)

    def set_classifiers_from(self, centroids: Tensor) -> None:
        """One class for each centroid (m, feature_dim): each branch starts from its own half, rows of unit length."""
        if centroids.ndim != 2 or centroids.shape[1] != self.feature_dim or len(centroids) == 0:
            raise InputError(
                f"centroids: expected (m, {self.feature_dim}) with m >= 1, got {tuple(centroids.shape)}; "
                "average the features that embed() gives, class by class"
            )
        self._set_classifiers([F.normalize(half.float(), dim=1) for half in centroids.split(self.branch_dim, dim=1)])

    def drop_classifiers(self) -> None:
        self.classifiers = nn.ModuleList()

    def _set_classifiers(self, weights: list[Tensor]) -> None:
        self.drop_classifiers()
        device = next(self.necks.parameters()).device
        for weight in weights:
            classifier = nn.Linear(self.branch_dim, len(weight), bias=False, device="meta")
            classifier.weight = nn.Parameter(weight.detach().to(device))
            self.classifiers.append(classifier)


def takes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is the faster way on this device: a GPU that has it (compute capability 8.0 and above)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
