"""Tables of images and clusters: pandas in host memory, cuDF on a GPU, written once for both."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rapids_slr.data.domain import Split
from rapids_slr.engine.arrays import array_module, as_array
from rapids_slr.engine.rapids import import_rapids, installed

Frame = Any
"""pandas.DataFrame or cudf.DataFrame."""


def data_frames(*columns: Any) -> ModuleType:
    """The library of tables for arrays: cuDF where one of them lies on a GPU and it is installed, else pandas."""
    # Looked for and not imported: without a GPU nobody waits for cuDF.
    on_device = any(array_module(x) is not np for x in columns) and installed("cudf")
    return import_rapids("cudf", "run with --device cpu") if on_device else import_module("pandas")


def table(columns: Mapping[str, Any]) -> Frame:
    """A table of equally long columns; it lies on a GPU if one of them does.

    Args:
        columns: arrays and tensors of any library, or sequences of text.
    """
    arrays = {
        name: column if isinstance(column, (tuple, list)) else as_array(column) for name, column in columns.items()
    }
    frames = data_frames(*arrays.values())
    if frames.__name__ == "pandas":  # which does not read CuPy arrays
        arrays = {name: column.get() if hasattr(column, "get") else column for name, column in arrays.items()}
    return frames.DataFrame(arrays)


def manifest(split: Split) -> dict[str, Any]:
    """Columns that say which images a table is about: sample, path, camera."""
    return {"sample": np.arange(len(split), dtype=np.int64), "path": list(split.names), "camera": split.cameras}


def cluster_statistics(labels: Frame) -> Frame:
    """The refined clusters of a label table, one row each: refined, images, cameras (how many), confidence (mean)."""
    clustered = labels[labels["refined"] >= 0]
    groups = clustered.groupby("refined", sort=True)
    found = groups.agg({"sample": "count", "camera": "nunique", "confidence": "mean"})
    return found.reset_index().rename(columns={"sample": "images", "camera": "cameras"})


def write_parquet(path: Path, rows: Frame) -> None:
    """Write a table from where it lies."""
    rows.to_parquet(str(path), index=False)
