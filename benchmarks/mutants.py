"""Inputs of benchmarks/faults.py, spoilt by changes that a generator draws, and plain readers that say what they hold.

The readers share no code with the package: a specification read twice by the same code would agree with itself. Parquet
alone is read by the library that the package reads it with, as there is no other here.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

Rng = np.random.Generator
Labels = tuple[list[int], dict[str, list[str]]]
"""Labels, and the columns that name their images."""
Held = dict[str, dict[str, list[Any]]]
"""Of every split the images by name: identity, camera, digest of the pixels (None if they cannot be decoded)."""

ODD = (
    *("", " ", "no", "off", "~", "none", "null", "true", "-1", "0", "-0", "010", "0x10", "1_0", "1e3", "1e-3", "1e400"),
    *(".nan", "nan", ".inf", "255", "4294967295", "9" * 30, "9" * 5000, "1.5", "1.0", "[]", "{}", "[", "}", "'", '"'),
    *("&a", "*a", "!!python/name:os.system", "- ", ": ", "# ", "|", "%", "@", "---", "<<: {}", ",", ";", "\t", "\r"),
    *("\0", "\ufeff", "é", "१", "\udcff", "../..", "extends: paper", "path", "sample", "label"),
)
"""What stands where something else is expected."""
PLACES = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
NOTHING = ("", "~", "none", "null", "Null", "NULL")
SPEC = b"""\
name: spoilt
seed: 7
device: cpu
data:
  source: {synth: {style: source, identities: 6, images: 8, height: 32, width: 16}}
  target:
    path: some/where
    layout: market1501
  height: 64
  width: 32
augment: {pad: 2, erase: 0.25}
model:
  backbone: narrow
  widths: [4, 8, 8]
pretrain:
  epochs: 3
  lr: 1e-3
  milestones: [1, 2]
clusters:
  k1: 12
  eps: 0.5
  pairs_per_image: none
  cameras: ignore
refine:
  alpha: 0.4
  hard: argmax
training: {epochs: 5, iterations: 6, ema: 0.9}
evaluation:
  every: 2
