"""From the spec of a domain to the domain: a folder, a .zip, Omniglot, or a drawn one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from rapids_slr.data.classes import is_split_by_class, scan_classes
from rapids_slr.data.domain import Domain, Split, answerable, make_split, open_image
from rapids_slr.data.drawn.appearance import APPEARANCES, alter
from rapids_slr.data.drawn.omniglot import scan_omniglot
from rapids_slr.data.drawn.synth import synth_domain
from rapids_slr.data.faults import Fault, faults_error
from rapids_slr.data.files import Files, is_image, leads_outside, natural_order, open_files, writable
from rapids_slr.data.layouts import (
    CLASSES,
    DISTRACTOR,
    JUNK,
    LARGEST_NUMBER,
    OMNIGLOT,
    SPLITS,
    UNKNOWN,
    Layout,
    Place,
    find_layout,
)
from rapids_slr.data.loose import is_table, scan_images, scan_table
from rapids_slr.data.unused import unused_files
from rapids_slr.settings.spec import DomainSpec

log = logging.getLogger(__name__)


def read_domain(spec: DomainSpec, on_error: Literal["stop", "skip"] = "stop", asks: bool = True) -> Domain:
    """The domain that a spec describes; no pixel is decoded yet.

    Args:
        on_error: "stop" raises on any fault, "skip" leaves the faulty images out and logs how many.
        asks: whether queries without an answer are faults.
    Raises: InputError that names every fault; with "skip" only if the training split is left empty.
    """
    domain = scan_domain(spec, asks)
    if domain.faults and (on_error == "stop" or not len(domain.train)):
        raise faults_error(
            domain.name,
            domain.faults,
            "mend these, or set data.on_error: skip to leave such images out"
            if len(domain.train)
            else "give the path of a data set with training images, or name its layout (images takes any, as a target)",
        )
    if domain.faults:
        log.warning("%s: %d faults, left out; the first: %s", domain.name, len(domain.faults), domain.faults[0])
    return domain


def scan_domain(spec: DomainSpec, asks: bool = True) -> Domain:
    """As read_domain, but every fault of the data ends in `.faults` and none is raised; splits may be empty.

    Raises: InputError if the path does not exist or is no archive.
    """
    if spec.synth is not None:
        return synth_domain(spec.synth)
    assert spec.path is not None  # the spec has checked it
    if spec.layout in OMNIGLOT:
        domain = scan_omniglot(Path(spec.path), spec.layout)
    elif spec.layout == "images":
        domain = scan_images(open_files(spec.path), spec)
    elif spec.layout == "table" or (spec.layout == "auto" and is_table(spec.path)):
        domain = scan_table(Path(spec.path))
    else:
        files = open_files(spec.path)
        by_class = spec.layout == CLASSES or (spec.layout == "auto" and is_split_by_class(files))
        domain = scan_classes(files) if by_class else _scan_files(files, spec.layout)
    if spec.appearance is not None:
        look, stored = APPEARANCES[spec.appearance], domain
        domain = replace(
            stored,
            opener=lambda name: alter(stored.open(name), name, look),
            stamp=lambda name: f"{stored.stamp(name)} {look}",
        )
    return _without_hopeless_queries(domain) if asks else domain


def _scan_files(files: Files, wanted: str) -> Domain:
    faults: list[Fault] = []
    unused: list[str] = []
    found = find_layout(files, wanted)
    if isinstance(found, str):
        faults.append(Fault(str(files.path), found))
        splits, layout = {split: make_split([]) for split in SPLITS}, None
    else:
        layout, top = found
        splits = {"train": _train_split(files, layout, top, wanted, faults)}
        # Crops of cameras alone are a target as well, which nothing is evaluated on.
        tested = layout.is_tested(files, top)
        for split in ("query", "gallery"):
            splits[split] = read_place(files, layout, top, layout.place(split), faults) if tested else make_split([])
        unused = unused_files(files, layout, top, splits, faults)
        splits["train"] = _to_train_on(splits["train"])
    return Domain(
        files.path.name if files.path.is_dir() else files.path.stem,
        layout.name if layout else wanted,
        splits["train"],
        splits["query"],
        splits["gallery"],
        faults=[*files.faults, *faults],
        unused=unused,
        opener=lambda name: open_image(files, name),
        stamp=files.stamp,
        numbered_together=layout is None or layout.numbered_together,
    )


def _train_split(files: Files, layout: Layout, top: str, wanted: str, faults: list[Fault]) -> Split:
    """The training images with junk; all of them without identity where no name tells one."""
    folder = top + layout.train.folder
    names = [name for name in files.under(folder) if is_image(name)] if wanted == "auto" else []
    if names and not layout.train.lists and not any(map(layout.read_name, names)):
        return make_split((name, UNKNOWN, 1) for name in names)
    return read_place(files, layout, top, layout.train, faults)


def _to_train_on(split: Split) -> Split:
    """Without junk, which has no identity to train on; in the gallery the protocol leaves it out itself. Of people whom
    nobody knows all are kept."""
    known = split.identities != JUNK
    return split.take(known) if known.any() else replace(split, identities=np.full_like(split.identities, UNKNOWN))


def read_place(files: Files, layout: Layout, top: str, place: Place, faults: list[Fault]) -> Split:
    """The images of a split; what cannot be used goes to faults."""
    before = len(faults)
    if not files.is_folder(top + place.folder):
        faults.append(Fault(f"{files.path}/{top}{place.folder}", "folder is missing"))
        return make_split([])
    if place.lists:
        images = list(_listed(files, layout, top, place, faults))
    else:
        images = list(_in_folder(files, layout, top + place.folder, faults))
    if not images and len(faults) == before:
        faults.append(Fault(f"{files.path}/{top}{place.folder}", "holds no image of this split"))
    return make_split(images)


def _in_folder(files: Files, layout: Layout, folder: str, faults: list[Fault]) -> Iterable[tuple[str, int, int]]:
    for name in files.under(folder):
        numbers = layout.read_name(name)
        # A name of the layout without an ending is that of an image.
        if not is_image(name) and (numbers is None or PurePosixPath(name).suffix):
            continue
        if numbers is None:
            faults.append(_misnamed(files, name, layout))
        else:
            yield name, *numbers


def _listed(
    files: Files, layout: Layout, top: str, place: Place, faults: list[Fault]
) -> Iterable[tuple[str, int, int]]:
    images: dict[str, tuple[int, int]] = {}
    there = set(files.under(top + place.folder))
    for list_name in place.lists:
        if not files.is_file(top + list_name):
            faults.append(Fault(f"{files.path}/{top}{list_name}", "list is missing"))
            continue
        # utf-8-sig for the mark that some editors put first; what is no UTF-8 as names have it.
        lines = writable(files.read(top + list_name).decode("utf-8-sig", errors="surrogateescape")).splitlines()
        for number, line in enumerate(lines, 1):
            where = f"{files.path}/{top}{list_name}:{number}"
            if not line.strip():
                continue
            path, identity = ("", *line.rsplit(maxsplit=1))[-2:]
            path = _below(path.strip().replace("\\", "/"), top, place.folder)
            if not path or not re.fullmatch(r"[0-9]{1,10}", identity) or int(identity) >= LARGEST_NUMBER:
                faults.append(Fault(where, f"expected `path identity`, found `{line.strip()[:80]}`"))
            elif leads_outside(path):
                faults.append(Fault(where, f"{path} leads outside of {place.folder}"))
            elif (name := str(PurePosixPath(top + place.folder, path))) in images:
                faults.append(Fault(where, f"{path} is listed a second time"))
            elif (numbers := layout.read_name(name)) is None:
                faults.append(_misnamed(files, name, layout))
            elif name not in there:
                faults.append(Fault(where, f"{path} is listed but not in {place.folder}"))
            else:
                images[name] = (int(identity) - layout.first_identity + 1, numbers[1])
    return [(name, *images[name]) for name in natural_order(images)]


def _below(path: str, top: str, folder: str) -> str:
    """A path of a list as it is below the folder: some lists begin with the folder itself, or with those around it."""
    path = path.removeprefix("./")
    return next(
        (path.removeprefix(start) for start in (f"{top}{folder}/", f"{folder}/") if path.startswith(start)), path
    )


def _misnamed(files: Files, name: str, layout: Layout) -> Fault:
    return Fault(
        f"{files.path}/{name}",
        f"the name tells no identity and camera; {layout.name} names look like {layout.example}",
    )


def _without_hopeless_queries(domain: Domain) -> Domain:
    """Leave out, as faults, queries that no gallery image of another camera can answer."""
    answered = answerable(domain.query, domain.gallery)
    if answered.all():
        return domain
    faults = [
        Fault(domain.query.names[row], _why_hopeless(int(domain.query.identities[row])))
        for row in np.flatnonzero(~answered)
    ]
    return replace(domain, query=domain.query.take(answered), faults=[*domain.faults, *faults])


def _why_hopeless(identity: int) -> str:
    if identity <= DISTRACTOR:
        what = {JUNK: "junk (-1)", UNKNOWN: "not known"}.get(identity, "a distractor (0)")
        return f"a query needs an identity, this is {what}"
    return f"query without a match: the gallery has no image of identity {identity} from another camera"
