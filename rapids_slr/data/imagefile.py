"""The decoded images of a split in a file that all processes of a machine map, so that its memory holds them once.

    TMPDIR/rapids_slr-UID/KEY.images

holds the pixels (N, C, H, W) uint8, which images of the split could be read (N,) bool, and the CRC-32 of the pixels,
as one .npy array after the other. KEY is a digest of all that the pixels depend on: names, sizes and times of the
files, or checksums of an archive, `data`, and what decodes. Files can be removed at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch

from rapids_slr import disk
from rapids_slr.data.decode import decodes_jpegs
from rapids_slr.data.domain import Domain, Split
from rapids_slr.data.store import BLOCK, ImageStore, decode_into, leaves_half, load_images, shape_of, with_index
from rapids_slr.engine.memory import device_memory
from rapids_slr.engine.rows import TMPDIR_ADVICE
from rapids_slr.errors import RunError
from rapids_slr.files import write_atomically
from rapids_slr.group import current
from rapids_slr.settings.spec import StoredSpec

log = logging.getLogger(__name__)

STAT_THREADS = 16
"""Threads that ask for the sizes and times of files; those of a network's file system take a while each."""


class Held(NamedTuple):
    """What a file holds."""

    pixels: np.ndarray
    """(N, C, H, W) uint8, mapped, not to be written; of the images that could be read, one after the other."""
    kept_N: np.ndarray
    """(N,) bool, which images these are."""
    checksum: int


def read_images(
    domain: Domain,
    split: Split,
    data: StoredSpec,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> tuple[ImageStore, Split]:
    """As `load_images`, for a run, whose processes share a file where data.store has it so.

    The first process of a machine looks for the file, and makes it where it is not there or not whole.

    Raises: as `load_images`, on all processes of a machine alike; RunError if data.store is file and there is no room.
    """
    group, device = current(), with_index(torch.device(device))
    if data.store == "file" or (data.store == "auto" and group.here > 1):
        path = group.from_first_here(lambda: _file_of(domain, split, data, device, progress))
        if path is not None:
            held = _opened(path, shape_of(domain, split, data))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an array that is not to be written
                pixels = torch.from_numpy(held.pixels)
            return ImageStore(pixels[: held.kept_N.sum()], device), split.take(held.kept_N)
    return load_images(domain, split, data, device, progress)


def _file_of(
    domain: Domain, split: Split, data: StoredSpec, device: torch.device, progress: Callable[[int], None] | None
) -> Path | None:
    """The file of a split; None where every process is to hold the images by itself."""
    shape, wanted = shape_of(domain, split, data), data.store == "file"
    if not wanted and device.type == "cuda" and leaves_half(device_memory(device), int(np.prod(shape))):
        return None
    path = folder() / f"{_key(domain, split, data, device)}.images"
    if _is_whole(path, shape, progress):
        return path
    try:
        _write(path, domain, split, data, device, progress)
    except RunError as fault:
        if wanted:
            raise
        log.warning("%s. Until then every process holds all images in its memory", fault)
        return None
    return path


def folder() -> Path:
    """Where the files of this user are, on this machine."""
    return Path(tempfile.gettempdir(), f"rapids_slr-{os.getuid()}")


def _key(domain: Domain, split: Split, data: StoredSpec, device: torch.device) -> str:
    """A digest of what the pixels of a split depend on."""
    said = [data.channels, data.height, data.width, data.invert, PIL.__version__, np.__version__]
    if decodes_jpegs(data, device):
        said += [torch.__version__, torch.cuda.get_device_name(device)]
    digest = hashlib.sha256(repr(said).encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):  # a change of what decodes, or draws, is another file
        digest.update(source.read_bytes())

    def stamps(start: int) -> str:
        return "".join(f"{name}\n{domain.stamp(name)}\n" for name in split.names[start : start + BLOCK])

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        for part in pool.map(stamps, range(0, len(split), BLOCK)):
            digest.update(part.encode())
    return digest.hexdigest()[:32]


def _is_whole(path: Path, shape: tuple[int, ...], progress: Callable[[int], None] | None) -> bool:
    """Whether a file is there, holds all images of a split, and its pixels are those that were written.

    One without the images that could not be read is not taken again: they may have been mended where no stamp tells.
    """
    if not path.exists():
        return False
    with suppress(Exception):  # NumPy raises several kinds for a damaged file
        held = _opened(path, shape)
        if not held.kept_N.all():
            return False
        if _checksum(held.pixels, progress) == held.checksum:
            return True
        if progress is not None:
            progress(-len(held.pixels))
    log.warning("%s is damaged, and is made anew", path)
    return False


def _opened(path: Path, shape: tuple[int, ...]) -> Held:
    pixels = np.load(path, mmap_mode="r")
    with open(path, "rb") as file:
        file.seek(pixels.offset + pixels.nbytes)
        kept_N, checksum = np.load(file), np.load(file)
    if (pixels.dtype, pixels.shape, kept_N.dtype, kept_N.shape) != (np.uint8, shape, bool, shape[:1]):
        raise ValueError(f"{path} does not hold {shape[0]} images")
    return Held(pixels, kept_N, int(checksum))


def _checksum(pixels: np.ndarray, progress: Callable[[int], None] | None = None) -> int:
    checksum = 0
    for start in range(0, len(pixels), BLOCK):
        block = pixels[start : start + BLOCK]
        checksum = zlib.crc32(block.data, checksum)
        if progress is not None:
            progress(len(block))
    return checksum


def _write(
    path: Path,
    domain: Domain,
    split: Split,
    data: StoredSpec,
    device: torch.device,
    progress: Callable[[int], None] | None,
) -> None:
    """Decode a split into its file, which appears when it is whole; room for it is there before the first image."""
    shape = shape_of(domain, split, data)

    def fill(part: Path) -> None:
        file = writing.enter_context(open(part, "wb+"))  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)  # it is being written, until it has its name
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        disk.reserve(file.fileno(), start + int(np.prod(shape)))
        pixels = np.memmap(file, np.uint8, "r+", start, shape)
        kept_N = decode_into(torch.from_numpy(pixels), domain, split, data, device, progress)
        pixels.flush()
        file.seek(0, os.SEEK_END)
        for array in (kept_N, np.uint32(_checksum(pixels))):
            np.save(file, array)
        file.flush()

    advice = f"{np.prod(shape) / 2**30:.1f} GiB of images are kept there; {TMPDIR_ADVICE}"
    with ExitStack() as writing:
        _prepare(path.parent, advice)
        write_atomically(path, fill, advice)


def _prepare(place: Path, advice: str) -> None:
    """Make the folder, which no other user can read, and remove what processes that were killed have left there.

    Raises: RunError if that cannot be done.
    """
    try:
        disk.make_folders(place)
        place.chmod(0o700)
    except OSError as fault:
        raise RunError(f"{place} could not be made: {fault.strerror}; {advice}") from fault
    for part in place.glob(".*.part"):
        with suppress(OSError), open(part, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while it is written
            part.unlink()