"""
"""The spec that others are made of; a value of its own for most of its keys."""


# Bytes and text -------------------------------------------------------------------------------------------------------


def changes(rng: Rng) -> int:
    """One to three, the most often one: inputs with many are refused for the first."""
    return min(3, int(rng.geometric(0.6)))


def spoil_bytes(content: bytes, rng: Rng) -> bytes:
    """One to three changes: a bit, a piece that is gone, new, or there twice, an end that is cut off."""
    data = bytearray(content)
    for _ in range(changes(rng)):
        at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 17))
        match rng.integers(6):
            case 0 | 1 if at < len(data):
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = rng.bytes(length)
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                del data[at:]
    return bytes(data)


def spoil_text(text: str, rng: Rng) -> bytes:
    """One to three changes of lines, values and letters, in UTF-8; of some texts the bytes are spoilt too."""
    lines = text.splitlines(keepends=True)
    for _ in range(changes(rng)):
        row, other = (int(x) for x in rng.integers(len(lines), size=2))
        line, word = lines[row], ODD[int(rng.integers(len(ODD)))]
        at = int(rng.integers(len(line) + 1))
        match rng.integers(7):
            case 0 | 1:
                values = list(re.finditer(r"[^\s:,{}\[\]]+", line)) or [re.match("", line)]
                value = values[int(rng.integers(len(values)))]
                assert value is not None
                lines[row] = line[: value.start()] + word + line[value.end() :]
            case 2 if len(lines) > 1:
                del lines[row]
            case 3:
                lines.insert(other, line)
            case 4:
                lines[row], lines[other] = lines[other], lines[row]
            case 5:
                lines[row] = line[:at] + word + line[at:]
            case 6:
                lines[row] = line[:at] + line[at + 1 : at + 2] + line[at : at + 1] + line[at + 2 :]
    content = "".join(lines).encode("utf-8", errors="surrogateescape")
    return spoil_bytes(content, rng) if rng.random() < 0.2 else content


# Specs ----------------------------------------------------------------------------------------------------------------


def plain_yaml(content: bytes) -> Any:
    """What YAML says, every value as text. Raises: ValueError or yaml.YAMLError if it says nothing, or a key twice."""

    def plain(node: yaml.Node | None) -> Any:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key.value, plain(value)) for key, value in node.value]
            if len({str(key) for key, _ in pairs}) < len(pairs):
                raise ValueError("a key stands twice")
            return {str(key): value for key, value in pairs}
        if isinstance(node, yaml.SequenceNode):
            return [plain(value) for value in node.value]
        return "" if node is None else node.value

    return plain(yaml.compose(content.decode("utf-8"), Loader=yaml.BaseLoader))


def unlike(said: Any, shown: Any, where: str = "") -> Iterator[str]:
    """Where a spec as the package prints it holds something else than its file says."""
    if isinstance(shown, list) and len(shown) == 1 and not isinstance(said, list):
        shown = shown[0]  # one source in place of a list of them
    if isinstance(said, dict) and isinstance(shown, dict):
        for key, below in said.items():
            if key in shown:
                yield from unlike(below, shown[key], f"{where}{key}.")
            elif f"{where}{key}" != "extends":
                yield f"{where}{key} is accepted and in no spec"
    elif isinstance(said, list) and isinstance(shown, list) and len(said) == len(shown):
        for place, (one, other) in enumerate(zip(said, shown, strict=True)):
            yield from unlike(one, other, f"{where}{place}.")
    elif isinstance(said, str) and isinstance(shown, dict):  # the name of a choice, for its section
        if said not in (shown.get("name"), shown.get("method")):
            yield f"{where.rstrip('.')} is {said!r} and became a section"
    elif not (isinstance(said, str) and isinstance(shown, str) and _alike(said, shown)):
        yield f"{where.rstrip('.')} is {str(said)[:60]!r} and became {str(shown)[:60]!r}"


def _alike(said: str, shown: str) -> bool:
    if said == shown or (said in NOTHING and shown in NOTHING):
        return True
    if NUMBER.fullmatch(said) and NUMBER.fullmatch(shown):
        return float(said) == float(shown)
    return said.casefold() == shown.casefold() and said.casefold() in ("true", "false", ".inf", "-.inf")


def not_default(said: Any, shown: Any, default: Any, where: str = "") -> Iterator[str]:
    """Keys that a file does not say and that have another value than in a spec of defaults."""
    if not (isinstance(shown, dict) and isinstance(default, dict) and isinstance(said, dict)):
        return
    if any(shown.get(name) != default.get(name) for name in ("name", "method", "backbone") if where):
        return  # another choice, which has defaults of its own
    for key in shown.keys() & default.keys():
        if key in said:
            yield from not_default(said[key], shown[key], default[key], f"{where}{key}.")
        elif shown[key] != default[key]:
            yield f"{where}{key} is not said and became {str(shown[key])[:60]!r}"


# Archives -------------------------------------------------------------------------------------------------------------


def draw_images(rng: Rng) -> dict[str, bytes]:
    """A small data set in the layout of Market-1501: names and files, 32 x 16 pixels."""
    names = [f"{PLACES['train']}/{i:04d}_c{c}s1_{n:06d}_00.png" for i in (2, 7, 11) for c in (1, 2) for n in (1, 2)]
    names += [f"{PLACES['query']}/{i:04d}_c1s1_000001_00.jpg" for i in (3, 5)]
    people = ("-1", "0000", "0003", "0005")  # the first is junk
    names += [f"{PLACES['gallery']}/{person}_c{c}s1_000001_00.png" for person in people for c in (2, 3)]
    return {name: _file_of(rng, PurePosixPath(name).suffix) for name in names}


def _file_of(rng: Rng, suffix: str) -> bytes:
    file = io.BytesIO()
    pixels = rng.integers(0, 256, (32, 16, 3), np.uint8)
    Image.fromarray(pixels).save(file, {".png": "PNG", ".jpg": "JPEG"}.get(suffix, "PNG"))
    return file.getvalue()


def spoil_archive(images: Mapping[str, bytes], rng: Rng) -> bytes:
    """A .zip of the images with changes of its entries, of its bytes, or of both."""
    entries = list(images.items())
    kind = rng.integers(3)  # 0: entries, 1: bytes, 2: both
    if kind != 1:
        for _ in range(changes(rng)):
            _spoil_entry(entries, rng)
    file, method = io.BytesIO(), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[int(rng.integers(2))]
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(file, "w") as archive,
    ):  # of a name that is there twice
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    content = file.getvalue()
    return content if kind == 0 else spoil_bytes(content, rng)


def _spoil_entry(entries: list[tuple[str, bytes]], rng: Rng) -> None:
    row = int(rng.integers(len(entries)))
    name, content = entries[row]
    folder, _, last = name.rpartition("/")
    suffix = PurePosixPath(name).suffix
    match rng.integers(9):
        case 0 if len(entries) > 1:
            del entries[row]
        case 1:
            entries.append((f"{folder}/copy-of-{last}", content))
        case 2:
            entries[row] = (name, spoil_bytes(content, rng))
        case 3:
            entries[row] = (name, _file_of(rng, suffix))
        case 4:
            entries[row] = (name, (b"", b"no image", content[: len(content) // 2])[int(rng.integers(3))])
        case 5:
            starts = ("../", "/", "./", "C:/", "__MACOSX/", "a/../", "sub/", ".", "deeper/down/")
            entries[row] = (starts[int(rng.integers(len(starts)))] + name, content)
        case 6:
            entries[row] = (name.replace("/", "\\"), content)
        case 7:
            at = int(rng.integers(len(name)))
            entries[row] = (
                name[:at] + ("9", "-", "C", "é", ".", "_", "/")[int(rng.integers(7))] + name[at + 1 :],
                content,
            )
        case 8:
            number = ("-1", "0", "99999999999", "9" * 2000, "0003", "7")[int(rng.integers(6))]
            entries[row] = (f"{folder}/{number}_c{int(rng.integers(5))}s1_000009_00{suffix}", content)


def plain_zip(content: bytes) -> list[tuple[str, bytes | None]]:
    """Entries of a .zip by its central directory; None for one whose content is damaged.

    Raises: ValueError if the directory is; source: PKWARE's APPNOTE, without ZIP64 and encryption.
    """
    end = content.rfind(b"PK\5\6")
    if end < 0 or end + 22 > len(content):
        raise ValueError("no end of a directory")
    size, start = struct.unpack_from("<LL", content, end + 12)
    shift = end - size - start  # what stands before the archive
    at, stop, entries = start + shift, end, []
    if at < 0:
        raise ValueError("the directory is longer than the file")
    while at < stop:
        if content[at : at + 4] != b"PK\1\2" or at + 46 > stop:
            raise ValueError("a damaged directory")
        flags, method, _, _, crc, packed, unpacked, named, extra, comment = struct.unpack_from(
            "<4H3L3H", content, at + 8
        )
        offset = struct.unpack_from("<L", content, at + 42)[0] + shift
        name = content[at + 46 : at + 46 + named].decode("utf-8" if flags & 0x800 else "cp437", errors="replace")
        entries.append((name.partition("\0")[0], _content_of(content, offset, method, crc, packed, unpacked)))
        at += 46 + named + extra + comment
    return entries


def _content_of(content: bytes, at: int, method: int, crc: int, packed: int, unpacked: int) -> bytes | None:
    if at < 0 or content[at : at + 4] != b"PK\3\4" or at + 30 > len(content):
        return None
    at += 30 + sum(struct.unpack_from("<HH", content, at + 26))
    data = content[at : at + packed]
    try:
        data = data if method == 0 else zlib.decompressobj(-15).decompress(data, unpacked + 1)
    except zlib.error:
        return None
    return data if method in (0, 8) and len(data) == unpacked and zlib.crc32(data) == crc else None


def plain_domain(content: bytes) -> Held:
    """The splits of an archive by the names of its entries. Raises: ValueError if it is none."""
    suffixes = Image.registered_extensions()
    files: dict[str, bytes | None] = {}
    for stored, data in plain_zip(content):
        name = stored.replace("\\", "/").removeprefix("./")
        if not (name.endswith("/") or any(part.startswith((".", "__MACOSX")) for part in name.split("/"))):
            files.setdefault(name, data)
    tops = (
        [""] if any(name.split("/")[0] in PLACES.values() for name in files) else {n.split("/")[0] + "/" for n in files}
    )
    held: Held = {split: {} for split in PLACES}
    for name, data in files.items():
        for split, folder in PLACES.items():
            if not any(name.startswith(f"{top}{folder}/") for top in tops):
                continue
            told = re.match(r"(-1|[0-9]+)_c([0-9]+)(?![0-9])", PurePosixPath(name).name)
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in suffixes or (told and not suffix):
                person, camera = told.groups() if told else ("-2", "1")
                held[split][name] = [int(person[:1000]), int(camera[:1000]), plain_pixels(data)]
    if any(person >= 0 for person, *_ in held["train"].values()):  # junk is not trained on
        held["train"] = {name: found for name, found in held["train"].items() if found[0] != -1}
    return held


def plain_pixels(data: bytes | None, size: tuple[int, int] = (16, 32)) -> str | None:
    """Digest of the pixels of a file as RGB in a size (width, height); None if they cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data or b"")) as image:
            image = image.convert("RGB")
    except Exception:  # codecs raise nearly every kind
        return None
    image = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
    return digest(np.asarray(image).transpose(2, 0, 1))


