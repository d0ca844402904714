"""Data sets whose names follow no rule: any images below a path, and a table that says what is on them."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rapids_slr.data.domain import Domain, make_split, open_image
from rapids_slr.data.faults import Fault
from rapids_slr.data.files import Files, FolderFiles, is_image, leads_outside, natural_order, open_files
from rapids_slr.data.layouts import JUNK, SPLITS, UNKNOWN
from rapids_slr.settings.spec import DomainSpec

TABLES = (".csv", ".parquet")
NAMELESS = ("", "unknown")
"""What a table says in place of an identity that is not known, in small letters."""
TEST = "test"
"""A split of a table whose images are divided here into query and gallery."""


def is_table(path: str | Path) -> bool:
    return Path(path).suffix.lower() in TABLES


def scan_images(files: Files, spec: DomainSpec) -> Domain:
    """All images below a path, to adapt to: identities are unknown, and nothing tests a network.

    Cameras are told by a folder of the path or by a pattern, as the spec says, or there is one. Images of which that
    tells none are faults.
    """
    faults, camera_of = list(files.faults), dict[str, str]()
    for name in filter(is_image, files.under("")):
        camera = _camera(name, spec)
        if camera:
            camera_of[name] = camera
        else:
            faults.append(Fault(f"{files.path}/{name}", _why_no_camera(spec)))
    if not camera_of and not faults:
        faults.append(Fault(str(files.path), "holds no image"))
    numbers = _numbers(camera_of.values())
    train = make_split((name, UNKNOWN, numbers[camera]) for name, camera in camera_of.items())
    return _domain(files, files.path, "images", faults, train=train)


def _camera(name: str, spec: DomainSpec) -> str:
    """What stands for the camera in a name; nothing where it has none."""
    if spec.camera_level is not None:
        folders = name.split("/")[:-1]
        return folders[spec.camera_level - 1] if len(folders) >= spec.camera_level else ""
    if spec.camera_pattern is not None:
        found = re.search(spec.camera_pattern, name)
        return "" if found is None else (found[1] if found.re.groups else found[0]) or ""
    return "1"


def _why_no_camera(spec: DomainSpec) -> str:
    if spec.camera_level is not None:
        return f"camera_level is {spec.camera_level}, and the image lies in fewer folders than that"
    return f"camera_pattern {spec.camera_pattern} finds no camera in it"


def _numbers(words: Iterable[str]) -> dict[str, int]:
    """Cameras by their names: digits are their own number, other names are numbered from 1 in natural order."""
    names = natural_order(set(words))
    if all(re.fullmatch("[0-9]{1,9}", name) for name in names):
        numbers = {name: int(name) for name in names}
        if len(set(numbers.values())) == len(names):  # 1 and 01 are two names
            return numbers
    return {name: number for number, name in enumerate(names, 1)}


def _domain(
    files: Files, path: Path, layout: str, faults: list[Fault], classes: Sequence[str] = (), **splits
) -> Domain:
    splits = {name: splits.get(name) or make_split([]) for name in SPLITS}
    name = path.name if path.is_dir() else path.stem
    opener, classes = partial(open_image, files), tuple(classes)
    return Domain(name, layout, **splits, faults=faults, opener=opener, stamp=files.stamp, classes=classes)


# Tables ---------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """An image of a table, of the columns that it has; words as the table has them."""

    where: str
    """File and line, or row from 0."""
    path: str
    identity: str = ""
    camera: str | None = None
    """None without the column."""
    split: str = "train"


COLUMNS = Row._fields[1:]


def scan_table(path: Path) -> Domain:
    """Images that a table names: columns `path` and, where they are known, `identity`, `camera` and `split`.

    Paths count from the folder of the table. Identities and cameras are any words; an empty identity, or `unknown`, is
    none. Splits are train (also without a word), query and gallery, or test: of an identity's test images the first is
    its query, the others are its gallery. Without a camera every gallery image counts for a query.

    Args:
        path: the table, or a folder or .zip that holds it.
    Raises: InputError if the path does not exist or is no archive.
    """
    if is_table(path) and path.is_file():
        files: Files = FolderFiles(path.parent)
        table: str | Fault = path.name
    else:
        files = open_files(path)
        table = _only_table(files)
    faults = list(files.faults)
    rows = [] if isinstance(table, Fault) else list(_usable(files, table, faults))
    if isinstance(table, Fault):
        faults.append(table)
    elif not rows and not faults:
        faults.append(Fault(f"{files.path}/{table}", "names no image"))
    place = {row.path: number for number, row in enumerate(rows)}
    rows = [rows[place[name]] for name in natural_order(place)]
    people = natural_order({row.identity for row in rows if row.identity.lower() not in NAMELESS})
    return _domain(files, path, "table", faults, classes=people, **_splits(rows, people))


def _only_table(files: Files) -> str | Fault:
    tables = [name for name in files.under("") if is_table(name) and name.count("/") <= 1]
    tables = [name for name in tables if name.count("/") == min(it.count("/") for it in tables)]
    if len(tables) == 1:
        return tables[0]
    if not tables:
        return Fault(str(files.path), f"expected a table, {' or '.join(TABLES)}, here or one folder deeper")
    return Fault(str(files.path), f"holds several tables ({', '.join(tables)}); give the path of one of them")


def _usable(files: Files, table: str, faults: list[Fault]) -> Iterator[Row]:
    """The rows whose images are there; all else goes to faults."""
    seen: set[str] = set()
    for row in _rows(files, table, faults):
        name = row.path if files.is_file(_beside(table, row.path)) else row.path.replace("\\", "/")
        name = _beside(table, name)
        if leads_outside(row.path):
            faults.append(Fault(row.where, f"{row.path} leads outside; paths count from the folder of the table"))
        elif not row.path or not files.is_file(name):
            faults.append(Fault(row.where, f"{row.path or 'an empty path'} is listed but not there"))
        elif name in seen:
            faults.append(Fault(row.where, f"{row.path} is listed a second time"))
        elif row.split.lower() not in ("", TEST, *SPLITS):
            faults.append(Fault(row.where, f"split: expected {', '.join(SPLITS)} or {TEST}, found {row.split}"))
        elif row.camera == "":
            faults.append(Fault(row.where, "has no camera, and others have; leave the column out where none is known"))
        else:
            seen.add(name)
            yield row._replace(path=name, split=row.split.lower() or "train")


def _beside(table: str, path: str) -> str:
    return (PurePosixPath(table).parent / path).as_posix()


def _rows(files: Files, table: str, faults: list[Fault]) -> Iterator[Row]:
    """The rows of a table; none, with a fault, where it cannot be read."""
    where = f"{files.path}/{table}"
    try:
        data = files.read(table)
        columns, lines = _of_csv(data) if table.lower().endswith(".csv") else _of_parquet(data)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as fault:
        why = str(fault).splitlines()[0]
        faults.append(Fault(where, f"is damaged or no {PurePosixPath(table).suffix} file ({why})"))
        return
    if "path" not in columns:
        there = ", ".join(columns[:8]) or "none"
        faults.append(Fault(where, f"has no column `path` (columns, between commas: {there})"))
        return
    known = [name for name in COLUMNS if name in columns]
    for number, values in lines:
        if len(values) != len(columns):
            faults.append(Fault(f"{where}:{number}", f"has {len(values)} values for {len(columns)} columns"))
            continue
        words = {name: values[columns.index(name)].strip() for name in known}
        yield Row(f"{where}:{number}", **words)


Lines = Iterable[tuple[int, Sequence[str]]]
"""Line, or row from 0, and its values."""


def _of_csv(data: bytes) -> tuple[list[str], Lines]:
    lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))  # with the mark that Excel puts first
    columns = [name.strip() for name in next(lines, [])]
    return columns, [(lines.line_num, values) for values in lines if values]


def _of_parquet(data: bytes) -> tuple[list[str], Lines]:
    table = pq.read_table(io.BytesIO(data))
    names = [name for name in COLUMNS if name in table.column_names]
    if "path" not in names:
        return table.column_names, []
    columns = [table[name].cast(pa.string()).fill_null("").to_pylist() for name in names]
    return names, list(enumerate(zip(*columns, strict=True)))


def _splits(rows: Sequence[Row], people: Sequence[str]) -> dict:
    """The splits of rows in natural order of their paths; people are numbered from 1."""
    number = {name: place for place, name in enumerate(people, 1)}
    cameras = _numbers(row.camera for row in rows if row.camera is not None)
    queries = _queries(rows)
    images: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for row in rows:
        split = row.split if row.split != TEST else "query" if row.path in queries else "gallery"
        # Junk of a gallery counts neither for nor against a query.
        identity = number.get(row.identity, JUNK if split == "gallery" else UNKNOWN)
        # Without cameras those of a query and of the gallery are two, so that the protocol leaves out no match.
        camera = (2 if split == "gallery" else 1) if row.camera is None else cameras[row.camera]
        images[split].append((row.path, identity, camera))
    return {split: make_split(found) for split, found in images.items()}


def _queries(rows: Sequence[Row]) -> set[str]:
    """Of the test images of every identity the first, where another one can answer it."""
    tests: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.split == TEST and row.identity.lower() not in NAMELESS:
            tests[row.identity].append(row)
    return {
        first.path
        for first, *others in tests.values()
        if any(other.camera is None or other.camera != first.camera for other in others)
    }
