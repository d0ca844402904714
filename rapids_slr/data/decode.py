"""One image of any kind to the pixels that a run works on."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from rapids_slr.data.domain import Domain
from rapids_slr.data.faults import Fault
from rapids_slr.spec import DataSpec

SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def decode(image: Image.Image, data: DataSpec) -> np.ndarray:
    """Pixels (C, H, W) uint8 of an image, upright, resized bilinearly with antialiasing.

    Transparent pixels show white. 16-bit grey keeps its 8 highest bits.

    Raises: what the codec raises on a damaged file; ValueError for floating-point pixels, whose range is not known.
    """
    image = _eight_bits(ImageOps.exif_transpose(image))
    image = image.convert("RGB" if data.channels == 3 else "L")
    if image.size != (data.width, data.height):
        image = image.resize((data.width, data.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    if data.invert:
        pixels = 255 - pixels
    return pixels[None] if data.channels == 1 else pixels.transpose(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def decode_or_fault(domain: Domain, name: str, data: DataSpec) -> np.ndarray | Fault:
    """As `decode`; an image that cannot be read gives its fault."""
    try:
        with domain.open(name) as image:
            return decode(image, data)
    except Exception as fault:  # codecs raise nearly every kind
        return Fault(name, f"cannot be read ({type(fault).__name__}: {fault})")
