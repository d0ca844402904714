"""Synthetic pedestrian domains: drawn on demand, the same for the same settings, in any order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from rapids_slr import disk
from rapids_slr.data.domain import Domain, make_split
from rapids_slr.data.drawn.pedestrian import (
    Camera,
    DomainStyle,
    Person,
    draw_camera_traits,
    draw_person_traits,
    picture,
    style_at,
)
from rapids_slr.data.layouts import DISTRACTOR, MARKET1501
from rapids_slr.errors import InputError, RunError
from rapids_slr.files import make_folder
from rapids_slr.settings.spec import SynthSpec

PICTURE_NAME = re.compile(r"(?P<identity>[0-9]+)_c(?P<camera>[0-9]+)s1_(?P<index>[0-9]+)_00\.png")
STREAMS = {"person": 0, "distractor": 1, "camera": 2, "picture": 3, "plan": 4}
"""What a random stream is for; part of its seed."""


class Studio:
    """Draws the pictures of one domain; every picture from its own seed."""

    def __init__(self, spec: SynthSpec) -> None:
        self.spec = spec
        style = style_at(spec.style, spec.gap)
        self.style: DomainStyle = replace(style, cameras_differ=style.cameras_differ * spec.camera_gap)
        self.person = lru_cache(maxsize=4096)(self._person)
        self.camera = lru_cache(maxsize=256)(self._camera)

    def rng(self, stream: str, *steps: int) -> np.random.Generator:
        style = ("source", "target").index(self.spec.style)
        return np.random.default_rng([self.spec.seed, style, STREAMS[stream], *steps])

    def _person(self, identity: int, index: int = 0) -> Person:
        """A person by identity; a distractor (identity 0) by the index of its picture."""
        stream, number = ("distractor", index) if identity == DISTRACTOR else ("person", identity)
        return draw_person_traits(self.rng(stream, number), self.style)

    def _camera(self, camera: int) -> Camera:
        return draw_camera_traits(self.rng("camera", camera), self.style)

    def pixels(self, identity: int, camera: int, index: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        rng = self.rng("picture", identity, camera, index)
        person = self.person(identity, index if identity == DISTRACTOR else 0)
        # Numbers above those of distractors: nobody passes by who is in the gallery. Not cached, as seldom drawn twice.
        passer_by = self._person(DISTRACTOR, int(rng.random() * 2**31) + 2**31)
        return picture(person, self.camera(camera), self.style, rng, passer_by, self.spec.height, self.spec.width)

    def open(self, name: str) -> Image.Image:
        match = PICTURE_NAME.fullmatch(Path(name).name)
        if match is None:
            raise InputError(f"{name} is no picture of a drawn domain; its names look like {MARKET1501.example}")
        return Image.fromarray(self.pixels(int(match["identity"]), int(match["camera"]), int(match["index"])))


def synth_domain(spec: SynthSpec) -> Domain:
    """A domain with Market-1501's names whose pictures are drawn when they are opened.

    Half of the identities are for training, the others have one or two queries each (two from four images on), of
    different cameras, and a match of another camera in the gallery.
    """
    studio = Studio(spec)
    plan = studio.rng("plan")
    train: list[tuple[str, int, int]] = []
    query: list[tuple[str, int, int]] = []
    gallery: list[tuple[str, int, int]] = []
    for identity in range(1, 2 * spec.identities + 1):
        cameras = _cameras(plan, spec)
        places = [("bounding_box_train" if identity <= spec.identities else "bounding_box_test")] * spec.images
        if identity > spec.identities:
            places[: 2 if spec.images >= 4 else 1] = ["query"] * (2 if spec.images >= 4 else 1)
        for index, (place, camera) in enumerate(zip(places, cameras, strict=True), 1):
            split = {"bounding_box_train": train, "query": query, "bounding_box_test": gallery}[place]
            split.append((f"{place}/{identity:04d}_c{camera}s1_{index:06d}_00.png", identity, camera))
    for index in range(1, spec.distractors + 1):
        camera = 1 + int(plan.random() * spec.cameras)
        gallery.append((f"bounding_box_test/0000_c{camera}s1_{index:06d}_00.png", DISTRACTOR, camera))
    splits = [make_split(sorted(images, key=_in_order)) for images in (train, query, gallery)]
    # Drawing holds Python's lock nearly all the time: 16 threads draw at less than half the rate of one.
    name = f"synth-{spec.style}-{spec.seed}"
    people = tuple(f"{name}-{identity}" for identity in range(1, 2 * spec.identities + 1))  # no two domains share one
    return Domain(
        name,
        "synth",
        splits[0],
        splits[1],
        splits[2],
        opener=studio.open,
        stamp=lambda _: repr(spec),
        threads=1,
        classes=people,
    )


def _cameras(plan: np.random.Generator, spec: SynthSpec) -> list[int]:
    """Cameras of an identity's images: two by turns for the first four, then any."""
    first, second = plan.permutation(spec.cameras)[:2] + 1
    others = 1 + (plan.random(max(spec.images - 4, 0)) * spec.cameras).astype(int)
    return [int(camera) for camera in [first, second, first, second][: spec.images] + list(others)]


def _in_order(image: tuple[str, int, int]) -> tuple[int, int, str]:
    name, identity, camera = image
    return identity, camera, name


def write_domain(
    domain: Domain, folder: Path, suffix: str = ".png", progress: Callable[[int], None] | None = None
) -> None:
    """Write a drawn domain in the layout of Market-1501.

    Args:
        folder: new or empty.
        suffix: ".png", or ".jpg" (quality 95).
        progress: called with 1 for every image written.
    Raises: InputError if the domain is not a drawn one, the folder holds something, also where another process has
        begun to write there, or the suffix is another one; RunError if the images cannot be written.
    """
    folder = Path(folder)
    if domain.layout != "synth":
        raise InputError(f"{domain.name} is not a drawn domain but {domain.layout}; copy or pack its files instead")
    if suffix not in (".png", ".jpg"):
        raise InputError(f"suffix: expected .png or .jpg, got {suffix!r}")
    taken = InputError(f"{folder} is not an empty folder; name a new one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise taken
    make_folder(folder)
    try:
        disk.make_new_folder(folder / MARKET1501.train.folder)  # of two processes one makes it
        for place in (MARKET1501.query, MARKET1501.gallery):
            disk.make_folders(folder / place.folder)
        for name in (*domain.train.names, *domain.query.names, *domain.gallery.names):
            disk.fill((folder / name).with_suffix(suffix), partial(domain.open(name).save, quality=95))
            if progress is not None:
                progress(1)
    except FileExistsError as fault:
        raise taken from fault
    except OSError as fault:
        raise RunError(
            f"{folder} could not be written: {fault.strerror}; free some space, remove the folder and start again"
        ) from fault
