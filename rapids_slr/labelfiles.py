"""Features and labels in files: what `rapids-slr embed`, `cluster` and `refine` read and write.

A table (.csv, .parquet) may say which image a row belongs to, in a column `path` or `sample`; rows of two tables are
then matched by it. Arrays (.npy, .safetensors) hold their images in order.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import save_npz

from rapids_slr.clustering.neighbours import check_features
from rapids_slr.engine.arrays import as_array
from rapids_slr.engine.rows import room_for_cpu
from rapids_slr.errors import InputError
from rapids_slr.files import write_atomically
from rapids_slr.refinement.slr.label_arrays import check_labels

IMAGE_COLUMNS = ("path", "sample")
"""Columns that name an image; the first that both tables have matches their rows."""
LABEL_COLUMNS = ("label", "cluster")
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
"""A whole number that no zeros begin, as 64 bits have it."""
ZEROS = re.compile(r"[-+]?0[0-9]")
SEPARATORS = re.compile(r"[;\t|]")
"""What separates columns in a .csv of some programs."""
ROWS = 16_384
"""Rows of features that are converted together."""
ADVICE = "free some space, or name another file"


# Features -------------------------------------------------------------------------------------------------------------


def read_features(path: Path, key: str | None = None, normalise: bool = False) -> tuple[np.ndarray, pd.DataFrame]:
    """Features of a file, and whose they are.

    Args:
        path: .npy (N, D) or .safetensors, its one tensor (N, D), of which rows of float32 stay in the file; .parquet,
            its one column of lists, or all its other columns, which have to be numbers, read row group by row group.
        key: tensor or column of lists to take where there are several.
        normalise: divide every row by its length.
    Returns: (N, D) float32 unit rows; and a table of N rows with the file's `path` and `sample`, or else with `sample`,
        the number of the row.
    Raises: InputError if the file cannot be read or check_features refuses what it holds.
    """
    if key is not None and path.suffix.lower() == ".npy":
        raise InputError(f"{path}: a .npy file holds one array without a name; leave out --key")
    x_ND, images = _read(path, FEATURE_READERS, key)
    if normalise:
        x_ND = _unit_rows(x_ND)
    x_ND = check_features(x_ND, str(path))
    return x_ND, images if len(images.columns) else pd.DataFrame({"sample": np.arange(len(x_ND))})


def write_features(path: Path, x_ND: np.ndarray, names: Collection[str]) -> None:
    """Write features (N, D) for `read_features`: .npy, .safetensors, or .parquet with the names as `path`.

    Raises: InputError for another suffix, RunError if it cannot be written; a file that was there is then untouched.
    """
    check_suffix(path, FEATURE_WRITERS)
    write = FEATURE_WRITERS[path.suffix.lower()]
    write_atomically(path, lambda temporary: write(temporary, x_ND, names), ADVICE)


def _features_to_npy(path: Path, x_ND: np.ndarray, names: Collection[str]) -> None:
    with open(path, "wb") as file:  # by name, numpy would append a suffix
        np.save(file, x_ND)


def _features_to_parquet(path: Path, x_ND: np.ndarray, names: Collection[str]) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.ravel()), x_ND.shape[1])
    pq.write_table(pa.table({"sample": np.arange(len(x_ND)), "path": list(names), "features": lists}), path)


def _unit_rows(x: Any) -> Any:
    """(N, D) numbers as float32 rows of unit length, rows of zeros as they are; anything else as it is."""
    x = as_array(x)
    if x.ndim != 2 or x.dtype.kind not in "fiu" or not x.size:
        return x
    unit_ND = room_for_cpu(*x.shape)
    for row in range(0, len(x), ROWS):
        x_ID = x[row : row + ROWS].astype(np.float32, copy=False)
        length_I = np.sqrt(np.einsum("id,id->i", x_ID, x_ID, dtype=np.float64))
        length_I[length_I == 0] = 1
        np.divide(x_ID, length_I[:, None].astype(np.float32), out=unit_ND[row : row + ROWS])
    return unit_ND


def _features_of_npy(path: Path, key: str | None) -> tuple[Any, pd.DataFrame]:
    return _load_npy(path, mapped=True), pd.DataFrame()


def _features_of_safetensors(path: Path, key: str | None) -> tuple[Any, pd.DataFrame]:
    with safe_open(path, framework="pt") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        fitting = [name for name, shape in shapes.items() if len(shape) == 2]
        name = _pick(path, key, shapes, fitting, "a tensor (N, D)", "--key")
        # The format: the length of the header in 8 bytes, the header, and the tensors at offsets from there.
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            offset = 8 + length + json.loads(file.read(length))[name]["data_offsets"][0]
        if tensors.get_slice(name).get_dtype() != "F32" or 0 in shapes[name] or offset % 4:
            return tensors.get_tensor(name), pd.DataFrame()
    return np.memmap(path, np.dtype("<f4"), "r", offset, shapes[name]), pd.DataFrame()


def _features_of_parquet(path: Path, key: str | None) -> tuple[np.ndarray, pd.DataFrame]:
    """Features row group by row group, so that no more than one of them is held beside the features."""
    with pq.ParquetFile(path) as file:
        kinds = {field.name: field.type for field in file.schema_arrow if not _is_unnamed(field.name)}
        types = {name: kind for name, kind in kinds.items() if name not in IMAGE_COLUMNS}
        # The metadata of pandas would make an index of a column.
        images = file.read([name for name in kinds if name in IMAGE_COLUMNS]).to_pandas(ignore_metadata=True)
        lists = [name for name, kind in types.items() if _is_list(kind)]
        if lists or key is not None:
            name = _pick(path, key, types, lists, "a column of lists", "--key")
            return _stack_lists(file, name, f"{path}: {name}"), images
        wrong = {name: kind for name, kind in types.items() if not _is_number(kind)}
        if wrong or not types:
            raise InputError(
                f"{path}: expected a column of lists, or columns of numbers besides {' and '.join(IMAGE_COLUMNS)}; "
                f"got {_listed(wrong)}"
            )
        x_ND, row = room_for_cpu(file.metadata.num_rows, len(types)), 0
        for group in file.iter_batches(ROWS, columns=list(types)):
            x_ND[row : row + len(group)] = group.to_pandas().to_numpy()
            row += len(group)
        return x_ND, images


def _stack_lists(file: pq.ParquetFile, column: str, name: str) -> np.ndarray:
    """Lists of equal length as rows (N, D)."""
    x_ND, row = np.empty((0, 0), np.float32), 0
    for group in file.iter_batches(ROWS, columns=[column]):
        lists = group.column(0)
        if not (_is_list(lists.type) and _is_number(lists.type.value_type)):
            raise InputError(f"{name}: expected lists of numbers, got {lists.type}")
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.float64)  # NaN: there is none
        if not row:
            x_ND = room_for_cpu(file.metadata.num_rows, int(np.nan_to_num(lengths[0])))
        if (other := lengths != x_ND.shape[1]).any():
            at = int(other.argmax())
            what = "no list" if np.isnan(lengths[at]) else f"a list of {lengths[at]:.0f}"
            raise InputError(
                f"{name}: expected lists of one length, got {what} in row {row + at} after {x_ND.shape[1]} in row 0"
            )
        x_ND[row : row + len(lists)] = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1)
        row += len(lists)
    return x_ND


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


# Labels ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelFile:
    path: Path
    labels_N: np.ndarray
    """int32, -1 = outlier."""
    images: pd.DataFrame
    """N rows; the columns `path` and `sample` as far as the file has them."""


def read_labels(path: Path, column: str | None = None) -> LabelFile:
    """Labels of a file.

    Args:
        path: .npy (N,), .csv with a line of column names, or .parquet.
        column: column of a table to take; without, `label` or `cluster`, or the only one besides `path` and `sample`.
    Raises: InputError if the file cannot be read, the column is not told, or check_labels refuses what it holds.
    """
    labels, name, images = _read(path, LABEL_READERS, column)
    return LabelFile(path, check_labels(labels, f"{path}: {name}"), images)


def _labels_of_npy(path: Path, column: str | None) -> tuple[np.ndarray, str, pd.DataFrame]:
    labels = _load_npy(path)
    return labels, "labels", pd.DataFrame(index=range(len(labels) if labels.ndim else 0))


def _labels_of_csv(path: Path, column: str | None) -> tuple[np.ndarray, str, pd.DataFrame]:
    table = _read_csv(path)
    numbers = [name for name in table.columns if _reads_as_number(name)]
    named = {*IMAGE_COLUMNS, *LABEL_COLUMNS} & {*table.columns}
    if column is None and numbers and (not named or len(numbers) == len(table.columns) - len(named)):
        raise InputError(f"{path}: the first line holds numbers; put a line with the names of the columns before it")
    labels, name, images = _labels_of_table(path, table, column)
    if "sample" in images and all(map(WHOLE.fullmatch, images["sample"])):
        images = images.assign(sample=images["sample"].astype(np.int64))  # as the tables of a run have it
    return _numbers(labels, f"{path}: {name}"), name, images.replace("", None)


def _read_csv(path: Path) -> pd.DataFrame:
    """All columns as text: numbers would lose the zeros they begin with.

    Raises: InputError for columns that are not told apart; ValueError for a line with more or fewer values than names.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:  # with the mark that Excel puts first
        text = file.read()
    if "\0" in text:
        raise ValueError("it holds a byte 0, as no text does")
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = [(lines.line_num, row) for row in lines if row]
    if not rows:
        raise ValueError("No columns to parse")
    names = [name.strip() for name in rows[0][1]]
    if len(names) == 1 and (other := SEPARATORS.search(names[0])):
        raise InputError(f"{path}: columns are separated by {other[0]!r}; save it with commas")
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two columns have one name; the first line is {','.join(rows[0][1])}")
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(f"Error tokenizing data: line {number} has {len(row)} values for {len(names)} columns")
    return pd.DataFrame([row for _, row in rows[1:]], columns=names)


