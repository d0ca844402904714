"""Images of any kind to the pixels that a run works on: by Pillow, and JPEG files by the GPU."""

from __future__ import annotations

import io
import re

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from rapids_slr.data.domain import Domain
from rapids_slr.data.faults import Fault
from rapids_slr.errors import InputError
from rapids_slr.settings.spec import StoredSpec

BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281
"""Tags of TIFF files."""
PNG_HEAD = 1 << 12
"""Bytes of a PNG file in which its sBIT stands, before colours and pixels."""
WHOLE_RANGE = ("PPM", "JPEG2000")
"""Formats whose pixels Pillow brings to 16 bits by what their files say."""
SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
JPEG_BATCH = 64
"""JPEG files that the GPU decodes at once, each in its own size."""
END_OF_JPEG = b"\xff\xd9"


def decode(image: Image.Image, data: StoredSpec) -> np.ndarray:
    """Pixels (C, H, W) uint8 of an image, upright, resized bilinearly with antialiasing.

    Transparent pixels show white. 16-bit grey keeps the 8 highest of the bits that its file says it has.

    Raises: what the codec raises on a damaged file; ValueError for floating-point pixels, whose range is not known.
    """
    image = upright(image, "RGB" if data.channels == 3 else "L")
    if image.size != (data.width, data.height):
        image = image.resize((data.width, data.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    if data.invert:
        pixels = 255 - pixels
    return pixels[None] if data.channels == 1 else pixels.transpose(2, 0, 1)


def upright(image: Image.Image, mode: str) -> Image.Image:
    """The image as its EXIF data turns it, RGB or L, with 8 bits a channel; transparent pixels show white."""
    bits = bits_said(image) or 16  # before it is turned, which forgets the file
    return _eight_bits(ImageOps.exif_transpose(image), bits).convert(mode)


def _eight_bits(image: Image.Image, bits: int) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        highest = np.asarray(image).clip(0, 65535) >> (bits - 8)
        return Image.fromarray(highest.clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def bits_said(image: Image.Image) -> int | None:
    """Bits of a grey pixel of more than 8 by what its file says, 8 to 16; None where it says nothing.

    Source: TIFF 6.0, BitsPerSample and MaxSampleValue; PNG 1.2, sBIT.
    """
    if image.mode not in SIXTEEN_BITS:
        return None
    if image.format in WHOLE_RANGE:
        return 16
    largest = _tag(image, MAX_SAMPLE_VALUE)
    stored, significant = _stored_bits(image)
    bits = largest.bit_length() if 0 < largest < 65535 else stored if 8 < stored < 16 else significant
    return bits if 8 <= bits <= 16 else None


def too_dark(image: Image.Image) -> bool:
    """Whether pixels of 16 bits end where those of 12 bits do, of which the file says nothing."""
    if image.mode in SIXTEEN_BITS:
        return bits_said(image) is None and 0 < np.asarray(image).max() < 1 << 12
    # Of colours Pillow keeps the 8 highest bits.
    return _stored_bits(image)[0] == 16 and 0 < np.asarray(image.convert("RGB")).max() < 1 << 4


def _stored_bits(image: Image.Image) -> tuple[int, int]:
    """Bits of a sample in an opened TIFF or PNG file, and those that a PNG calls significant; 0 where none are told."""
    file = getattr(image, "fp", None)
    if image.format != "PNG" or file is None:
        return _tag(image, BITS_PER_SAMPLE), 0
    place = file.tell()
    file.seek(0)
    head = file.read(PNG_HEAD)
    file.seek(place)
    found = re.search(rb"sBIT(.)", head.partition(b"IDAT")[0], re.DOTALL)
    return head[24], found[1][0] if found else 0


def _tag(image: Image.Image, tag: int) -> int:
    """The number of a tag of a TIFF file, the largest of several; 0 without."""
    return int(np.max(getattr(image, "tag_v2", {}).get(tag, 0)))


def decode_or_fault(
    domain: Domain, name: str, data: StoredSpec, jpegs: bool = False, dark: list[str] | None = None
) -> np.ndarray | Tensor | Fault:
    """As `decode`; an image that cannot be read gives its fault.

    Args:
        jpegs: give a file that `decode_jpegs` takes as it is, (bytes,) uint8, and do not decode it.
        dark: gets the name of an image that is `too_dark`.
    """
    try:
        with domain.open(name) as image:
            if dark is not None and too_dark(image):
                dark.append(name)
            encoded = _encoded(image, data) if jpegs else None
            return decode(image, data) if encoded is None else encoded
    except Exception as fault:  # codecs raise nearly every kind
        return Fault(name, f"cannot be read ({type(fault).__name__}: {fault})")


# JPEG files on the GPU ------------------------------------------------------------------------------------------------


def decodes_jpegs(data: StoredSpec, device: torch.device) -> bool:
    """Whether JPEG files are decoded on `device`, as data.decode wants it and torchvision can.

    Raises: InputError if data.decode is gpu and it cannot.
    """
    if data.decode == "pillow" or (data.decode == "auto" and device.type != "cuda"):
        return False
    fault = _why_no_jpegs(device) if device.type == "cuda" else "it is no GPU"
    if fault is not None and data.decode == "gpu":
        raise InputError(f"data.decode: JPEG files cannot be decoded on {device} ({fault}); set it to auto or pillow")
    return fault is None


def decode_jpegs(files: list[Tensor], data: StoredSpec, device: torch.device) -> list[Tensor | None]:
    """As `decode`, of JPEG files by the GPU (nvJPEG): pixels (C, H, W) uint8 on `device`; None for what it refuses.

    Pixels may differ slightly from Pillow's: the inverse cosine transform, the colours between two samples and the
    resizing round in their own ways.

    Args:
        files: (bytes,) uint8 on the host, as `decode_or_fault` gives them.
    """
    found: list[Tensor | None] = []
    for start in range(0, len(files), JPEG_BATCH):
        found += _decode_batch(files[start : start + JPEG_BATCH], data, device)
    return found


def _encoded(image: Image.Image, data: StoredSpec) -> Tensor | None:
    """The file of an opened image, if it is a whole, upright JPEG in the colours that `data` wants."""
    if (
        image.format != "JPEG"
        or image.mode != ("RGB" if data.channels == 3 else "L")
        or image.info.get("adobe_transform", 1) != 1  # RGB that is not stored as luma and chroma
        or image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    ):
        return None
    file = image.fp  # type: ignore[attr-defined]
    file.seek(0)
    encoded = file.read()
    # A decoder on the GPU may fill what is cut off with grey; Pillow calls it a fault.
    return torch.frombuffer(bytearray(encoded), dtype=torch.uint8) if encoded.endswith(END_OF_JPEG) else None


def _decode_batch(files: list[Tensor], data: StoredSpec, device: torch.device) -> list[Tensor | None]:
    try:
        return [_to_size(image, data) for image in _decoder()(files, "RGB" if data.channels == 3 else "GRAY", device)]
    except RuntimeError:  # one of them, or no memory for all: the halves tell
        if len(files) == 1:
            return [None]
    half = len(files) // 2
    return _decode_batch(files[:half], data, device) + _decode_batch(files[half:], data, device)


def _to_size(pixels_CHW: Tensor, data: StoredSpec) -> Tensor:
    if pixels_CHW.shape[1:] != (data.height, data.width):
        size = (data.height, data.width)
        resized = interpolate(pixels_CHW[None].float(), size, mode="bilinear", antialias=True, align_corners=False)
        pixels_CHW = resized[0].round_().clamp_(0, 255).byte()
    return 255 - pixels_CHW if data.invert else pixels_CHW


def _decoder():
    """torchvision's decoder of JPEG files, which it means to drop in a later version."""
    from torchvision.io import decode_jpeg

    return decode_jpeg


def _why_no_jpegs(device: torch.device) -> str | None:
    """Why a small JPEG cannot be decoded on `device`; None where it can."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    try:
        _decoder()([torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)], "RGB", device)
    except (ImportError, RuntimeError, AssertionError) as fault:  # no decoder, built without nvJPEG, no device
        return str(fault).splitlines()[0]
    return None