def digest(pixels_CHW: np.ndarray) -> str:
    return hashlib.sha1(np.ascontiguousarray(pixels_CHW).tobytes()).hexdigest()


# Label files ----------------------------------------------------------------------------------------------------------


def draw_labels(rng: Rng, suffix: str, N: int = 24) -> pd.DataFrame:
    """A table of labels as runs leave it: path, sample, cluster. Arrays hold the last column."""
    names = [f"a/{i:03d}.png" for i in range(N)]
    return pd.DataFrame({"sample": np.arange(N), "path": names, "cluster": rng.integers(-1, 5, N).astype(np.int32)})


def label_file(table: pd.DataFrame, suffix: str) -> bytes:
    """A table as the content of a file."""
    file = io.BytesIO()
    if suffix == ".csv":
        return table.to_csv(index=False).encode()
    if suffix == ".npy":
        np.save(file, table["cluster"].to_numpy())
    else:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), file)
    return file.getvalue()


def spoil_labels(table: pd.DataFrame, suffix: str, rng: Rng) -> bytes:
    """A file of labels with changes of its values, its form, or its bytes."""
    if suffix == ".csv":
        return spoil_text(label_file(table, suffix).decode(), rng)
    if rng.random() < 0.5:
        return spoil_bytes(label_file(table, suffix), rng)
    table, row = table.copy(), int(rng.integers(len(table)))
    kinds = ["float32", "float64", "uint8", "uint64", "int64", "int32", "bool", "str", "int16"]
    kinds += [">i4", "complex64"] if suffix == ".npy" else []
    with np.errstate(all="ignore"):
        values = table["cluster"].to_numpy().astype(kinds[int(rng.integers(len(kinds)))])
    match rng.integers(5):
        case 0 if values.dtype.kind == "f":
            values[row] = (np.nan, np.inf, 0.5, 2**40)[int(rng.integers(4))]
        case 1:
            values = values[:row]
        case 2 if suffix == ".npy":
            values = values.reshape(1, -1) if row % 2 else np.asfortranarray(values.reshape(-1, 2))
        case 3 if values.dtype.kind in "iu":
            values[row] = (-2, np.iinfo(values.dtype).max)[int(rng.integers(2))] if values.dtype.kind == "i" else 200
    if suffix == ".npy":
        file = io.BytesIO()
        np.save(file, values)
        return file.getvalue()
    table = table.iloc[: len(values)].assign(cluster=values)
    if rng.random() < 0.5:
        table = _other_table(table, row, rng)
    return label_file(table, suffix)


