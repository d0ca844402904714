"""The image tower of CLIP (Radford et al., ICML 2021) as plain layers of torch, by the names of its published files."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(features, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(features), nn.LayerNorm(features)
        layers = {
            "c_fc": nn.Linear(features, 4 * features),
            "gelu": QuickGELU(),
            "c_proj": nn.Linear(4 * features, features),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ImageTower(nn.Module):
    """Images (B, 3, H, W) -> features (B, D) of the class token, before they are projected to those of texts."""

    def __init__(
        self, height: int, width: int, patch: int, features: int, depth: int, heads: int, projected: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, features, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(features))
        self.positional_embedding = nn.Parameter(torch.randn((height // patch) * (width // patch) + 1, features))
        self.ln_pre, self.ln_post = nn.LayerNorm(features), nn.LayerNorm(features)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(Block(features, heads) for _ in range(depth)))
        self.proj = nn.Parameter(torch.randn(features, projected))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        return self.ln_post(self.transformer.resblocks(x)[:, 0])
