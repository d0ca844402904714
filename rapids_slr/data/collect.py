"""Images wherever they are: one file, a folder or a .zip of any names, or a split of a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from rapids_slr.data.domain import Domain, Split, make_split, open_image
from rapids_slr.data.faults import Fault, faults_error
from rapids_slr.data.files import Files, FolderFiles, is_image, open_files
from rapids_slr.data.layouts import DUKEMTMC, JUNK, LAYOUTS, MARKET1501, PERSONX, Layout, find_layout
from rapids_slr.data.read import read_place
from rapids_slr.data.unused import not_images
from rapids_slr.errors import InputError

NAMING_RULES = (MARKET1501, DUKEMTMC, PERSONX)
"""Layouts whose file names are read in a folder of any name; VeRi's are like PersonX's."""
NO_CAMERA = -1
"""Camera where no name tells one; the identity is JUNK then."""


@dataclass(frozen=True)
class Collection:
    """Images in natural order, found at a path."""

    path: Path
    files: Files
    split: Split
    """Names below `files`; identity JUNK where a name tells none."""
    numbering: Path | None
    """The data set that the identities are numbers of; None where names tell none. Numbers of two are not compared."""
    faults: list[Fault]
    """What was left out, and why."""

    def __len__(self) -> int:
        return len(self.split)

    @property
    def domain(self) -> Domain:
        """The collection as what the loader of images takes."""
        none = make_split([])
        return Domain(str(self.path), "any", none, none, self.split, opener=self.open, stamp=self.files.stamp)

    def open(self, name: str) -> Image.Image:
        """An image of any mode, as stored; may be called from several threads at once."""
        return open_image(self.files, name)

    def file(self, name: str) -> str:
        """Where an image lies, the same whatever path the collection was found by."""
        if isinstance(self.files, FolderFiles):
            return os.path.realpath(self.files.at(name))
        return f"{os.path.realpath(self.files.path)}/{name}"

    def take(self, rows: np.ndarray) -> Collection:
        """The images of these rows (indices or a mask), in that order."""
        return replace(self, split=self.split.take(rows))


def collect(path: Path, role: Literal["query", "gallery", "all"]) -> Collection:
    """The images at a path: a file, or all below a folder or in a .zip; of a data set those of the split `role` or all.

    Identities and cameras are read from names such as 0001_c1s1_000001_00.jpg where most images have them.

    Raises: InputError if there is no image.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image, or a folder or .zip of images")
    if path.is_file() and is_image(path.name):
        folder = FolderFiles(path.parent)
        return _any_images(path, folder, [folder.name_of(path.name)])
    files = open_files(path)
    found, others = find_layout(files, "auto"), list[str]()
    if role != "all" and not isinstance(found, str) and _is_whole(files, *found):
        layout, top = found
        faults: list[Fault] = []
        split = read_place(files, layout, top, layout.place(role), faults)
        faults = [*files.faults, *faults]
        numbering = Path(os.path.realpath(path / top if path.is_dir() else path))
        collection = Collection(path, files, split, numbering, faults)
    else:
        names = files.under("")
        collection = _any_images(path, files, [name for name in names if is_image(name)])
        others = not_images([name for name in names if not is_image(name)])
    if not len(collection):
        if collection.faults:
            raise faults_error(f"{path}: no image is left", collection.faults, "mend these, or give other images")
        there = f" ({others[0]})" if others else ""
        raise InputError(f"{path} holds no image; give an image, or a folder or .zip of images{there}")
    collection.faults.extend(Fault(str(path), line) for line in others)
    return collection


def _any_images(path: Path, files: Files, names: Sequence[str]) -> Collection:
    # Free names seldom fit a rule, and some fit several: the rule that reads most of them is theirs, if any.
    numbers = max(
        ([layout.read_name(name) for name in names] for layout in NAMING_RULES),
        key=lambda read: len(read) - read.count(None),
    )
    if 2 * numbers.count(None) > len(numbers):
        numbers = [None] * len(names)  # a few names that fit by chance are not identities
    split = make_split((name, *(found or (JUNK, NO_CAMERA))) for name, found in zip(names, numbers, strict=True))
    numbering = _numbering(path) if (split.identities > JUNK).any() else None
    return Collection(path, files, split, numbering, list(files.faults))


def _numbering(path: Path) -> Path:
    """What the identities of a path are counted in: the data set around it, or else an archive, or the folder that a
    folder lies in."""
    path = Path(os.path.realpath(path))
    if path.is_file() and not is_image(path.name):
        return path
    folder = path.parent if path.is_file() else path
    around = [place for place in folder.parents if any(_is_whole(FolderFiles(place), layout, "") for layout in LAYOUTS)]
    return around[0] if around else folder.parent


def _is_whole(files: Files, layout: Layout, top: str) -> bool:
    """Whether all folders and lists of a data set are there."""
    places = (layout.train, layout.query, layout.gallery)
    return layout.parts_present(files, top) == len({place.folder for place in places}) + sum(
        len(place.lists) for place in places
    )