def _other_table(table: pd.DataFrame, row: int, rng: Rng) -> pd.DataFrame:
    match rng.integers(6):
        case 0:
            return table.rename(columns={"cluster": ("label", "refined", "path ")[int(rng.integers(3))]})
        case 1:
            return table.drop(columns=["path", "sample"][: int(rng.integers(1, 3))])
        case 2:
            return table.assign(label=1)
        case 3:
            return table.sample(frac=1, random_state=int(rng.integers(100)))
        case 4:
            return pd.concat([table, table.iloc[:1]])
    return table.astype({"cluster": object}).assign(
        cluster=[None if i == row else x for i, x in enumerate(table["cluster"])]
    )


def plain_labels(content: bytes, suffix: str) -> Labels:
    """Labels of a file, and the names of their images. Raises: ValueError, or what a reader raises, if it has none."""
    if suffix == ".npy":
        return whole_numbers(_plain_npy(content)), {}
    if suffix == ".csv":
        text = content.decode("utf-8-sig")
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, index_col=False)
        table.columns = table.columns.str.strip()
    else:
        # Whatever became of notes beside the table, such as those of pandas.
        table = pq.read_table(io.BytesIO(content)).replace_schema_metadata(None).to_pandas()
    others = [name for name in table if name not in ("path", "sample")]
    fitting = [name for name in others if name in ("label", "cluster")] or others
    if len(fitting) != 1:
        raise ValueError("no column of labels, or several")
    images = {name: [str(value) for value in table[name]] for name in table if name in ("path", "sample")}
    return whole_numbers(table[fitting[0]]), images


def _plain_npy(content: bytes) -> np.ndarray:
    if content[:6] != b"\x93NUMPY":
        raise ValueError("no .npy file")
    wide = content[6] > 1
    length = struct.unpack_from("<L" if wide else "<H", content, 8)[0]
    start = (12 if wide else 10) + length
    head = ast.literal_eval(content[12 if wide else 10 : start].decode("latin1").strip())
    kind = np.dtype(head["descr"])
    if kind.hasobject:
        raise ValueError("objects")
    (count,) = head["shape"]
    return np.frombuffer(content[start : start + count * kind.itemsize], kind, count)


def whole_numbers(values: Sequence[Any] | np.ndarray | pd.Series) -> list[int]:
    """Raises: ValueError if one of the values is none."""
    found = []
    for value in values:
        text = str(value).strip()
        if not NUMBER.fullmatch(text) or float(text) != int(float(text)):
            raise ValueError(f"{text[:40]} is no whole number")
        found.append(int(float(text)))
    return found
