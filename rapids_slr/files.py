"""Files that are whole or absent: written beside their place and renamed; checkpoints that run no code when read."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapids_slr.errors import InputError, RunError

INERT: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    # By both names, before NumPy 2 and since.
    *(
        (of.__reduce__()[0], f"numpy.{core}.multiarray.{name}")
        for name, of in (("scalar", np.float64()), ("_reconstruct", np.empty(0)))
        for core in ("core", "_core")
    ),
]
"""What checkpoints of other programs hold beside tensors and plain values; it runs no code."""
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
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint")
    state = read_torch_file(path, lambda why: f"{path} is damaged or not a checkpoint of this program ({why})")
    if not isinstance(state, dict):
        raise InputError(f"{path} is not a checkpoint of this program: it holds a {type(state).__name__}")
    return state


def read_torch_file(path: Path, refusal: Callable[[str], str]) -> Any:
    """What a file of torch.save holds: tensors, plain values and INERT ones, on the CPU. No code in it is run.

    Args:
        refusal: gives the message from the reason, which is one line.
    Raises: InputError if the file cannot be read, or holds more than that.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(INERT):
            warnings.simplefilter("ignore")  # of TorchScript, which is refused
            # On the CPU, as what a GPU has written is read where there is none.
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:  # torch raises a dozen kinds for a damaged file
        raise InputError(refusal(_why_unreadable(fault))) from fault


def _why_unreadable(fault: Exception) -> str:
    """A line in place of the paragraph, with codes of a terminal, that torch has for it."""
    text = str(fault)
    if found := re.search(r"Unsupported (?:global|class): GLOBAL ([\w.]+)", text):
        return f"it holds a {found[1]}, which is neither a tensor nor a plain value"
    if "TorchScript" in text:
        return "it is a TorchScript program"
    if "Weights only load failed" in text:
        return "it is no file of torch.save"
    return (text.splitlines() or [type(fault).__name__])[0].partition(". ")[0]
