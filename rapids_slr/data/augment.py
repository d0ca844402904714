"""Pixels to what a network takes: normalised, and for training changed at random, image by image, in one batch."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.nn.functional import pad as pad_images

from rapids_slr.settings.spec import AugmentSpec, ImageSpec

ERASED_AREA = (0.02, 0.4)
"""Smallest and largest erased part of an image."""
ERASED_ASPECT = 0.3
"""Flattest erased rectangle, height by width; the steepest is its inverse."""
ERASE_TRIES = 10
"""Rectangles drawn for an image; the first that fits is erased."""
DRAWS = 10 + 2 * ERASE_TRIES
"""Random numbers of an image."""


def normalise(pixels_BCHW: Tensor, data: ImageSpec) -> Tensor:
    """Pixels 0..255 (uint8, or float32) to (pixel / 255 - mean) / std, float32."""
    scale_C11, shift_C11 = scale_and_shift(tuple(data.mean), tuple(data.std), pixels_BCHW.device)
    return torch.addcmul(shift_C11, pixels_BCHW.float(), scale_C11)


@lru_cache(maxsize=16)
def scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What `normalise` multiplies pixels 0..255 with, and then adds: (C, 1, 1) float32 each, C = 1 for all channels."""
    mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    scale_C, shift_C = 1 / (255 * std_C), -mean_C / std_C
    return scale_C.float()[:, None, None].to(device), shift_C.float()[:, None, None].to(device)


def random_draws(images: int, generator: torch.Generator) -> Tensor:
    """Random numbers (images, DRAWS) float32 in 0..1 for `augment`, on the generator's device.

    Drawn at once they are those drawn batch by batch.
    """
    return torch.rand(images, DRAWS, generator=generator, device=generator.device)


def augment(pixels_BCHW: Tensor, augment: AugmentSpec, data: ImageSpec, random: torch.Generator | Tensor) -> Tensor:
    """Random jitter, flip, rotation, scale, pad-crop and erasing of a batch; every image draws its own.

    Flip and pad-crop move pixels without touching their values; only rotation and scale interpolate. What lies beyond
    an image is black; what is erased is 0 after normalisation.

    Args:
        pixels_BCHW: uint8.
        random: a generator, or numbers (B, DRAWS) of `random_draws`. They are the same for every setting, so that
            switching one kind off leaves the others as they were. A generator on the CPU gives the same augmentation
            on any device; one on the device of the pixels spares the copy.
    Returns: (B, C, H, W) float32, normalised.
    """
    B, _, H, W = pixels_BCHW.shape
    draws = random_draws(B, random) if isinstance(random, torch.Generator) else random
    draws = draws.to(pixels_BCHW.device, non_blocking=True)
    flip_B = draws[:, 0] < augment.flip
    shift_B2 = (draws[:, 1:3] * (2 * augment.pad + 1)).long() - augment.pad  # rows, columns; -pad..pad
    if augment.jitter > 0:
        images = jitter(pixels_BCHW, *_spread(draws[:, 3:5], augment.jitter).unbind(1))
    else:
        images = pixels_BCHW
    if augment.rotate > 0 or augment.scale > 0:
        angle_B = (2 * draws[:, 5] - 1) * math.radians(augment.rotate)
        images = warp(images, flip_B, shift_B2, angle_B, _spread(draws[:, 6], augment.scale))
    else:
        images = flip_and_shift(images, flip_B, shift_B2, augment.pad)
    erased_BHW = erasing_mask(draws[:, 7:], augment.erase, H, W)
    return normalise(images, data).masked_fill_(erased_BHW[:, None], 0)


def _spread(draws: Tensor, fraction: float) -> Tensor:
    """0..1 to 1 - fraction .. 1 + fraction."""
    return 1 + (2 * draws - 1) * fraction


