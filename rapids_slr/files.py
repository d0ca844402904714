"""Files that are whole or absent: written beside their place and renamed; checkpoints that run no code when read.

A link is followed, a device or a pipe is written through, and no command writes over what it reads.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rapids_slr import disk
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
DESCRIPTORS = re.compile(r"/dev/(?P<name>stdout|stderr)|(?:/dev/fd|/proc/self/fd)/(?P<number>[0-9]+)")
"""Paths of the open files of this process."""


def write_atomically(path: Path, write: Callable[[Path], object], advice: str = RESUME) -> None:
    """Let `write` fill a temporary file, then put it in place in one step.

    The target of a link is replaced, not the link. A device or a pipe gets the bytes once they are whole.

    Args:
        advice: what to do where that fails, the end of the error.
    Raises: RunError if the disk is full or the folder cannot be written; what stood at `path` is untouched.
    """
    try:
        if is_stream(path):
            _write_through(path, write)
        else:
            _put_in_place(Path(os.path.realpath(path)), write)
    except (OSError, RuntimeError) as fault:  # torch reports a full disk as RuntimeError
        raise RunError(f"{path} could not be written: {_reason(fault)}; {advice}") from fault


def unfinished(path: Path) -> list[Path]:
    """What processes that were killed, or still write, have of the file that `path` is to become."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.*.part"))


def write_text(path: Path, text: str, advice: str = RESUME) -> None:
    """As `write_atomically`, a text in UTF-8; what is left of a name in no encoding is written as \\udcXX."""
    content = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(content), advice)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; it is whole once this returns, and absent where this raises.

    Raises: RunError if it cannot be written.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        disk.append(path, f"{line}\n".encode())
    except OSError as fault:
        with suppress(OSError):
            os.truncate(path, before)
        raise RunError(f"{path} could not be written: {fault.strerror}; {RESUME}") from fault


def move(path: Path, place: Path) -> None:
    """Put a whole file in the place of another, in one step.

    Raises: RunError if that cannot be done.
    """
    try:
        disk.rename(path, place)
    except OSError as fault:
        raise RunError(f"{place} could not be written: {fault.strerror}; {RESUME}") from fault


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe, or an open file of this process such as /dev/stdout."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file() and not path.is_dir())


def check_output(out: Path, *inputs: Path | None) -> None:
    """Look at where a command means to write, before it works.

    Args:
        inputs: files that it reads, by any name or link; None is none.
    Raises: InputError if `out` is one of them, or a folder.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder; name a file")
    for path in inputs:
        if path is not None and out.is_file() and path.exists() and out.samefile(path):
            raise InputError(f"{out} is read by this command, as {path}, and would be overwritten; name another file")


def make_folder(path: Path) -> None:
    """Make a folder for results and those above it, where they are not there yet.

    Raises: RunError if that cannot be done.
    """
    try:
        disk.make_folders(path)
    except OSError as fault:
        raise no_folder(path, fault) from fault


def fresh_folder(name: str) -> Path:
    """Make runs/<name>-<time>, with a number behind it where another process has that name already.

    Raises: RunError if that cannot be done.
    """
    first = Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    make_folder(first.parent)
    for number in itertools.count(1):
        path = first if number == 1 else first.with_name(f"{first.name}-{number}")
        try:
            disk.make_new_folder(path)
            break
        except FileExistsError:
            continue
        except OSError as fault:
            raise no_folder(path, fault) from fault
    return path


def no_folder(path: Path, fault: OSError) -> RunError:
    return RunError(
        f"{path} could not be made: {fault.strerror}; name another folder with --out, or let this user write there"
    )


def _put_in_place(path: Path, write: Callable[[Path], object]) -> None:
    # Beside its place, for a rename within one file system; by process, as two may write at once.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    if path.is_symlink():  # links that lead to each other have no target
        raise OSError(0, "its link leads in a circle")
    try:
        disk.make_folders(path.parent)
        disk.fill(temporary, write)
        if path.is_file():
            shutil.copymode(path, temporary)
        # Before the rename, or a power cut may leave the new name with nothing in it.
        disk.settle(temporary)
        disk.rename(temporary, path)
    finally:
        with suppress(OSError):  # where the folder is none, the error says so
            temporary.unlink(missing_ok=True)


def _write_through(path: Path, write: Callable[[Path], object]) -> None:
    descriptor = _descriptor(path)
    sys.stdout.flush()  # what was printed before comes before
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "whole")
        disk.fill(temporary, write)
        # By number where it has one: opened anew by its path, a file would be written from its start.
        disk.pour(temporary, path if descriptor is None else os.dup(descriptor))


def _descriptor(path: Path) -> int | None:
    found = DESCRIPTORS.fullmatch(str(path))
    if found is None:
        return None
    return {"stdout": 1, "stderr": 2}[found["name"]] if found["name"] else int(found["number"])


def _reason(fault: Exception) -> str:
    return getattr(fault, "strerror", None) or (str(fault).splitlines() or [type(fault).__name__])[0]


def save_tensors(path: Path, state: Mapping[str, Any]) -> None:
    import torch  # here, as packing a data set need not wait for it

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
    import torch

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
