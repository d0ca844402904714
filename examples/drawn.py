"""What the examples share: images of identities under clutter, a small network of timm's, and the command line."""

from __future__ import annotations

import argparse

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

IDENTITIES, IMAGES, SIZE, CLUTTER = 40, 12, 32, 0.4


def options(argv: list[str] | None, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--no-slr", action="store_true", help="train on the labels of DBSCAN as they are")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def draw_images() -> tuple[Tensor, Tensor]:
    """Images (N, 3, SIZE, SIZE), and their identities (N,), which serve for scores alone."""
    identity_N = torch.arange(IDENTITIES).repeat_interleave(IMAGES)
    N = len(identity_N)

    def patterns(number: int, cells: int) -> Tensor:
        return interpolate(torch.randn(number, 3, cells, cells), SIZE, mode="bilinear")

    clutter = torch.einsum("nk,kchw->nchw", torch.randn(N, 6), patterns(6, 4))
    return patterns(IDENTITIES, 8)[identity_N] + CLUTTER * clutter + 0.3 * torch.randn(N, 3, SIZE, SIZE), identity_N


def augment(images: Tensor) -> Tensor:
    """Shifted by up to two places, with light and noise of their own."""
    light = 1 + 0.2 * torch.randn(len(images), 1, 1, 1)
    return images.roll(torch.randint(-2, 3, (2,)).tolist(), (2, 3)) * light + 0.3 * torch.randn_like(images)


def new_encoder() -> nn.Module:
    """From images to features (N, 96), with weights that have learnt nothing yet."""
    return timm.create_model("test_convnext", num_classes=0)


@torch.no_grad()
def embed(encoder: nn.Module, images: Tensor) -> Tensor:
    """Features (N, D), unit rows, in evaluation mode."""
    return normalize(encoder.eval()(images))


def show(epoch: int, quality: dict[str, float]) -> None:
    print("epoch {:2}  ARI {ari:.3f}  clusters {clusters:3}  outliers {outliers:3}".format(epoch, **quality))
