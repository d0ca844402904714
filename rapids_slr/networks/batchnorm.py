"""BatchNorm: statistics of other images than those a network was trained on, and of batches that are dealt out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rapids_slr.engine.memory import memory_advice
from rapids_slr.errors import InputError
from rapids_slr.group import current


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """While the block runs, no running statistics of BatchNorm move; in training mode batches are still normalised by
    their own."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of every BatchNorm by their average over the batches; nothing else changes.

    A batch counts by its number of images, so a short last batch weighs no more than it should. Batches of one image
    are passed over: they have no variance. Without batches the statistics stay as they are.

    Args:
        batches: normalised images (B, C, H, W) on the model's device.
    Raises: RunError if memory runs out; smaller batches would have other statistics, so that is left to the user.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    try:
        # BatchNorm alone trains, so that nothing else is random or changes.
        model.eval()
        for layer in layers:
            layer.train()
        # With momentum n / seen the running statistics are the mean over all images seen, not one that fades.
        seen = 0
        with memory_advice("BatchNorm on the target", "lower features.batch"):
            for images in batches:
                if len(images) == 1:
                    continue
                seen += len(images)
                for layer in layers:
                    layer.momentum = len(images) / seen  # 1 for the first batch: the old statistics are forgotten
                model(images)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes.items():
            module.training = training  # not train(), which would set its children too


@contextmanager
def statistics_of(images: int | None, *networks: nn.Module) -> Iterator[None]:
    """Let networks in training mode normalise by the statistics of every `images` images of a batch, in order.

    Args:
        images: None takes those of the whole batch. Whichever it is, the processes of a group, of which each has its
            part of the batch, give each other what it takes: their number decides nothing.
    Raises: InputError for a layer that takes statistics of batches in a way of its own.
    """
    layers: list[_BatchNorm] = []
    if images is not None or current().size > 1:  # else as torch does it
        layers = [layer for network in networks for layer in network.modules() if takes_statistics(layer)]
    for layer in layers:
        layer.forward = partial(normalised, layer, images=images)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def takes_statistics(layer: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a layer is torch's BatchNorm, or timm's, which has an activation behind it.

    Raises: InputError for others that have running statistics.
    """
    known = isinstance(layer, _BatchNorm) and (type(layer).forward is _BatchNorm.forward or has_activation(layer))
    if not known and getattr(layer, "running_var", None) is not None:
        raise InputError(
            f"model.backbone: {type(layer).__name__} takes statistics of batches in a way of its own, which neither "
            "several processes nor training.bn_images can follow; leave them out, or take another backbone"
        )
    return known


def has_activation(layer: nn.Module) -> bool:
    """Whether it is BatchNorm and activation in one, as timm has it."""
    return type(layer).__module__.startswith("timm.") and type(layer).__name__ == "BatchNormAct2d"


def normalised(layer: _BatchNorm, x: Tensor, images: int | None) -> Tensor:
    """What BatchNorm makes of this process's part (b, C, ...) of a batch; running statistics go to the mean over sets.

    Means and variances of as many images as lie in one process and in one set are put together, not sums of squares,
    which would lose what variances differ by. The result has the type of x.
    """
    if not layer.training:
        return type(layer).forward(layer, x)
    group, b, C = current(), *x.shape[:2]
    wanted = images or b * group.size
    piece = math.gcd(b, wanted)
    pieces = x.float().reshape(b // piece, piece, C, -1)  # of an image C x its places
    var_PC, mean_PC = torch.var_mean(pieces, dim=(1, 3), correction=0)
    found = group.batch(torch.stack([mean_PC, var_PC], dim=1), summed=True).unflatten(0, (-1, wanted // piece))
    mean_SC = found[:, :, 0].mean(dim=1)
    var_SC = (found[:, :, 1] + (found[:, :, 0] - mean_SC[:, None]).square()).mean(dim=1)
    with torch.no_grad():
        count = wanted * pieces.shape[3]
        layer.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        for running, now in ((layer.running_mean, mean_SC), (layer.running_var, var_SC * (count / (count - 1)))):
            running.lerp_(now.mean(dim=0), layer.momentum)  # type: ignore[union-attr, arg-type]
    first = group.rank * (b // piece)
    set_P = torch.arange(first, first + b // piece, device=x.device) // (wanted // piece)
    scale_SC = torch.rsqrt(var_SC + layer.eps)
    if layer.weight is not None:
        scale_SC = scale_SC * layer.weight
    y = (pieces - mean_SC[set_P][:, None, :, None]) * scale_SC[set_P][:, None, :, None]
    if layer.bias is not None:
        y = y + layer.bias[:, None]
    y = y.reshape(x.shape).to(x.dtype)
    return layer.act(layer.drop(y)) if has_activation(layer) else y  # type: ignore[operator]
