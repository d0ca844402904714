"""The decoded images of a split, held as bytes where training reads them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
import psutil
import torch
from torch import Tensor

from rapids_slr.data.decode import decode_jpegs, decode_or_fault, decodes_jpegs
from rapids_slr.data.domain import Domain, Split
from rapids_slr.data.faults import Fault, dark_images, faults_error
from rapids_slr.engine.memory import DeviceMemory, device_memory, out_of_memory
from rapids_slr.errors import InputError
from rapids_slr.marks import step
from rapids_slr.settings.spec import StoredSpec

log = logging.getLogger(__name__)

BLOCK = 512
"""Images decoded before they move to the store; bounds the memory beyond the store."""


class ImageStore:
    """Pixels (N, C, H, W) uint8, on the training device or in host memory.

    Args:
        device: the training device, where `batch` puts its images.
    """

    def __init__(self, pixels: Tensor, device: torch.device) -> None:
        self.pixels = pixels
        self.device = device

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> torch.Size:
        return self.pixels.shape

    def indices(self, indices: Tensor) -> Tensor:
        """Indices on the device where `batch` reads them; those of a whole epoch at once spare every step a wait."""
        return indices.to(self.pixels.device)

    def batch(self, indices_B: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8 on the training device; indices (B,) int64 from any device."""
        if self.pixels.device == self.device:
            return self.pixels.index_select(0, indices_B.to(self.device, non_blocking=True))
        # Pinned memory is copied while the host goes on; from any other it would wait.
        gathered = torch.empty((len(indices_B), *self.shape[1:]), dtype=torch.uint8, pin_memory=True)
        torch.index_select(self.pixels, 0, indices_B.cpu(), out=gathered)
        return gathered.to(self.device, non_blocking=True)


@step("decode")
def load_images(
    domain: Domain,
    split: Split,
    data: StoredSpec,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
    on_fault: Callable[[Fault], None] | None = None,
) -> tuple[ImageStore, Split]:
    """Decode and resize a split once: JPEG files on the GPU where data.decode has it so, the others on all cores.

    Args:
        progress: called with the number of images done since its last call.
        on_fault: called with every unreadable image that is left out, in place of a warning; no image may be left then.
    Returns: the store, and the split of the images in it (row i of one is row i of the other).
    Raises: InputError that names every unreadable image, unless data.on_error is "skip", which leaves them out; if no
        image is left; if the images do not fit; or if data.decode asks for what this machine cannot do.
    """
    device = with_index(torch.device(device))
    # Room for all before any is decoded: what does not fit is known at once, not after minutes.
    pixels = _allocate(shape_of(domain, split, data), data, device)
    kept_N = decode_into(pixels, domain, split, data, device, progress, on_fault)
    return ImageStore(pixels[: kept_N.sum()], device), split.take(kept_N)


def decode_into(
    pixels: Tensor,
    domain: Domain,
    split: Split,
    data: StoredSpec,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
    on_fault: Callable[[Fault], None] | None = None,
) -> np.ndarray:
    """As `load_images`, into (N, C, H, W) uint8 that is given.

    Returns: (N,) bool, which images could be read; their pixels stand one after the other, from the first row on.
    """
    on_gpu = decodes_jpegs(data, device)
    block = torch.empty((min(BLOCK, len(split)), *pixels.shape[1:]), dtype=torch.uint8, pin_memory=pixels.is_cuda)
    faults: list[Fault] = []
    dark: list[str] = []
    kept, filled = np.zeros(len(split), bool), 0
    with ThreadPoolExecutor(domain.threads or cores()) as pool:
        for start in range(0, len(split), BLOCK):
            names = split.names[start : start + BLOCK]
            outcomes = _decode_block(domain, names, data, block.numpy(), pool, device if on_gpu else None, dark)
            good = [row for row, found in enumerate(outcomes) if not isinstance(found, Fault)]
            faults += [found for found in outcomes if isinstance(found, Fault)]
            pixels[filled : filled + len(good)].copy_(block[good] if len(good) < len(block) else block)
            for place, row in enumerate(good, filled):
                if isinstance(found := outcomes[row], Tensor):
                    pixels[place].copy_(found)
            filled += len(good)
            kept[[start + row for row in good]] = True
            if progress is not None:
                progress(len(names))
    if faults and (data.on_error == "stop" or (not filled and on_fault is None)):
        raise faults_error(
            f"{domain.name}: unreadable images", faults, "mend or remove these, or set data.on_error: skip"
        )
    if dark:
        log.warning("%s: %s", domain.name, dark_images(dark))
    if on_fault is not None:
        for fault in faults:
            on_fault(fault)
    elif faults:
        log.warning("%s: %d of %d images left out; the first: %s", domain.name, len(faults), len(split), faults[0])
    return kept