def flip_and_shift(images_BCHW: Tensor, flip_B: Tensor, shift_B2: Tensor, pad: int) -> Tensor:
    """Mirror, then give pixel (y, x) the value of (y + rows, x + columns); 0 beyond the image. Any dtype.

    Args:
        shift_B2: rows and columns, int64 in -pad..pad.
    """
    _, _, H, W = images_BCHW.shape
    images_BCHW = torch.where(flip_B[:, None, None, None], images_BCHW.flip(3), images_BCHW)
    if pad == 0:
        return images_BCHW
    windows = pad_images(images_BCHW, [pad] * 4).unfold(2, H, 1).unfold(3, W, 1)  # a view: (B, C, rows, columns, H, W)
    image_B = torch.arange(len(images_BCHW), device=images_BCHW.device)
    return windows[image_B, :, shift_B2[:, 0] + pad, shift_B2[:, 1] + pad]


def warp(images_BCHW: Tensor, flip_B: Tensor, shift_B2: Tensor, angle_B: Tensor, scale_B: Tensor) -> Tensor:
    """Mirror, rotate (clockwise, radians) and scale about the centre, shift as above; bilinear, 0 beyond the image.

    Returns: float32, in the range of the pixels.
    """
    _, _, H, W = images_BCHW.shape
    cos_B, sin_B = torch.cos(angle_B) / scale_B, torch.sin(angle_B) / scale_B
    mirror_B = 1 - 2 * flip_B.float()
    rows_B, columns_B = shift_B2.float().unbind(1)
    # Where a pixel comes from, in pixels off the centre: R (x + columns, y + rows), x mirrored. affine_grid counts in
    # halves of the width and height, hence the ratios.
    theta_B23 = torch.stack(
        [
            torch.stack([cos_B, sin_B * (H / W), (cos_B * columns_B + sin_B * rows_B) * (2 / W)], 1)
            * mirror_B[:, None],
            torch.stack([-sin_B * (W / H), cos_B, (-sin_B * columns_B + cos_B * rows_B) * (2 / H)], 1),
        ],
        1,
    )
    grid = affine_grid(theta_B23, list(images_BCHW.shape), align_corners=False)
    return grid_sample(images_BCHW.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def jitter(pixels_BCHW: Tensor, brightness_B: Tensor, contrast_B: Tensor) -> Tensor:
    """Multiply by the brightness, then stretch about the image's mean by the contrast; float32 in 0..255."""
    pixels = pixels_BCHW.float() * brightness_B[:, None, None, None]
    mean_B111 = pixels.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean_B111, pixels, contrast_B[:, None, None, None]).clamp_(0, 255)


def erasing_mask(draws_BD: Tensor, probability: float, H: int, W: int) -> Tensor:
    """Rectangles (B, H, W) bool of random area, aspect and place (Zhong et al., arXiv:1708.04896).

    Of ERASE_TRIES pairs of area and aspect the first counts whose rectangle, rounded to pixels, is smaller than the
    image and lies in ERASED_AREA; if none does, nothing is erased.

    Args:
        draws_BD: (B, 3 + 2 * ERASE_TRIES) float32 in 0..1: whether, row, column, areas, aspects.
    """
    chance_B1, row_B1, column_B1, area_BT, aspect_BT = draws_BD.split([1, 1, 1, ERASE_TRIES, ERASE_TRIES], dim=1)
    smallest, largest = (fraction * H * W for fraction in ERASED_AREA)
    area_BT = smallest + area_BT * (largest - smallest)
    aspect_BT = ERASED_ASPECT ** (2 * aspect_BT - 1)
    height_BT, width_BT = (area_BT * aspect_BT).sqrt().round(), (area_BT / aspect_BT).sqrt().round()
    erased_BT = height_BT * width_BT
    fits_BT = (height_BT < H) & (width_BT < W) & (erased_BT >= smallest) & (erased_BT <= largest)
    first_B1 = fits_BT.int().argmax(1, keepdim=True)
    erase_B1 = (chance_B1 < probability) & fits_BT.gather(1, first_B1)

    def span(start_B1: Tensor, lengths_BT: Tensor, end: int) -> Tensor:
        length_B1 = lengths_BT.gather(1, first_B1)
        begin_B1 = (start_B1 * (end - length_B1 + 1)).floor()
        place_E = torch.arange(end, device=start_B1.device)
        return (place_E >= begin_B1) & (place_E < begin_B1 + length_B1)

    rows_BH, columns_BW = span(row_B1, height_BT, H), span(column_B1, width_BT, W)
    return (rows_BH & erase_B1)[:, :, None] & columns_BW[:, None, :]
