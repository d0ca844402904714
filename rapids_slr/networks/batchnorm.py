"""BatchNorm statistics re-estimated on other images than those a network was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rapids_slr.engine.memory import memory_advice


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
