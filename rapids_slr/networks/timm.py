"""Networks by name from timm, as the body of a network: ConvNeXt, ViT, Swin and hundreds more.

B images of a batch, D features.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from rapids_slr.errors import InputError
from rapids_slr.networks.base import TIMM
from rapids_slr.networks.weights import load_weights, read_weights, warn_of_left_out
from rapids_slr.settings.spec import ImageSpec, ModelSpec

POSITIONS = "pos_embed"
"""What timm calls a learnt embedding of every place, the only weight whose shape is that of an image."""
CLIP = "visual."
"""What names of the network of images begin with in CLIP's files, as timm reads them."""
CLIP_REID = "image_encoder."
"""The same in those of CLIP-ReID."""


class TimmBody(nn.Module):
    """A network of timm without its classifier: images (B, C, H, W) -> (B, width) float32, pooled as it does.

    It sees images by the mean and the deviation that it was trained with: those of the run are taken back.

    Args:
        spec: its backbone is `timm:` and a name; weights are `imagenet`, those that timm has by that name, or a file.
        images: their size, channels, and how the run normalises them.
    Raises: InputError if timm is not installed, knows no such network, or it takes no such images or weights.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: ModelSpec, images: ImageSpec) -> None:
        super().__init__()
        self.model = model = _model(spec, images)
        self.width = _width(model, spec.backbone, images)
        own = model.pretrained_cfg
        mean, std, own_mean, own_std = (
            _of_channels(values, images.channels) for values in (images.mean, images.std, own["mean"], own["std"])
        )
        # Not in checkpoints: they follow from what those say of images and backbone.
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = torch.addcmul(self.shift, images, self.scale)
        return self.model(images.contiguous(memory_format=torch.channels_last)).float()


def _of_channels(values: list[float] | tuple[float, ...], channels: int) -> Tensor:
    """(C, 1, 1) of one value for all, or one each; of three for a grey image the mean."""
    found = torch.tensor(values, dtype=torch.float32)
    return (found.mean().expand(1) if channels == 1 else found.expand(channels))[:, None, None]


def _model(spec: ModelSpec, images: ImageSpec) -> Any:
    timm, name = _timm(), spec.backbone.removeprefix(TIMM)
    if not timm.is_model(name.partition(".")[0]):
        near = get_close_matches(name, timm.list_models(), n=3)
        raise InputError(
            f"model.backbone: timm {timm.__version__} knows no network {name}"
            + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    by_name = spec.weights == "imagenet"
    try:
        model = timm.create_model(name, pretrained=by_name, num_classes=0, in_chans=images.channels)
    except (RuntimeError, OSError, ImportError, ValueError) as fault:
        raise InputError(
            f"model.{'weights' if by_name else 'backbone'}: timm cannot make {name} ({fault}); "
            "fetch its weights elsewhere and give the file, or take another network"
        ) from fault
    _fit_size(model, name, (images.height, images.width))
    if spec.weights is not None and not by_name:
        classifiers = model.pretrained_cfg.get("classifier") or ()
        classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
        held, heads = read_weights(Path(spec.weights)), tuple(f"{each}." for each in classifiers)
        warn_of_left_out(load_weights(model, held, spec.weights, heads, _fit(model), _rename(model)), spec.weights)
    return model


def _width(model: nn.Module, name: str, images: ImageSpec) -> int:
    """Length of what the network makes of an image, by one that is empty."""
    size = images.height, images.width
    try:
        with torch.no_grad():
            return model.eval()(torch.zeros(1, images.channels, *size)).shape[1]
    except (RuntimeError, AssertionError) as fault:
        raise InputError(
            f"data.height, data.width: {name} takes no images of {size[0]} x {size[1]} ({fault}); take larger ones"
        ) from fault
    finally:
        model.train()


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as fault:
        raise InputError(f"model.backbone: timm is not installed ({fault}); pip install 'rapids-slr[timm]'") from fault
    return timm


def _fit_size(model: Any, name: str, size: tuple[int, int]) -> None:
    """Let a network that is made for one size take this one; learnt positions are resampled."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
    if any(side % of for side, of in zip(size, patch, strict=True)):
        raise InputError(
            f"data.height, data.width: {name} takes patches of {patch[0]} x {patch[1]} pixels; "
            f"{size[0]} x {size[1]} is no multiple of that"
        )
    if hasattr(model, "set_input_size"):
        try:
            model.set_input_size(img_size=size)
        except (AssertionError, RuntimeError, ValueError) as fault:
            raise InputError(f"data.height, data.width: {name} takes no {size[0]} x {size[1]} ({fault})") from fault


def _fit(model: Any) -> Callable[[dict[str, Tensor]], None]:
    """What brings the weights of a file into the shapes of a network: places of another size, and a stem for RGB."""
    stem = f"{model.pretrained_cfg['first_conv']}.weight"

    def fit(weights: dict[str, Tensor]) -> None:
        expected = model.state_dict()
        first = weights.get(stem)
        if first is not None and first.ndim == 4 and expected[stem].shape[1] == 1:
            weights[stem] = first.sum(dim=1, keepdim=True)  # a grey image is an RGB one of three equal channels
        found = weights.get(POSITIONS)
        if found is None or found.shape == expected[POSITIONS].shape or found.ndim != 3:
            return
        before = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 0)
        grid = list(model.patch_embed.grid_size)
        old = _grid_of(found.shape[1] - before, grid)
        if old is not None:
            from timm.layers import resample_abs_pos_embed

            weights[POSITIONS] = resample_abs_pos_embed(found, grid, old, num_prefix_tokens=before)

    return fit


def _grid_of(places: int, grid: list[int]) -> list[int] | None:
    """Rows and columns of places that were learnt: a square of them, else as high for its width as the images are now;
    None where neither goes, so that nobody can tell."""
    side, width = math.isqrt(places), math.isqrt(places * grid[1] // grid[0])
    if side * side == places:
        return [side, side]
    return [places // width, width] if width and width * grid[0] * width == places * grid[1] else None


def _rename(model: Any) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Tensors by the names of timm, where they have those of the program that published the network: CLIP, CLIP-ReID,
    DINOv2, ConvNeXt, Swin and others that timm knows."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)

    def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        plain = {name.removeprefix("module."): value for name, value in tensors.items()}
        if f"{CLIP_REID}class_embedding" in plain:
            plain = {
                CLIP + name.removeprefix(CLIP_REID): value
                for name, value in plain.items()
                if name.startswith(CLIP_REID)
            }
        try:
            found = convert(plain, model) if convert else {}
        except Exception:  # of another network: timm looks for what is not there
            return {}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    return rename
