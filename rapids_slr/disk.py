"""Every call by which this program puts something on a disk, but for TensorBoard's. Tests let each of them fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def make_folders(path: Path) -> None:
    """A folder and those above it, where they are not there yet."""
    path.mkdir(parents=True, exist_ok=True)


def make_new_folder(path: Path) -> None:
    """Raises: FileExistsError if it is there already; of two processes one makes it."""
    path.mkdir()


def fill(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` put its content into a file."""
    write(path)


def reserve(descriptor: int, size: int) -> None:
    """Make an open file so long, with room for all of it: to a disk that fills up later no map could be written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def settle(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def rename(path: Path, place: Path) -> None:
    """Put a file in the place of another, in one step."""
    os.replace(path, place)


def append(path: Path, line: bytes) -> None:
    """Add to the end of a file, and wait until it is on the disk."""
    with open(path, "ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def pour(path: Path, stream: Path | int) -> None:
    """Copy a file into a device or a pipe, by its path or its descriptor."""
    with open(path, "rb") as source, open(stream, "wb") as target:
        shutil.copyfileobj(source, target)