def _numbers(texts: np.ndarray, name: str) -> np.ndarray:
    """Labels (N,) of a .csv as numbers, NaN where there is none; as they are if one is no number.

    Raises: InputError for one that begins with zeros, which may be a name.
    """
    texts = np.array([text.strip() or "nan" for text in texts], object)
    if not all(map(_reads_as_number, texts)):
        return texts
    if padded := [row for row, text in enumerate(texts) if ZEROS.match(text)]:
        raise InputError(
            f"{name}[{padded[0]}] is {texts[padded[0]]!r}, which begins with zeros as a name does ({len(padded)} such "
            "labels); number clusters 0, 1, ... without them"
        )
    # Whole numbers as such, since floats do not have all of them.
    return np.array([int(text) if WHOLE.fullmatch(text) else float(text) for text in texts])


def _labels_of_parquet(path: Path, column: str | None) -> tuple[np.ndarray, str, pd.DataFrame]:
    return _labels_of_table(path, _load_parquet(path).to_pandas(ignore_metadata=True), column)


def _labels_of_table(path: Path, table: pd.DataFrame, column: str | None) -> tuple[np.ndarray, str, pd.DataFrame]:
    others = [name for name in table.columns if name not in IMAGE_COLUMNS]
    fitting = [name for name in LABEL_COLUMNS if name in others] or others
    name = _pick(path, column, dict(table.dtypes), fitting, "a column " + " or ".join(LABEL_COLUMNS), "--column")
    return table[name].to_numpy(), name, table[[name for name in table.columns if name in IMAGE_COLUMNS]]


