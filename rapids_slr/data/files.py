"""A folder and a .zip read alike: names with forward slashes, relative to the top, that any encoding can write.

Bytes of a name in a folder that are no UTF-8 are written as %NN.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from PIL import Image

from rapids_slr.data.faults import Fault
from rapids_slr.errors import InputError

Image.init()
IMAGE_SUFFIXES = frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)
LARGEST_FILE = 1 << 28
"""Bytes; a compressed entry that unpacks to more is refused before it fills the memory."""


class Files(Protocol):
    path: Path
    faults: list[Fault]

    def folders(self, inside: str = "") -> list[str]:
        """Names of the folders in a folder ("" is the top), in natural order."""

    def is_folder(self, name: str) -> bool: ...

    def is_file(self, name: str) -> bool: ...

    def under(self, folder: str) -> list[str]:
        """Files in a folder ("" is the top) and in the folders below it, in natural order."""

    def read(self, name: str) -> bytes: ...

    def stamp(self, name: str) -> str:
        """What changes when the file does; it is not read for that."""


def open_files(path: str | Path) -> Files:
    """Raises: InputError if the path is neither a folder nor a whole .zip."""
    path = Path(path)
    if path.is_dir():
        return FolderFiles(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder or a .zip of a data set")
    try:
        return ZipFiles(path)
    except (zipfile.BadZipFile, OSError) as fault:
        raise InputError(f"{path} is neither a folder nor a whole .zip ({fault}); fetch or pack it again") from fault


class FolderFiles:
    """A folder, with the folders that links in it lead to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self._stored: dict[str, str] = {}
        """Parts of names as the file system has them, where these are no UTF-8."""

    def folders(self, inside: str = "") -> list[str]:
        names = [self.name_of(entry.name) for entry in os.scandir(self.at(inside)) if entry.is_dir()]
        return natural_order(name for name in names if not hidden(name))

    def is_folder(self, name: str) -> bool:
        return self.at(name).is_dir()

    def is_file(self, name: str) -> bool:
        return self.at(name).is_file()

    def under(self, folder: str) -> list[str]:
        names = []
        for top, files in self._walk(str(self.at(folder))):
            inside = Path(top).relative_to(self.path)
            names += [self.name_of((inside / name).as_posix()) for name in files]
        return natural_order(name for name in names if not hidden(name))

    def read(self, name: str) -> bytes:
        return self.at(name).read_bytes()

    def stamp(self, name: str) -> str:
        try:
            file = os.stat(self.at(name))
        except OSError:  # that it is not there, reading will say
            return "none"
        # The last time cannot be set by hand, and so tells of a file that was put in the place of another.
        return f"{self.path.absolute()} {file.st_size} {file.st_mtime_ns} {file.st_ctime_ns}"

    def _walk(self, start: str) -> Iterator[tuple[str, list[str]]]:
        """Folders and the files in each; a link that leads back to where it is met is not followed."""
        met = {start: {os.path.realpath(start)}}
        for top, folders, files in os.walk(start, onerror=self._not_read, followlinks=True):
            yield top, files
            for name in list(folders):
                path = os.path.join(top, name)
                if (real := os.path.realpath(path)) in met[top]:
                    folders.remove(name)
                else:
                    met[path] = met[top] | {real}

    def _not_read(self, error: OSError) -> None:
        fault = Fault(str(error.filename), f"folder cannot be read ({error.strerror})")
        if fault not in self.faults:
            self.faults.append(fault)

    def name_of(self, stored: str) -> str:
        """The name of what the file system calls `stored`."""
        name = writable(stored)
        if name != stored:
            self._stored.update(zip(name.split("/"), stored.split("/"), strict=True))
        return name

    def at(self, name: str) -> Path:
        """Where a file lies."""
        path = self.path / name
        if not self._stored or path.exists():
            return path
        return self.path.joinpath(*(self._stored.get(part, part) for part in name.split("/")))


class ZipFiles:
    """Reads entries where they lie, never unpacks to disk. Entries that lead outside are faults and are not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self._zip = zipfile.ZipFile(path)
        self._lock = threading.Lock()  # ZipFile.open counts its readers without one
        self._entries: dict[str, zipfile.ZipInfo] = {}
        self._folders: set[str] = set()
        for entry in self._zip.infolist():
            self._add(entry)

    def _add(self, entry: zipfile.ZipInfo) -> None:
        # Some programs write backslashes into an archive, some a leading ./
        name = entry.filename.replace("\\", "/").removeprefix("./")
        if leads_outside(name):
            self.faults.append(Fault(f"{self.path}/{entry.filename}", "leads outside of the archive"))
            return
        self._folders.update(str(parent) for parent in PurePosixPath(name).parents)
        if name.endswith("/"):
            self._folders.add(name.rstrip("/"))
        elif name in self._entries:
            self.faults.append(Fault(f"{self.path}/{name}", "is in the archive more than once"))
        elif not hidden(name):
            self._entries[name] = entry

    def folders(self, inside: str = "") -> list[str]:
        start = f"{inside}/" if inside else ""
        names = (name.removeprefix(start) for name in self._folders if name.startswith(start))
        return natural_order(name for name in names if "/" not in name and not hidden(name))

    def is_folder(self, name: str) -> bool:
        return name in self._folders

    def is_file(self, name: str) -> bool:
        return name in self._entries

    def under(self, folder: str) -> list[str]:
        return natural_order(name for name in self._entries if not folder or name.startswith(folder + "/"))

    def read(self, name: str) -> bytes:
        entry = self._entries[name]
        if entry.file_size > LARGEST_FILE:
            raise OSError(f"unpacks to {entry.file_size:,} bytes, more than any image needs")
        with self._lock:
            return self._zip.read(entry)

    def stamp(self, name: str) -> str:
        entry = self._entries[name]
        return f"{entry.file_size} {entry.CRC}"


def natural_order(names: Iterable[str]) -> list[str]:
    """c2 before c10; names that differ in leading zeros alone as they are written."""

    def key(name: str) -> tuple[list[object], str]:
        words = re.split(r"([0-9]+)", name)  # text and digits in turn, of any length
        digits = (word.lstrip("0") for word in words[1::2])
        return [*itertools.chain(*zip(words[::2], ((len(x), x) for x in digits), strict=False)), words[-1]], name

    return sorted(names, key=key)


def writable(name: str) -> str:
    """A name of the file system as text that any encoding can write: bytes that are no UTF-8 become %NN."""
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def hidden(name: str) -> bool:
    """What file managers leave behind: .DS_Store, ._x.jpg, __MACOSX/..."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def leads_outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name) is not None
