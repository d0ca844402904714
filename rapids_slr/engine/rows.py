"""Room for features of all images: in memory, or in a file where memory is short."""

from __future__ import annotations

import tempfile

import numpy as np
import psutil
import torch

from rapids_slr import disk
from rapids_slr.errors import RunError

SHARE = 0.5
"""Of the memory that is available, what features may take."""
TMPDIR_ADVICE = "free some space, or set TMPDIR to a folder that has it"
"""What to do where the folder for temporary files has no room."""


def room_for_cpu(N: int, D: int) -> np.ndarray:
    """float32 (N, D) to be written: in memory, or where that takes more than SHARE of what is available, in a file.

    The file lies in the folder for temporary ones (TMPDIR), has no name, and goes when the array does.

    Raises: RunError if there is no room for the file.
    """
    if SHARE * psutil.virtual_memory().available >= 4 * N * D:
        return np.empty((N, D), np.float32)
    with tempfile.TemporaryFile() as file:  # which stays while it is mapped
        try:
            disk.reserve(file.fileno(), 4 * N * D)
        except OSError as fault:
            raise RunError(
                f"features of {N:,} images x {D:,}, {4 * N * D / 2**30:.1f} GiB, fit neither into memory nor into "
                f"a file in {tempfile.gettempdir()} ({fault.strerror}); {TMPDIR_ADVICE}"
            ) from fault
        return np.memmap(file, np.float32, "r+", shape=(N, D))


def room_for(N: int, D: int, device: torch.device) -> torch.Tensor:
    """float32 (N, D) on the device, to be written; on the CPU as `room_for_cpu` has it."""
    return torch.from_numpy(room_for_cpu(N, D)) if device.type == "cpu" else torch.empty(N, D, device=device)
