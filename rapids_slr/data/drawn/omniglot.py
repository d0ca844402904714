"""torchvision's Omniglot as a domain: a character is an identity, and the person who drew it a camera."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import defaultdict
from pathlib import Path

from rapids_slr.data.domain import Domain, make_split, open_image
from rapids_slr.data.faults import Fault
from rapids_slr.data.files import Files, is_image, natural_order, open_files
from rapids_slr.errors import InputError

log = logging.getLogger(__name__)

QUERIES = 2
"""Queries of a test identity."""
PATTERN = re.compile(r"(?P<identity>[0-9]+)_(?P<drawer>[0-9]+)\.")


def scan_omniglot(path: Path, layout: str) -> Domain:
    """Half of the characters of each alphabet for training, the others for testing, two queries of each.

    Which ones is decided by a digest of their names, hence the same everywhere.

    Args:
        path: root folder of torchvision's data set (downloaded to where it is absent), or its .zip.
        layout: "omniglot-background" or "omniglot-evaluation".
    Raises: InputError if the data is neither there nor can be downloaded.
    """
    folder = layout.replace("omniglot-", "images_")
    files = _files(path, folder)
    top = _top(files, folder)
    assert top is not None  # _files has found it
    faults = list(files.faults)
    drawings: dict[str, list[tuple[str, int]]] = defaultdict(list)  # alphabet/character -> names and drawers
    for name in files.under(top):
        if not is_image(name):
            continue
        match = PATTERN.match(Path(name).name)
        if match is None or name.count("/") != top.count("/") + 3:
            faults.append(Fault(f"{files.path}/{name}", "expected alphabet/character/identity_drawer.png"))
        else:
            drawings[name.rpartition("/")[0]].append((name, int(match["drawer"])))
    identity = {character: number for number, character in enumerate(natural_order(drawings), 1)}

    train, query, gallery = [], [], []
    for alphabet in natural_order({character.rpartition("/")[0] for character in drawings}):
        characters = sorted((c for c in drawings if c.rpartition("/")[0] == alphabet), key=_digest)
        for place, character in enumerate(characters):
            images = [(name, identity[character], drawer) for name, drawer in drawings[character]]
            if place < (len(characters) + 1) // 2:
                train += images
            else:
                chosen = set(sorted(images, key=lambda image: _digest(image[0]))[:QUERIES])
                query += [image for image in images if image in chosen]
                gallery += [image for image in images if image not in chosen]
    if not train:
        faults.append(Fault(f"{files.path}/{top}", "holds no drawing"))
    return Domain(
        layout,
        layout,
        make_split(sorted(train, key=_in_order)),
        make_split(sorted(query, key=_in_order)),
        make_split(sorted(gallery, key=_in_order)),
        faults=faults,
        opener=lambda name: open_image(files, name),
        stamp=files.stamp,
        classes=tuple("/".join(character.split("/")[-2:]) for character in identity),
    )


def _in_order(image: tuple[str, int, int]) -> tuple[int, int]:
    return image[1], image[2]


def _digest(name: str) -> bytes:
    """Of the last two parts of a name: the same for a folder, a .zip, and wherever they lie."""
    return hashlib.sha256("/".join(name.split("/")[-2:]).encode()).digest()


def _top(files: Files, folder: str) -> str | None:
    tops = ("", "omniglot-py/", "python/", *(f"{name}/" for name in files.folders()))
    return next((top + folder for top in tops if files.is_folder(top + folder)), None)


def _files(path: Path, folder: str) -> Files:
    if path.exists() and _top(files := open_files(path), folder) is not None:
        return files
    if path.suffix == ".zip":
        raise InputError(f"{path} holds no folder {folder}; give the root folder of torchvision's Omniglot or its .zip")
    from torchvision.datasets import Omniglot

    log.info("downloading Omniglot to %s", path)
    try:
        Omniglot(str(path), background=folder == "images_background", download=True)
    except (OSError, RuntimeError) as fault:
        raise InputError(
            f"Omniglot is not in {path} and could not be downloaded ({fault}); put {folder}.zip of "
            "https://github.com/brendenlake/omniglot/tree/master/python there by hand and give its path"
        ) from fault
    return open_files(path)
