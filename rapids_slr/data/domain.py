"""A domain: the images of its three splits, who is on them and which camera took them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, UnidentifiedImageError

from rapids_slr.data.faults import Fault
from rapids_slr.data.files import Files, natural_order
from rapids_slr.data.layouts import CLASSES, DISTRACTOR, JUNK, SPLITS, SplitName


@dataclass(frozen=True)
class Split:
    names: tuple[str, ...]
    """Names of the images, in natural order; what `Domain.open` takes."""
    identities: np.ndarray
    """(n,) int32; 0 is a distractor, -1 junk, -2 in training not known."""
    cameras: np.ndarray
    """(n,) int32."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: np.ndarray) -> Split:
        """The images of these rows (indices or a mask), in that order."""
        rows = np.arange(len(self))[rows]
        return Split(tuple(self.names[row] for row in rows), self.identities[rows], self.cameras[rows])


def make_split(images: Iterable[tuple[str, int, int]]) -> Split:
    """A split of (name, identity, camera), in the given order."""
    names, identities, cameras = zip(*images, strict=True) if (images := list(images)) else ((), (), ())
    return Split(tuple(names), np.array(identities, np.int32), np.array(cameras, np.int32))


@dataclass(frozen=True)
class Domain:
    name: str
    layout: str
    train: Split
    query: Split
    gallery: Split
    faults: list[Fault] = field(default_factory=list)
    """What was found wrong and left out of the splits."""
    unused: list[str] = field(default_factory=list)
    """Other files that lie there and are in no split, in words."""
    opener: Callable[[str], Image.Image] = field(repr=False, kw_only=True)
    stamp: Callable[[str], str] = field(repr=False, kw_only=True)
    """What changes when the image of a name does, without opening it."""
    numbered_together: bool = field(default=True, kw_only=True)
    """The same number in train and test is the same person."""
    classes: tuple[str, ...] = field(default=(), kw_only=True)
    """Names of the identities from 1 on; without them an identity is called by its number."""
    threads: int | None = field(default=None, kw_only=True)
    """Threads that open images soonest, where it is known; None takes one a core."""

    def open(self, name: str) -> Image.Image:
        """An image of any mode, as stored; may be called from several threads at once."""
        return self.opener(name)

    def name_of(self, identity: int) -> str:
        """What an identity above 0 is called; the same in two domains of classes is the same class."""
        return self.classes[identity - 1] if self.classes else str(identity)

    @property
    def is_labelled(self) -> bool:
        """Whether anyone on the training images is known."""
        return bool((self.train.identities > DISTRACTOR).any())

    @property
    def is_tested(self) -> bool:
        """Whether there are images to evaluate a network on."""
        return len(self.query) > 0 and len(self.gallery) > 0

    def split(self, name: SplitName) -> Split:
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[name]


def joined(domains: Sequence[Domain], by_name: bool = False) -> Domain:
    """Several domains as one, which share neither identities nor cameras: both are numbered anew, one domain after the
    other. Names begin with the place of their domain in the list, from 1.

    Args:
        by_name: identities of the same name are the same, in order of their names.
    """
    parts: dict[SplitName, list[Split]] = {name: [] for name in SPLITS}
    known = [_known(domain) for domain in domains]
    names = [
        {
            int(identity): domain.name_of(int(identity)) if by_name else f"{number}/{domain.name_of(int(identity))}"
            for identity in identities
        }
        for number, (domain, identities) in enumerate(zip(domains, known, strict=True), 1)
    ]
    every = list(dict.fromkeys(name for own in names for name in own.values()))
    every = natural_order(every) if by_name else every
    number_of = {name: number for number, name in enumerate(every, 1)}
    places = 0
    for number, (domain, own, numbers) in enumerate(zip(domains, names, known, strict=True), 1):
        splits = {name: domain.split(name) for name in SPLITS}
        anew = np.array([number_of[name] for name in own.values()], np.int32)
        seen = np.unique(np.concatenate([split.cameras for split in splits.values()]))
        for name, split in splits.items():
            identities = split.identities.copy()
            someone = split.identities > DISTRACTOR  # nobody in particular stays so
            identities[someone] = anew[np.searchsorted(numbers, split.identities[someone])]
            cameras = (np.searchsorted(seen, split.cameras) + 1 + places).astype(np.int32)
            parts[name].append(Split(tuple(f"{number}/{own}" for own in split.names), identities, cameras))
        places += len(seen)

    def place(name: str) -> tuple[Domain, str]:
        number, _, own = name.partition("/")
        return domains[int(number) - 1], own

    def opener(name: str) -> Image.Image:
        domain, own = place(name)
        return domain.open(own)

    def stamp(name: str) -> str:
        domain, own = place(name)
        return domain.stamp(own)

    return Domain(
        " and ".join(domain.name for domain in domains),
        "several",
        train=_beside(parts["train"]),
        query=_beside(parts["query"]),
        gallery=_beside(parts["gallery"]),
        opener=opener,
        stamp=stamp,
        numbered_together=all(domain.numbered_together for domain in domains),
        classes=tuple(every),
        threads=domains[0].threads if len({domain.threads for domain in domains}) == 1 else None,
    )


def _known(domain: Domain) -> np.ndarray:
    """Identities above 0 of any split, ascending."""
    known = np.unique(np.concatenate([domain.split(name).identities for name in SPLITS]))
    return known[known > DISTRACTOR]


def _beside(splits: Sequence[Split]) -> Split:
    names = tuple(name for split in splits for name in split.names)
    return Split(names, *(np.concatenate([getattr(split, of) for split in splits]) for of in ("identities", "cameras")))


def open_image(files: Files, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(files.read(name)))
    except UnidentifiedImageError:
        raise UnidentifiedImageError("no kind of image that Pillow knows") from None  # its own words name the buffer


def answerable(query: Split, gallery: Split) -> np.ndarray:
    """(queries,) bool: whether the gallery holds the query's identity under another camera."""

    def keys(split: Split) -> np.ndarray:
        return (split.identities.astype(np.int64) << 32) | split.cameras

    seen = np.unique(keys(gallery))  # (identity, camera) pairs
    identities, cameras = np.unique(seen >> 32, return_counts=True)
    others = np.zeros(len(query), np.int64)
    if len(identities):
        at = np.searchsorted(identities, query.identities).clip(max=len(identities) - 1)
        others = np.where(identities[at] == query.identities, cameras[at], 0)
    return (query.identities > DISTRACTOR) & (others - np.isin(keys(query), seen) > 0)


def summarise(domain: Domain) -> list[dict[str, object]]:
    """A row a split: split, images, identities, cameras, distractors, junk."""

    def row(name: SplitName) -> dict[str, object]:
        split = domain.split(name)
        return {
            "split": name,
            "images": len(split),
            "identities": len(np.unique(split.identities[split.identities > DISTRACTOR])),
            "cameras": len(np.unique(split.cameras)),
            "distractors": int((split.identities == DISTRACTOR).sum()),
            "junk": int((split.identities == JUNK).sum()),
        }

    if domain.layout == CLASSES:  # whose test images nothing asks for
        return [row("train"), row("gallery") | {"split": "test"}]
    return [row(name) for name in SPLITS]
