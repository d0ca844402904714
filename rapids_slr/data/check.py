"""Everything that is wrong with a data set, without stopping at the first fault."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import PurePosixPath

import numpy as np

from rapids_slr.data.decode import decode_or_fault
from rapids_slr.data.domain import Domain, Split
from rapids_slr.data.faults import Fault, dark_images
from rapids_slr.data.layouts import CLASSES, DISTRACTOR
from rapids_slr.data.read import scan_domain
from rapids_slr.data.store import cores
from rapids_slr.settings.spec import DomainSpec, StoredSpec

NAMED = 10
"""Identities that a fault names before it only counts."""


def check_domain(
    spec: DomainSpec | Domain, decode: bool = True, progress: Callable[[int], None] | None = None
) -> list[Fault]:
    """All faults of a data set, in the order structure, identities, names, images.

    Structure: missing folders and lists, empty splits, file names that tell no identity, entries that lead outside,
    queries without a gallery match. Identities: in training and test alike. Names: the same image twice. Images:
    truncated or unreadable ones.

    Args:
        spec: where the data lies, or the result of scan_domain.
        decode: decode every image; without it only names are checked.
        progress: called with the number of images decoded since its last call.
    Raises: InputError if the path does not exist or is no archive.
    """
    domain = spec if isinstance(spec, Domain) else scan_domain(spec)
    faults = [*domain.faults, *_shared_identities(domain), *_duplicates(domain)]
    return faults + _unreadable(domain, progress) if decode else faults


def _shared_identities(domain: Domain) -> list[Fault]:
    # A table says itself who is in which split: in studies of animals the same ones often are. Classes always are.
    if not domain.numbered_together or domain.layout in ("table", CLASSES):
        return []

    def people(split: Split) -> np.ndarray:
        return split.identities[split.identities > DISTRACTOR]

    test = np.concatenate([people(domain.query), people(domain.gallery)])
    shared = np.intersect1d(people(domain.train), test)
    if not len(shared):
        return []
    named = ", ".join(map(str, shared[:NAMED])) + (", ..." if len(shared) > NAMED else "")
    return [Fault(domain.name, f"{len(shared)} identities are in training and test alike: {named}")]


def _duplicates(domain: Domain) -> list[Fault]:
    """Names that differ in their ending or in capitals only, within a split or between training and test."""
    faults = []
    for split in (domain.train, domain.query, domain.gallery):
        faults += _same_names(split.names, lambda name: str(PurePosixPath(name).with_suffix("")))
    file_of = {PurePosixPath(name).name.casefold(): name for name in domain.train.names}
    if domain.numbered_together and domain.layout not in ("synth", "table", CLASSES):
        for name in dict.fromkeys((*domain.query.names, *domain.gallery.names)):
            if (twin := file_of.get(PurePosixPath(name).name.casefold())) is not None:
                faults.append(Fault(name, f"an image of the same name is in training: {twin}"))
    return faults


def _same_names(names: Iterable[str], key: Callable[[str], str]) -> list[Fault]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name).casefold()].append(name)
    return [
        Fault(twins[0], f"the same image name {len(twins)} times: also {', '.join(twins[1:])}")
        for twins in groups.values()
        if len(twins) > 1
    ]


def _unreadable(domain: Domain, progress: Callable[[int], None] | None) -> list[Fault]:
    anything = StoredSpec(height=16, width=16)  # the size does not matter here

    def fault_of(name: str) -> Fault | None:
        found = decode_or_fault(domain, name, anything, dark=dark)
        return found if isinstance(found, Fault) else None

    faults: list[Fault] = []
    dark: list[str] = []
    names = iter(dict.fromkeys((*domain.train.names, *domain.query.names, *domain.gallery.names)))
    with ThreadPoolExecutor(domain.threads or cores()) as pool:
        while block := list(islice(names, 256)):
            faults += [fault for fault in pool.map(fault_of, block) if fault is not None]
            if progress is not None:
                progress(len(block))
    return [*faults, Fault(domain.name, dark_images(dark))] if dark else faults