def _decode_block(
    domain: Domain,
    names: Sequence[str],
    data: StoredSpec,
    rows_BCHW: np.ndarray,
    pool: ThreadPoolExecutor,
    gpu: torch.device | None,
    dark: list[str],
) -> list[Tensor | Fault | None]:
    """Decode images into the rows of a block.

    Args:
        gpu: decodes the JPEG files; None leaves all to the cores.
        dark: gets the names of images that are `too_dark`.
    Returns: for each image None if it is in its row, its pixels if the GPU has decoded it, or its fault.
    """

    def decode_into(row: int, name: str, jpegs: bool = False) -> Tensor | Fault | None:
        found = decode_or_fault(domain, name, data, jpegs, dark)
        if not isinstance(found, np.ndarray):
            return found
        rows_BCHW[row] = found
        return None

    outcomes = list(pool.map(decode_into, range(len(names)), names, repeat(gpu is not None)))
    if gpu is not None:
        encoded = {row: found for row, found in enumerate(outcomes) if isinstance(found, Tensor)}
        for row, image in zip(encoded, decode_jpegs(list(encoded.values()), data, gpu), strict=True):
            outcomes[row] = decode_into(row, names[row]) if image is None else image
    return outcomes


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shape_of(domain: Domain, split: Split, data: StoredSpec) -> tuple[int, ...]:
    """(N, C, H, W) of a split.

    Raises: InputError if it has no image.
    """
    if not len(split):
        raise InputError(f"{domain.name}: a split without images cannot be loaded; see `rapids-slr data check`")
    return len(split), data.channels, data.height, data.width


def with_index(device: torch.device) -> torch.device:
    """cuda -> cuda:0, so that it compares equal to where tensors say they are."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def leaves_half(memory: DeviceMemory, size: int) -> bool:
    """Whether so many bytes of images, with the splits that are there already, leave half of a device to training."""
    return memory.used + size <= (memory.used + memory.free) / 2


def _allocate(shape: tuple[int, ...], data: StoredSpec, device: torch.device) -> Tensor:
    """Room for the pixels where data.store wants them."""
    size, advice = int(np.prod(shape, dtype=np.int64)), "lower data.height and data.width"
    if device.type == "cuda" and data.store in ("auto", "device"):
        memory = device_memory(device)
        if data.store == "device" or leaves_half(memory, size):
            try:
                return torch.empty(shape, dtype=torch.uint8, device=device)
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault):
                    raise
                if data.store == "device":
                    raise InputError(
                        f"data.store: {shape[0]} images take {size / 2**30:.1f} GiB and {memory.free / 2**30:.1f} GiB "
                        f"are free on {device}; set data.store: auto, or {advice}"
                    ) from fault
        log.warning(
            "%d images take %.1f GiB and would leave less than half of %s (%.1f GiB in use by this run, %.1f GiB free) "
            "to training: they stay in host memory",
            shape[0],
            size / 2**30,
            device,
            memory.used / 2**30,
            memory.free / 2**30,
        )
    if size > (free := psutil.virtual_memory().available):
        raise InputError(
            f"{shape[0]} images take {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of memory are free; {advice}"
        )
    return torch.empty(shape, dtype=torch.uint8)