def _reads_as_number(text: str) -> bool:
    """Whether it is a number in ASCII digits; Python's numbers may have others, and 1_000 for 1000."""
    if not text.isascii() or "_" in text:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class LabelPair:
    """Labels of two epochs of the same N images, in the order of the second file."""

    previous_N: np.ndarray
    """int32, -1 = outlier."""
    current_N: np.ndarray
    """int32, -1 = outlier."""
    images: pd.DataFrame
    """N rows; the columns `path` and `sample` as far as either file has them."""
    matched_by: str
    """`path`, `sample` or `position`."""


def join_labels(previous: LabelFile, current: LabelFile) -> LabelPair:
    """Match the images of two files by a column that both have, `path` before `sample`, else by position.

    Raises: InputError if an image is in one file alone, or occurs twice; the first ones are named.
    """
    name = next((name for name in IMAGE_COLUMNS if name in previous.images and name in current.images), None)
    if name is None:
        if previous.labels_N.size != current.labels_N.size:
            raise InputError(
                f"{previous.path} has {previous.labels_N.size} labels, {current.path} has {current.labels_N.size}; "
                "give labels of the same images in the same order, or tables that both have a column "
                f"{' or '.join(IMAGE_COLUMNS)}"
            )
        row_N = np.arange(current.labels_N.size)
    else:
        before, now = _image_index(previous, name), _image_index(current, name)
        row_N = before.get_indexer(now)
        lost, new = before.difference(now, sort=False), now[row_N < 0]
        if len(lost) or len(new):
            faults = [(previous, lost), (current, new)]
            alone = [f"{len(only)} only in {file.path}: {_first(only)}" for file, only in faults if len(only)]
            raise InputError(
                f"{previous.path} and {current.path}: expected the same images by {name}, got " + "; ".join(alone)
            )
    # In the order of `current`, with what columns `previous` has besides.
    images = previous.images.iloc[row_N].reset_index(drop=True)
    images = current.images.join(images[[name for name in images if name not in current.images]])
    return LabelPair(previous.labels_N[row_N], current.labels_N, images, name or "position")


def _image_index(file: LabelFile, name: str) -> pd.Index:
    """The images of a file by `name`, each once."""
    column = file.images[name]
    if (empty := column.isna()).any():
        raise InputError(f"{file.path}: {name} is empty in {int(empty.sum())} rows: {_first(np.flatnonzero(empty))}")
    if (again := column.duplicated()).any():
        raise InputError(f"{file.path}: {name} occurs more than once: {_first(column[again].unique())}")
    return pd.Index(column.to_numpy(object))  # text of .csv and .parquet comes in several types


