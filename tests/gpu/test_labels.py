"""The label engines of CPU and GPU on the same features: equal labels, the same library out, the same twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rapids_slr import SLR, JaccardDBSCAN
from rapids_slr.bench import FEATURES
from rapids_slr.clustering.neighbours import nearest_neighbours
from rapids_slr.kernels.dbscan import dbscan
from tests.clustering.cases import without_close_calls

cupy = pytest.importorskip("cupy")

SIZES = [("clustered", 3000, 256), ("clustered", 501, 4096), ("isotropic", 1500, 128)]


@pytest.fixture(params=SIZES, ids=lambda size: "-".join(map(str, size)))
def features(request) -> np.ndarray:
    kind, N, D = request.param
    return FEATURES[kind](N, D)


def test_neighbours_are_exact(features):
    expected = nearest_neighbours(features, 31)
    found = nearest_neighbours(cupy.asarray(features), 31)
    np.testing.assert_array_equal(found.indices_Nk.get(), expected.indices_Nk)
    np.testing.assert_allclose(found.distances_Nk.get(), expected.distances_Nk, atol=1e-6)
    np.testing.assert_allclose(found.furthest_N.get(), expected.furthest_N, atol=2e-6)


def test_many_equal_images(features):
    features = np.concatenate([features, np.tile(features[:3], (200, 1))])
    expected = nearest_neighbours(features, 31)
    found = nearest_neighbours(cupy.asarray(features), 31)
    np.testing.assert_array_equal(found.indices_Nk.get(), expected.indices_Nk)


@pytest.mark.parametrize("source_weight", [0.0, 0.1])
def test_clusters_equal_those_of_the_cpu(features, source_weight):
    source = FEATURES["clustered"](400, features.shape[1], 7) if source_weight else None
    settings = {"k1": 20, "pairs_per_image": 7, "source_weight": source_weight}
    on_cpu = JaccardDBSCAN(**settings).fit(features, source=source)
    on_gpu = JaccardDBSCAN(**settings).fit(
        cupy.asarray(features), source=None if source is None else cupy.asarray(source)
    )
    assert isinstance(on_gpu.labels_, cupy.ndarray)
    assert on_gpu.eps_ == pytest.approx(on_cpu.eps_, abs=1e-5)
    for part in ("indptr", "indices"):
        np.testing.assert_array_equal(getattr(on_gpu.graph_, part).get(), getattr(on_cpu.graph_, part))
    np.testing.assert_allclose(on_gpu.graph_.data.get(), on_cpu.graph_.data, atol=1e-5)
    graph, eps = on_cpu._graph, on_cpu.eps_
    for_cpu, for_gpu = without_close_calls(eps, graph.distances, on_gpu._graph.distances.get())
    expected = dbscan(graph.indptr, graph.indices, for_cpu, eps, 4)
    found = dbscan(on_gpu._graph.indptr, on_gpu._graph.indices, cupy.asarray(for_gpu), eps, 4)
    np.testing.assert_array_equal(found.get(), expected)
    if np.array_equal(for_cpu, graph.distances):  # no pair is about eps: then the estimators agree as well
        np.testing.assert_array_equal(on_gpu.labels_.get(), on_cpu.labels_)


def test_refined_labels_equal_those_of_the_cpu():
    draw = np.random.default_rng(0)
    on_cpu, on_gpu = SLR(), SLR()
    identities = np.arange(5000) // 17
    for _ in range(4):
        labels = identities.copy()
        moved = draw.random(labels.size) < 0.1
        labels[moved] = draw.integers(0, identities.max() + 1, moved.sum())
        labels[draw.random(labels.size) < 0.1] = -1
        expected, found = on_cpu.update(labels), on_gpu.update(torch.from_numpy(labels).cuda())
        assert found.hard.is_cuda
        np.testing.assert_array_equal(found.hard.cpu().numpy(), expected.hard)
        np.testing.assert_array_equal(found.soft.to_dense().cpu().numpy(), expected.soft.toarray())
        np.testing.assert_array_equal(found.confidence.cpu().numpy(), expected.confidence)
        assert found.rescued == expected.rescued


@pytest.mark.parametrize("hard", ["argmax", "dbscan", "none"])
def test_the_other_ways_to_hard_labels(hard):
    draw = np.random.default_rng(1)
    on_cpu, on_gpu = SLR(hard=hard, noise="argmax"), SLR(hard=hard, noise="argmax")
    for _ in range(3):
        labels = draw.integers(-1, 40, 800)
        expected, found = on_cpu.update(labels), on_gpu.update(cupy.asarray(labels))
        np.testing.assert_array_equal(found.hard.get(), expected.hard)


def test_the_same_twice(features):
    first, second = (JaccardDBSCAN(pairs_per_image=7).fit(torch.from_numpy(features).cuda()) for _ in range(2))
    assert torch.equal(first.labels_, second.labels_)
    assert torch.equal(first.graph_.values(), second.graph_.values())
    assert first.eps_ == second.eps_
