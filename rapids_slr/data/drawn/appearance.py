"""A stated gap between domains: images altered as they are opened, always in the same way.

For evidence on how adaptation copes with a gap of known size: the same people, animals or characters, in another look.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps


@dataclass(frozen=True)
class Appearance:
    """How a domain looks; lengths in pixels of the stored image, brightness in 0..255."""

    stroke: int
    """Side of the square over which the darkest pixel is taken: dark lines grow by (stroke - 1) / 2 on each side."""
    blur: float
    """Radius of a Gaussian blur."""
    dark: float
    """Brightness that black turns into."""
    light: float
    """Brightness that white turns into."""
    texture: float
    """Standard deviation of a smooth pattern, drawn for each image on a grid of 8 x 8 points."""
    noise: float
    """Standard deviation of noise, pixel by pixel."""
    inverted: bool
    """Dark turns light and light dark, at the end."""


APPEARANCES = {
    "mid": Appearance(stroke=3, blur=1.0, dark=40, light=215, texture=12, noise=8, inverted=False),
    "hard": Appearance(stroke=3, blur=1.0, dark=40, light=215, texture=12, noise=8, inverted=True),
}


def alter(image: Image.Image, name: str, appearance: Appearance) -> Image.Image:
    """The image in another look; what is random depends on its name alone.

    Returns: an RGB image, or a grey one where `image` has no colours.
    """
    colours = image.mode not in ("1", "L", "LA", "I", "I;16")
    image = ImageOps.exif_transpose(image).convert("RGB" if colours else "L")
    image = image.filter(ImageFilter.MinFilter(appearance.stroke)).filter(ImageFilter.GaussianBlur(appearance.blur))
    draw = np.random.default_rng(zlib.crc32(name.encode()))  # hash() differs from process to process
    width, height = image.size
    grid = Image.fromarray(draw.standard_normal((8, 8), dtype=np.float32))
    pattern = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    pattern = appearance.texture * pattern + appearance.noise * draw.standard_normal((height, width), dtype=np.float32)
    pixels = appearance.dark + np.asarray(image, np.float32) * ((appearance.light - appearance.dark) / 255)
    pixels = pixels + (pattern[:, :, None] if colours else pattern)
    pixels = (255 - pixels if appearance.inverted else pixels).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)
