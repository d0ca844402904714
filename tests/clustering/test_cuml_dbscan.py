"""DBSCAN on the matrix of all distances; scikit-learn takes the place of cuML, which needs a GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import cluster

from rapids_slr.clustering import JaccardDBSCAN, cuml_dbscan
from rapids_slr.clustering import dbscan as dbscan_module
from rapids_slr.clustering.cuml_dbscan import NO_PAIR, dbscan_cuml, dense_distances, takes_cuml
from rapids_slr.clustering.dbscan import dbscan, radius
from rapids_slr.clustering.jaccard import Graph, add_source_term, jaccard_graph
from rapids_slr.clustering.neighbours import nearest_neighbours
from rapids_slr.errors import RunError
from tests.clustering.cases import groups


@pytest.fixture
def cuml(monkeypatch):
    """Pretend cuML and CuPy; what DBSCAN was told."""
    told: list[dict] = []

    class DBSCAN:
        def __init__(self, **settings) -> None:
            self.settings = settings
            told.append(settings)

        def fit_predict(self, distance_NN, out_dtype):
            assert distance_NN.dtype == np.float32
            assert distance_NN.flags.c_contiguous
            solver = cluster.DBSCAN(
                eps=self.settings["eps"], min_samples=self.settings["min_samples"], metric="precomputed"
            )
            return solver.fit_predict(distance_NN).astype(out_dtype)

    stream = SimpleNamespace(synchronize=lambda: told.append({"waits": True}))
    cupy = SimpleNamespace(
        ndarray=type(None),
        int32=np.int32,
        ascontiguousarray=np.ascontiguousarray,
        cuda=SimpleNamespace(get_current_stream=lambda: stream, get_allocator=lambda: None),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cuml.cluster", SimpleNamespace(DBSCAN=DBSCAN))
    monkeypatch.setattr(cuml_dbscan, "_free_memory", lambda graph: 2**30)
    return told


def a_graph(seed: int, source_weight: float = 0.0) -> Graph:
    features_ND = groups(np.random.default_rng(seed), 240, 20)
    graph = jaccard_graph(features_ND, nearest_neighbours(features_ND, 13), 12, 3)
    if source_weight:
        reach_N = np.random.default_rng(seed).uniform(0, 1, graph.N).astype(np.float32)
        graph = add_source_term(graph, reach_N, source_weight)
    return graph


@pytest.mark.parametrize("source_weight", [0.0, 0.2])
def test_the_matrix_holds_the_distances_of_the_graph(source_weight):
    graph = a_graph(0, source_weight)
    expected_NN = np.full((graph.N, graph.N), NO_PAIR, np.float32)
    for i in range(graph.N):
        expected_NN[i, i] = 0
        for e in range(graph.indptr[i], graph.indptr[i + 1]):
            expected_NN[i, graph.indices[e]] = graph.distances[e]
    distance_NN = dense_distances(graph)
    assert distance_NN.dtype == np.float32
    np.testing.assert_array_equal(distance_NN, expected_NN)


@pytest.mark.parametrize("source_weight", [0.0, 0.2])
@pytest.mark.parametrize("min_samples", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_labels_equal_those_of_the_graph(cuml, seed, min_samples, source_weight):
    graph = a_graph(seed, source_weight)
    eps = radius(graph, pairs_per_image=3)
    expected_N = dbscan(graph, eps, min_samples)
    labels_N = dbscan_cuml(graph, eps, min_samples)
    assert labels_N.dtype == np.int32
    assert expected_N.max() > 3
    np.testing.assert_array_equal(labels_N, expected_N)


def test_a_distance_of_exactly_eps_is_near(cuml):
    eps = float(np.float32(0.1))  # a little more than 0.1
    graph = Graph(np.array([0, 1, 2, 2]), np.array([1, 0], np.int32), np.float32([0.1, 0.1]))
    np.testing.assert_array_equal(dbscan_cuml(graph, eps, 2), [0, 0, -1])
    np.testing.assert_array_equal(dbscan_cuml(graph, 0.1, 2), [0, 0, -1])
    assert cuml[0]["eps"] == cuml[2]["eps"] == eps


def test_what_cuml_is_told(cuml):
    graph = a_graph(0)
    dbscan_cuml(graph, 0.4, 4)
    assert cuml == [
        {
            "eps": float(np.float32(0.4)),
            "min_samples": 4,
            "metric": "precomputed",
            "max_mbytes_per_batch": 64,
            "calc_core_sample_indices": False,
        },
        {"waits": True},
    ]


def test_the_estimator_hands_its_graph_to_cuml(cuml, monkeypatch):
    features_ND = groups(np.random.default_rng(0), 240, 20)
    settings = {"k1": 12, "k2": 3, "pairs_per_image": 3}
    expected = JaccardDBSCAN(**settings, solver="graph").fit(features_ND)
    assert not cuml
    monkeypatch.setattr(dbscan_module, "takes_cuml", lambda graph, solver: solver == "cuml")
    found = JaccardDBSCAN(**settings, solver="cuml").fit(features_ND)
    assert cuml[0]["eps"] == expected.eps_
    np.testing.assert_array_equal(found.labels_, expected.labels_)


def test_what_does_not_fit_is_refused(cuml, monkeypatch):
    graph = a_graph(0)
    monkeypatch.setattr(cuml_dbscan, "_free_memory", lambda graph: 6 * graph.N**2 - 1)
    with pytest.raises(cuml_dbscan.InputError, match=r"cuML needs 0\.0 GiB for the distances of 240 images"):
        dbscan_cuml(graph, 0.4, 4)
    assert not cuml


@pytest.mark.parametrize("fault", [MemoryError("cupy"), RuntimeError("std::bad_alloc: out_of_memory: CUDA error")])
def test_running_out_of_memory_ends_in_advice(cuml, monkeypatch, fault):
    def fail(graph):
        raise fault

    monkeypatch.setattr(cuml_dbscan, "dense_distances", fail)
    with pytest.raises(RunError, match=r"DBSCAN by cuML: memory has run out; set clusters\.solver: graph"):
        dbscan_cuml(a_graph(0), 0.4, 4)


def test_without_cuml_it_says_what_to_do(cuml, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuml.cluster", None)
    with pytest.raises(cuml_dbscan.InputError, match=r"needs cuML: .*; or set clusters\.solver: graph \(or auto\)"):
        dbscan_cuml(a_graph(0), 0.4, 4)


def test_only_who_asks_for_cuml_gets_it(monkeypatch):
    graph = a_graph(0)
    monkeypatch.setattr(cuml_dbscan, "array_module", lambda x: None)  # an array of a GPU
    assert [takes_cuml(graph, solver) for solver in ("auto", "graph", "cuml")] == [False, False, True]


def test_a_graph_in_host_memory_is_none_of_cumls():
    assert not any(takes_cuml(a_graph(0), solver) for solver in ("auto", "cuml", "graph"))
