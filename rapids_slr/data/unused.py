"""Files of a data set that no split has, said in words: nothing that lies there is passed over in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from rapids_slr.data.domain import Split
from rapids_slr.data.faults import Fault, shown
from rapids_slr.data.files import Files, is_image
from rapids_slr.data.layouts import JUNK, SPLITS, Layout, SplitName

NAMED = 5
"""Endings and folders that a line names."""


def unused_files(
    files: Files, layout: Layout, top: str, splits: Mapping[SplitName, Split], faults: Iterable[Fault]
) -> list[str]:
    """What lies in a data set and is in none of its splits nor among its faults: a line a kind, with its number.

    Args:
        splits: as read, with the junk of the training split, which is not trained on.
    """
    told = {fault.where for fault in faults}
    used = {name for split in splits.values() for name in split.names}
    folders = [f"{top}{layout.place(split).folder}" for split in SPLITS]
    folders = [folder for folder in dict.fromkeys(folders) if files.is_folder(folder)]
    lines, inside = [], set[str]()
    for folder in folders:
        names = files.under(folder)
        inside.update(names)
        rest = [name for name in names if name not in used and f"{files.path}/{name}" not in told]
        lines += not_images([name for name in rest if not is_image(name)], f" in {folder}")
        if unlisted := [name for name in rest if is_image(name)]:
            lines.append(f"{_count(unlisted, 'image')} of {folder} in no list, the first {shown(unlisted[0])}")
    if junk := int((splits["train"].identities == JUNK).sum()):
        lines.append(f"{junk} training {'image is' if junk == 1 else 'images are'} junk (identity {JUNK})")
    outside = [name for name in files.under(top.rstrip("/")) if is_image(name) and name not in inside]
    return lines + outside_of(outside, "splits")


def outside_of(names: Sequence[str], what: str) -> list[str]:
    """A line about images that lie in none of the folders of `what`, by their folders; none where there are none."""
    where = Counter(str(PurePosixPath(name).parent) for name in names)
    return [f"{_count(names, 'image')} outside of the folders of the {what}: {_most(where)}"] if names else []


def not_images(names: Sequence[str], where: str = "") -> list[str]:
    """A line about files that are passed over, by their endings; none where there are none."""
    if not names:
        return []
    endings = Counter(PurePosixPath(name).suffix or "no ending" for name in names)
    what = f"{_count(names, 'file')}{where} with names that are not those of images"
    return [f"{what}: {_most(endings)}, the first {shown(names[0])}"]


def _count(things: Sequence[str], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _most(counts: Counter[str]) -> str:
    shown = [f"{count} {name}" for name, count in counts.most_common(NAMED)]
    return ", ".join(shown) + (", ..." if len(counts) > NAMED else "")
