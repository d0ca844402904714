"""Files that are whole or absent: written beside their place and renamed; checkpoints that run no code when read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rapids_slr.errors import InputError, RunError

RESUME = "free some space, then go on with --resume"


def write_atomically(path: Path, write: Callable[[Path], object], advice: str = RESUME) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    Args:
        advice: what to do where that fails, the end of the error.
    Raises: RunError if the disk is full or the folder cannot be written; what stood at `path` is untouched.
    """
    # Beside its place, for a rename within one file system; by process, as two may write at once.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        # Before the rename, or a power cut may leave the new name with nothing in it.
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as fault:  # torch reports a full disk as RuntimeError
        reason = getattr(fault, "strerror", None) or str(fault).splitlines()[0]
        raise RunError(f"{path} could not be written: {reason}; {advice}") from fault
    finally:
        with suppress(OSError):  # where the folder is none, the error above says so
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder for results and those above it, where they are not there yet.

    Raises: RunError if that cannot be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise RunError(
            f"{path} could not be made: {fault.strerror}; name another folder with --out, or let this user write there"
        ) from fault


def save_tensors(path: Path, state: Mapping[str, Any]) -> None:
    write_atomically(path, lambda temporary: torch.save(dict(state), temporary))


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code it may hold.

    Raises: InputError if the file is absent, cut off, or holds more than tensors and plain values.
    """
    try:
        # On the CPU, as what a GPU has written is read where there is none.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as fault:
        raise InputError(f"{path}: no such checkpoint") from fault
    except Exception as fault:  # torch raises a dozen kinds for a damaged file
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise InputError(f"{path} is damaged or not a checkpoint of this program ({reason})") from fault
    if not isinstance(state, dict):
        raise InputError(f"{path} is not a checkpoint of this program: it holds a {type(state).__name__}")
    return state
