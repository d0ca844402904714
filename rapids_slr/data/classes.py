"""Folders a class, as torchvision's ImageFolder has them, with folders for training and test around them or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rapids_slr.data.domain import Domain, make_split, open_image
from rapids_slr.data.faults import Fault
from rapids_slr.data.files import Files, is_image, natural_order
from rapids_slr.data.layouts import CLASSES, MARKET1501, MSMT17_V1, VERI
from rapids_slr.data.unused import not_images, outside_of

TRAIN, TESTS = "train", ("test", "val")
CAMERA = 1
"""Of all images: nothing tells one."""


class Places(NamedTuple):
    """Folders whose folders are classes."""

    train: str
    test: str | None
    """None where all images are for training."""


def scan_classes(files: Files) -> Domain:
    """Images whose class is the folder they lie in, or one around it: `CLASS/...`, or `train/CLASS/...` and
    `test/CLASS/...` (`val` where there is no test), here or one folder deeper.

    Classes are numbered from 1 in natural order of their names, those of training and test together. Test images are in
    the gallery, as nothing asks for any of them.
    """
    places = places_of(files)
    faults: list[Fault] = []
    there = [place for place in places if place is not None]
    found = [_images_of(files, place, faults) for place in there]
    classes = natural_order({name for images in found for name in images})
    number = {name: place for place, name in enumerate(classes, 1)}
    splits = [
        make_split((name, number[own], CAMERA) for own, names in images.items() for name in names) for images in found
    ]
    if not faults and len(found[0]) < 2:
        faults.append(Fault(_where(files, places.train), _why_not(list(found[0]))))
    test = splits[1] if len(splits) > 1 else make_split([])
    used = {*splits[0].names, *test.names}
    of_classes = tuple(_below(place, name) + "/" for place, images in zip(there, found, strict=True) for name in images)
    rest = [name for name in files.under("") if name not in used]
    others = [name for name in rest if not is_image(name) and name.startswith(of_classes)]
    return Domain(
        files.path.name if files.path.is_dir() else files.path.stem,
        CLASSES,
        splits[0],
        make_split([]),
        test,
        faults=[*files.faults, *faults],
        unused=[
            *not_images(others, " in folders of classes"),
            *outside_of([name for name in rest if is_image(name)], "classes"),
        ],
        opener=lambda name: open_image(files, name),
        stamp=files.stamp,
        classes=tuple(classes),
    )


def is_split_by_class(files: Files) -> bool:
    """Whether `layout: auto` takes a data set for one of this layout: `train/` holds folders of images, and neither
    names nor lists are those of another layout. Without `train/` any folders would do."""
    places = places_of(files)
    top = places.train.removesuffix(TRAIN)
    if places.train.rpartition("/")[2] != TRAIN or any(
        layout.parts_present(files, top) for layout in (MARKET1501, VERI)
    ):
        return False
    if any(files.is_file(top + name) for place in (MSMT17_V1.train, MSMT17_V1.query) for name in place.lists):
        return False
    names = [name for name in files.under(places.train) if is_image(name) and name.count("/") > top.count("/") + 1]
    return bool(names) and not any(map(MSMT17_V1.read_name, names))


def places_of(files: Files) -> Places:
    """Where classes lie; `train` is the top or a folder of it where there are no folders for training and test."""
    folders = files.folders()
    for top in ("", *(f"{folder}/" for folder in folders)):
        if files.is_folder(top + TRAIN) and files.folders(top + TRAIN):  # else it is a class of that name
            return Places(top + TRAIN, next((top + name for name in TESTS if files.is_folder(top + name)), None))
    return Places(folders[0] if len(folders) == 1 and files.folders(folders[0]) else "", None)


def _images_of(files: Files, place: str, faults: list[Fault]) -> dict[str, list[str]]:
    """The images of every class of a folder; one without any is a fault."""
    found = {}
    for name in files.folders(place):
        folder = _below(place, name)
        images = [image for image in files.under(folder) if is_image(image)]
        if images:
            found[name] = images
        else:
            faults.append(Fault(_where(files, folder), "this folder of a class holds no image; add some, or remove it"))
    return found


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _where(files: Files, folder: str) -> str:
    return f"{files.path}/{folder}" if folder else str(files.path)


def _why_not(classes: Sequence[str]) -> str:
    there = f"holds one class only, {classes[0]}" if classes else "holds no folder of images"
    return (
        f"{there}; expected a folder for each of two classes or more, here, one folder deeper, or in train/ and test/. "
        "`layout: images` takes images without classes, as a target"
    )
