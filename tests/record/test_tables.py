"""Tables in host memory; what cuDF does otherwise is told by tests/test_signatures.py and, on a GPU, tests/gpu."""

from __future__ import annotations

import importlib.util
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch

from rapids_slr.data.domain import make_split
from rapids_slr.record import tables
from rapids_slr.record.folder import RunFolder
from rapids_slr.record.rows import cluster_means, label_table
from rapids_slr.record.tables import cluster_statistics, data_frames, manifest, table
from rapids_slr.refinement import SLR
from rapids_slr.refinement.none import Unrefined

COLUMNS = ["sample", "path", "camera", "previous", "cluster", "refined", "confidence"]


@pytest.fixture
def split():
    return make_split([(f"{i:04}_c{i % 3 + 1}.jpg", i // 4, i % 3 + 1) for i in range(40)])


def test_a_label_table_row_by_row(split, tmp_path):
    draw, slr = np.random.default_rng(0), SLR(min_cluster_size=3)
    first, second = (torch.from_numpy(draw.integers(-1, 4, 40)).to(torch.int32) for _ in range(2))
    slr.update(first)
    refined = slr.update(second)
    rows = label_table(split, first, second, refined.hard, refined)
    assert isinstance(rows, pd.DataFrame)
    assert list(rows) == COLUMNS
    assert rows.dtypes[["sample", "camera", "previous", "cluster", "refined", "confidence"]].tolist() == [
        *(np.int64, np.int32, np.int32, np.int32, np.int32, np.float32)
    ]
    RunFolder(tmp_path).write_labels(7, rows)
    again = pd.read_parquet(tmp_path / "labels" / "epoch-007.parquet")
    pd.testing.assert_frame_equal(again, rows)
    for i, row in enumerate(again.itertuples(index=False)):
        assert (row.sample, row.path, row.camera) == (i, split.names[i], split.cameras[i])
        assert (row.previous, row.cluster, row.refined) == (first[i], second[i], refined.hard[i])
        assert row.confidence == refined.confidence[i]


def test_without_refinement_labels_are_sure_and_have_no_past(split):
    labels = torch.arange(40, dtype=torch.int32) % 5 - 1
    rows = label_table(split, None, labels, labels, Unrefined(labels))
    assert (rows["previous"] == -1).all()
    assert rows["confidence"].tolist() == [0.0 if label < 0 else 1.0 for label in labels]
    assert rows["confidence"].dtype == np.float32


def test_columns_of_any_library_and_text():
    rows = table({"name": ("a", "b"), "x": np.arange(2), "y": torch.ones(2), "z": torch.zeros(2, dtype=torch.bfloat16)})
    assert rows["name"].tolist() == ["a", "b"]
    assert rows["y"].dtype == rows["z"].dtype == np.float32


def test_statistics_of_clusters_by_hand(split):
    draw = np.random.default_rng(1)
    rows = table(
        manifest(split)
        | {"refined": draw.integers(-1, 6, 40).astype(np.int32), "confidence": draw.random(40, dtype=np.float32)}
    )
    images, cameras, confidence = defaultdict(int), defaultdict(set), defaultdict(list)
    for row in rows.itertuples():
        images[row.refined] += 1
        cameras[row.refined].add(row.camera)
        confidence[row.refined].append(float(row.confidence))
    found = cluster_statistics(rows)
    assert list(found) == ["refined", "images", "cameras", "confidence"]
    assert found["refined"].tolist() == sorted(images.keys() - {-1})
    for row in found.itertuples():
        assert (row.images, row.cameras) == (images[row.refined], len(cameras[row.refined]))
        assert row.confidence == pytest.approx(np.mean(confidence[row.refined]))
    means = cluster_means(rows)
    assert means == pytest.approx(
        {f"cluster_{name}": float(found[name].mean()) for name in ("images", "cameras", "confidence")}
    )


def test_without_a_cluster_there_are_no_means(split):
    nothing = torch.full((40,), -1, dtype=torch.int32)
    assert cluster_means(label_table(split, None, nothing, nothing, Unrefined(nothing))) == {}
    assert len(cluster_statistics(label_table(split, None, nothing, nothing, Unrefined(nothing)))) == 0


class OfGpu:
    """An array of a GPU."""

    def get(self) -> np.ndarray:
        return np.arange(3)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(tables, "array_module", lambda x: None if isinstance(x, OfGpu) else np)
    monkeypatch.setattr(tables, "as_array", lambda column: column)


@pytest.mark.parametrize(
    ("columns", "installed", "name"),
    [
        ([np.zeros(3), ["a", "b", "c"]], True, "pandas"),
        ([np.zeros(3), OfGpu()], True, "cudf"),
        ([OfGpu(), ("a", "b", "c")], True, "cudf"),
        ([OfGpu()], False, "pandas"),
    ],
)
def test_the_library_of_tables_follows_the_arrays(gpu, monkeypatch, columns, installed, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(tables, "import_module", lambda name: name)
    monkeypatch.setattr(tables, "import_rapids", lambda name, instead: name)
    assert data_frames(*columns) == name


def test_without_cudf_columns_of_a_gpu_come_to_the_host(gpu, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert table({"a": np.zeros(3), "b": OfGpu()})["b"].tolist() == [0, 1, 2]
    assert table({"a": OfGpu(), "b": np.zeros(3)})["a"].tolist() == [0, 1, 2]