def write_labels(path: Path, table: pd.DataFrame, column: str) -> None:
    """Write a table of labels: whole as .csv or .parquet, its `column` alone as .npy.

    Raises: InputError for another suffix, RunError if it cannot be written; a file that was there is then untouched.
    """
    check_suffix(path, LABEL_WRITERS)
    write = LABEL_WRITERS[path.suffix.lower()]
    write_atomically(path, lambda temporary: write(temporary, table, column), ADVICE)


def write_soft_labels(path: Path, soft_NK: Any) -> None:
    """Write soft labels, scipy sparse (N, K), for scipy.sparse.load_npz."""
    check_suffix(path, SOFT_SUFFIXES)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # by name, numpy would append a suffix
            save_npz(file, soft_NK)

    write_atomically(path, write, ADVICE)


def _write_npy(path: Path, table: pd.DataFrame, column: str) -> None:
    with open(path, "wb") as file:
        np.save(file, table[column].to_numpy())


FEATURE_READERS = {
    ".npy": _features_of_npy,
    ".safetensors": _features_of_safetensors,
    ".parquet": _features_of_parquet,
}
FEATURE_WRITERS: dict[str, Callable[[Path, np.ndarray, Collection[str]], None]] = {
    ".npy": _features_to_npy,
    ".safetensors": lambda path, x_ND, names: save_file({"features": x_ND}, path),
    ".parquet": _features_to_parquet,
}
LABEL_READERS = {".npy": _labels_of_npy, ".csv": _labels_of_csv, ".parquet": _labels_of_parquet}
LABEL_WRITERS: dict[str, Callable[[Path, pd.DataFrame, str], None]] = {
    ".npy": _write_npy,
    ".csv": lambda path, table, column: table.to_csv(path, index=False),
    ".parquet": lambda path, table, column: table.to_parquet(path, index=False),
}
SOFT_SUFFIXES = (".npz",)


# Files ----------------------------------------------------------------------------------------------------------------


def check_suffix(path: Path, suffixes: Collection[str]) -> None:
    """Raise InputError where the name of a file does not end in one of `suffixes`."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: expected a name that ends in {', '.join(suffixes)}, got {path.suffix or 'none'}")


def _read(path: Path, readers: Mapping[str, Callable[[Path, str | None], Any]], name: str | None) -> Any:
    """What the reader of this kind of file gives; InputError, with the file's name, where it fails."""
    check_suffix(path, readers)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return readers[path.suffix.lower()](path, name)
    # Says already what is wrong; it would be a ValueError below.
    except InputError:
        raise
    except (OSError, EOFError, ValueError, TokenError, SafetensorError, pa.ArrowException, csv.Error) as fault:
        reason = getattr(fault, "strerror", None) or str(fault).splitlines()[0]
        raise InputError(f"{path} is damaged or no {path.suffix} file ({reason})") from fault


def _load_npy(path: Path, mapped: bool = False) -> np.ndarray:
    """
    Args:
        mapped: leave rows of float32 in the file, of which only what is read takes memory.
    """
    with open(path, "rb") as file:
        # np.load would take an .npz of this name too.
        array = np.lib.format.read_array(file, allow_pickle=False) if not mapped else _mapped(path, file)
        file.seek(0)
        head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(file)
        if version in head and head[version](file)[2].subdtype is not None:  # read as if it were of one value
            raise ValueError("an entry of it is several values")
        return array


def _mapped(path: Path, file: BinaryIO) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError:  # of objects, or cut off: said in other words by the reader of files
        return np.lib.format.read_array(file, allow_pickle=False)
    return array if array.dtype == np.float32 and array.flags.c_contiguous else np.array(array)


def _load_parquet(path: Path) -> pa.Table:
    """A table without the unnamed row numbers that pandas may have stored."""
    with pq.ParquetFile(path) as file:
        table = file.read()
    return table.select([name for name in table.column_names if not _is_unnamed(name)])


def _is_unnamed(column: str) -> bool:
    return column.startswith("__index_level_")


def _pick(path: Path, wanted: str | None, there: dict[str, Any], fitting: list[str], what: str, option: str) -> str:
    """The part of a file that was asked for by name, or the only fitting one."""
    if wanted is None and len(fitting) == 1:
        return fitting[0]
    if wanted in there:
        return wanted
    if wanted is None and len(fitting) > 1:
        raise InputError(f"{path}: which one of {', '.join(fitting)}? Choose with {option}")
    missing = what if wanted is None else repr(wanted)
    raise InputError(f"{path}: {missing} is not in it; it holds {_listed(there)}")


def _listed(parts: dict[str, Any]) -> str:
    return _first([f"{name} {kind}" for name, kind in parts.items()]) or "nothing"


def _first(values: Collection[Any], shown: int = 5) -> str:
    """'a, b, c, ...'."""
    return ", ".join(map(str, list(values)[:shown])) + (", ..." if len(values) > shown else "")
