"""cuML and cuDF beside the project's own kernels and beside the CPU, on a real GPU."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from rapids_slr.bench import clustered_features, same_partition
from rapids_slr.clustering import cluster_hdbscan
from rapids_slr.clustering.cuml_dbscan import dbscan_cuml, takes_cuml
from rapids_slr.clustering.dbscan import dbscan, radius
from rapids_slr.clustering.hdbscan import hdbscan_cuml
from rapids_slr.clustering.jaccard import add_source_term, jaccard_graph
from rapids_slr.clustering.neighbours import nearest_neighbours
from rapids_slr.data.domain import make_split
from rapids_slr.record.folder import RunFolder
from rapids_slr.record.rows import cluster_means, label_table
from rapids_slr.refinement import SLR

cupy = pytest.importorskip("cupy")


@pytest.mark.parametrize("min_samples", [1, 4])
@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_dbscan_of_cuml_equals_that_of_the_graph(seed, weight, min_samples):
    pytest.importorskip("cuml")
    features = cupy.asarray(clustered_features(4000, 128, seed))
    graph = jaccard_graph(features, nearest_neighbours(features, 21), 20, 6)
    if weight:
        graph = add_source_term(graph, cupy.asarray(np.random.default_rng(seed).random(4000, np.float32)), weight)
    assert takes_cuml(graph, "cuml")
    eps = radius(graph, pairs_per_image=5)
    expected = dbscan(graph, eps, min_samples, solver="graph").get()
    found = dbscan_cuml(graph, eps, min_samples)
    assert isinstance(found, cupy.ndarray)
    assert found.dtype == cupy.int32
    assert expected.max() > 50
    np.testing.assert_array_equal(found.get(), expected)


def test_hdbscan_on_features_finds_what_the_cpu_finds():
    pytest.importorskip("cuml")
    features = clustered_features(2000, 64, noise=0.1)
    expected = cluster_hdbscan(features, 7)
    found = cluster_hdbscan(torch.from_numpy(features).cuda(), 7)
    assert (found.dtype, found.is_cuda) == (torch.int64, True)  # what torch's losses want
    assert same_partition(found.cpu().numpy(), expected)


def test_hdbscan_of_cuml_on_soft_labels_without_ties():
    pytest.importorskip("cuml")
    draw = np.random.default_rng(0)
    rows = np.repeat(np.eye(20, dtype=np.float32), 15, axis=0)
    rows += draw.normal(0, 0.01, rows.shape).astype(np.float32)
    labels = hdbscan_cuml(cupy.asarray(rows), 7, 7).get()
    assert same_partition(labels, np.repeat(np.arange(20), 15))


def test_tables_are_those_of_the_cpu(tmp_path):
    cudf = pytest.importorskip("cudf")
    draw = np.random.default_rng(0)
    split = make_split([(f"{i:04}_c{i % 6 + 1}.jpg", i // 17, i % 6 + 1) for i in range(3000)])
    tables = {}
    for place in ("cpu", "cuda"):
        slr, before = SLR(), None
        for epoch in (1, 2):
            draw = np.random.default_rng(epoch)
            labels = torch.from_numpy(np.where(draw.random(3000) < 0.2, -1, np.arange(3000) // 17)).to(place)
            refined = slr.update(labels)
            tables[place] = label_table(split, before, labels, refined.hard, refined)
            RunFolder(tmp_path / place).write_labels(epoch, tables[place])
            before = labels
    assert isinstance(tables["cuda"], cudf.DataFrame)
    for epoch in (1, 2):
        expected, found = (
            pd.read_parquet(tmp_path / place / "labels" / f"epoch-00{epoch}.parquet") for place in ("cpu", "cuda")
        )
        pd.testing.assert_frame_equal(found.astype({"path": str}), expected.astype({"path": str}))
    assert cluster_means(tables["cuda"]) == pytest.approx(cluster_means(tables["cpu"]))
