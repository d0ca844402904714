"""Naming rules: which folders hold which split, and how a file name tells identity and camera."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rapids_slr.data.files import Files

SplitName = Literal["train", "query", "gallery"]
SPLITS: tuple[SplitName, ...] = ("train", "query", "gallery")

JUNK = -1
"""Identity of bad detections, which retrieval leaves out of the gallery."""
DISTRACTOR = 0
UNKNOWN = -2
"""Identity of training images that nothing tells one of; they can be adapted to, and not learnt from."""
LARGEST_NUMBER = 2**31 - 1
LONGEST_NUMBER = 1000
"""Digits; Python reads no number of more than a few thousand."""


@dataclass(frozen=True)
class Place:
    """Where a split lies: the images of a folder, or those that lists name."""

    folder: str
    lists: tuple[str, ...] = ()
    """Text files with lines `path below the folder, identity`."""


@dataclass(frozen=True)
class Layout:
    name: str
    train: Place
    query: Place
    gallery: Place
    pattern: re.Pattern[str]
    """Read from the start of a file name; its groups are `identity` and `camera`."""
    example: str
    first_identity: int = 1
    """Number of the first identity in lists; it becomes 1, since 0 means distractor here."""
    numbered_together: bool = True
    """The same number in train and test is the same person."""

    def place(self, split: SplitName) -> Place:
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[split]

    def read_name(self, name: str) -> tuple[int, int] | None:
        """Identity and camera that a file name tells, or None."""
        match = self.pattern.match(PurePosixPath(name).name)
        if match is None:
            return None
        if max(len(match["identity"]), len(match["camera"])) > LONGEST_NUMBER:
            return None
        identity, camera = int(match["identity"]), int(match["camera"])
        return (identity, camera) if max(identity, camera) <= LARGEST_NUMBER else None

    def is_tested(self, files: Files, top: str) -> bool:
        """Whether anything of the splits that test a network is there."""
        places = (self.query, self.gallery)
        return any(files.is_folder(top + place.folder) for place in places) or any(
            files.is_file(top + name) for place in places for name in place.lists
        )

    def parts_present(self, files: Files, top: str) -> int:
        """How many of its folders and lists are there."""
        places = (self.train, self.query, self.gallery)
        found = sum(files.is_folder(top + folder) for folder in {place.folder for place in places})
        return found + sum(files.is_file(top + name) for place in places for name in place.lists)


BOXES = Place("bounding_box_train"), Place("query"), Place("bounding_box_test")
MARKET1501 = Layout(
    "market1501",
    *BOXES,
    re.compile(r"(?P<identity>-1|[0-9]+)_c(?P<camera>[0-9]+)s[0-9]+_"),
    "0002_c1s1_000451_03.jpg",
)
DUKEMTMC = Layout(
    "dukemtmc", *BOXES, re.compile(r"(?P<identity>-1|[0-9]+)_c(?P<camera>[0-9]+)_f[0-9]+"), "0005_c2_f0046985.jpg"
)
PERSONX = Layout(
    "personx", *BOXES, re.compile(r"(?P<identity>-1|[0-9]+)_c(?P<camera>[0-9]+)(?![0-9])"), "0001_c3_12.jpg"
)
VERI = Layout(
    "veri",
    Place("image_train"),
    Place("image_query"),
    Place("image_test"),
    re.compile(r"(?P<identity>-1|[0-9]+)_c(?P<camera>[0-9]+)(?![0-9])"),
    "0002_c002_00030600_0.jpg",
)


def _msmt17(train: str, test: str) -> Layout:
    return Layout(
        "msmt17",
        Place(train, ("list_train.txt", "list_val.txt")),
        Place(test, ("list_query.txt",)),
        Place(test, ("list_gallery.txt",)),
        re.compile(r"(?P<identity>[0-9]+)_[0-9]+_(?P<camera>[0-9]+)_"),
        "0000_000_01_0303morning_0008_0.jpg",
        first_identity=0,
        numbered_together=False,
    )


MSMT17_V1, MSMT17_V2 = _msmt17("train", "test"), _msmt17("mask_train_v2", "mask_test_v2")
LAYOUTS = (MARKET1501, DUKEMTMC, PERSONX, MSMT17_V1, MSMT17_V2, VERI)
"""Every layout; two of one name are versions of it."""
OMNIGLOT = ("omniglot-background", "omniglot-evaluation")
"""Parts of torchvision's data set, which has no splits of its own."""
CLASSES = "classes"
"""Layout of folders a class."""
FREE = (CLASSES, "images", "table")
"""Layouts without a naming rule: folders a class, any images, and a table that says what is on them."""


def layout_names() -> list[str]:
    """What `layout` of a spec may name."""
    return ["auto", *dict.fromkeys(layout.name for layout in LAYOUTS), *OMNIGLOT, *FREE]


def find_layout(files: Files, wanted: str) -> tuple[Layout, str] | str:
    """The layout of a data set and the prefix of its folders ("" or one folder deep), or why there is none.

    Args:
        wanted: name of a layout, or "auto".
    """
    layouts = [layout for layout in LAYOUTS if wanted in ("auto", layout.name)]
    for tops in ([""], [f"{folder}/" for folder in files.folders()]):
        found = [(layout.parts_present(files, top), layout, top) for top in tops for layout in layouts]
        most = max((parts for parts, _, _ in found), default=0)
        if most == 0:
            continue
        best = [(layout, top) for parts, layout, top in found if parts == most]
        tops_found = sorted({top for _, top in best})
        if len(tops_found) > 1:
            return f"holds several data sets ({', '.join(tops_found)}); give the path of one of them"
        return _by_file_names(files, [layout for layout, _ in best], tops_found[0]), tops_found[0]
    folders = sorted({place.folder for layout in layouts for place in (layout.train, layout.query, layout.gallery)})
    there = ", ".join(files.folders()[:8]) or "none"
    return (
        f"expected folders such as {', '.join(folders)} (here or one folder deeper), found: {there}; "
        "`layout: images` takes any images, without labels, `layout: classes` a folder a class, and `layout: table` "
        "reads a table beside them"
    )


def _by_file_names(files: Files, layouts: list[Layout], top: str) -> Layout:
    """Of layouts with the same folders, the first that reads most of the training names."""
    from rapids_slr.data.files import is_image  # which asks Pillow; a spec reads the table of layouts without it

    if len(layouts) == 1:
        return layouts[0]
    names = [name for name in files.under(top + layouts[0].train.folder) if is_image(name)]
    return max(layouts, key=lambda layout: sum(layout.read_name(name) is not None for name in names))
