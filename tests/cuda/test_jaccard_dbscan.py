"""From neighbour lists to labels on the device, against the dense formulas."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.clustering.dbscan import dbscan, drop_small, radius
from rapids_slr.clustering.jaccard import Graph, add_source_term, jaccard_graph
from rapids_slr.clustering.neighbours import Neighbours
from rapids_slr.errors import InputError
from tests.clustering.cases import groups, unit
from tests.reference import jaccard as reference
from tests.reference import peers

CLUSTERED = groups(np.random.default_rng(0), 32, 4, D=8, noise=0.4)
FAMILIES = {
    "clustered": CLUSTERED,
    "duplicated": np.repeat(CLUSTERED[:11], 2, axis=0),
    "constant": np.repeat(CLUSTERED[:1], 12, axis=0),
    "isolated": np.concatenate([CLUSTERED[:18], unit(-CLUSTERED[:3] + np.eye(3, 8))]),
}


def lists(features: np.ndarray, k: int) -> Neighbours:
    distance_NN = reference.squared_distances(features)
    index_Nk = reference.ranks(distance_NN)[:, :k].astype(np.int32)
    near_Nk = np.take_along_axis(distance_NN, index_Nk, axis=1).astype(np.float32)
    return Neighbours(index_Nk, near_Nk, distance_NN.max(axis=1).astype(np.float32))


def on_device(record, device):
    return type(record)(**{name: device(value) for name, value in vars(record).items()})


def graph_of(features: np.ndarray, k1: int, k2: int, device) -> Graph:
    neighbours = on_device(lists(features, max(k1 + 1, k2)), device)
    return jaccard_graph(device(features), neighbours, k1, k2)


def dense(graph: Graph, host) -> np.ndarray:
    distance_NN = np.ones((graph.N, graph.N), np.float32)
    rows = np.repeat(np.arange(graph.N), np.diff(host(graph.indptr)))
    distance_NN[rows, host(graph.indices)] = host(graph.distances)
    np.fill_diagonal(distance_NN, 0)
    return distance_NN


@pytest.mark.parametrize(("family", "k2"), [("clustered", 1), *((family, 4) for family in FAMILIES)])
def test_graph_radius_and_labels_equal_the_dense_way(family, k2, device, host):
    features = FAMILIES[family]
    graph = graph_of(features, 7, k2, device)
    expected, found = reference.jaccard_distances(features, 7, k2), dense(graph, host)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert graph.indices.size == (expected < 1).sum() - graph.N
    for rule in ({"pairs_per_image": 3}, {"pairs_per_image": 40}, {"rho": 0.05}):
        eps = radius(graph, **rule)
        assert eps == pytest.approx(reference.radius(expected, **rule), abs=1e-6)
        labels = DBSCAN(eps=max(eps, 1e-9), min_samples=4, metric="precomputed").fit(found).labels_
        np.testing.assert_array_equal(host(dbscan(graph, eps, 4)), labels)


@pytest.mark.parametrize("k2", [1, 4])
@pytest.mark.parametrize("family", ["clustered", "duplicated", "isolated"])
def test_faiss_convention_equals_the_code_it_follows(family, k2, device, host):
    features = FAMILIES[family]
    neighbours = on_device(lists(features, 7), device)
    graph = jaccard_graph(device(features), neighbours, 7, k2, "faiss")
    expected = peers.faiss_family(features, 7, k2)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(dense(graph, host), expected, atol=1e-6)


@pytest.mark.parametrize("rule", [{"pairs_per_image": 3}, {"rho": 0.3}, {"rho": 1.0}])
def test_source_term_equals_the_dense_way(rule, device, host):
    features, source = CLUSTERED, groups(np.random.default_rng(1), 20, 3, D=8)
    J = reference.jaccard_distances(features, 6, 3)
    expected = reference.with_source(J, features, source, 0.1)
    reach_N = 1 - np.exp(-reference.squared_distances(features, source).min(axis=1))
    reach_N = device((reach_N / reach_N.max()).astype(np.float32))
    graph = add_source_term(graph_of(features, 6, 3, device), reach_N, 0.1)
    rows = np.repeat(np.arange(graph.N), np.diff(host(graph.indptr)))
    np.testing.assert_allclose(host(graph.distances), expected[rows, host(graph.indices)], atol=1e-6)
    eps = radius(graph, **rule)
    assert eps == pytest.approx(reference.radius(expected, **rule), abs=1e-6)
    if eps >= expected[J == 1].min():
        with pytest.raises(InputError, match="reaches pairs without a common neighbour"):
            dbscan(graph, eps, 4)
        return
    labels = DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit(expected).labels_
    np.testing.assert_array_equal(host(dbscan(graph, eps, 4)), labels)


def test_a_radius_that_reaches_every_pair(device, host):
    graph = graph_of(CLUSTERED[:12], 3, 1, device)
    np.testing.assert_array_equal(host(dbscan(graph, 1.0, 4)), 0)
    np.testing.assert_array_equal(host(dbscan(graph, 1.0, 13)), -1)


def test_a_radius_that_reaches_the_nearest_pair_that_is_not_stored(device, host):
    nothing = np.zeros(4, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    graph = on_device(Graph(*nothing, far=0.9, reach_N=np.array([0.3, 0.05, 0.1], np.float32)), device)
    np.testing.assert_array_equal(host(dbscan(graph, 1.04, 1)), [0, 1, 2])
    with pytest.raises(InputError, match=r"which are 1\.05 or more apart"):
        dbscan(graph, 1.06, 1)


def test_small_clusters_become_outliers(device, host):
    labels = device(np.array([0, 1, 1, -1, 2, 2, 2, 3, 3, 3], np.int32))
    np.testing.assert_array_equal(host(drop_small(labels, 3)), [-1, -1, -1, -1, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(host(drop_small(labels, 1, 0.75)), [-1, -1, -1, -1, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(host(drop_small(device(np.full(3, -1, np.int32)), 3)), [-1] * 3)
    outliers = device(np.array([-1, -1, 0, 1, 1], np.int32))  # more of them than min_size: still no cluster
    np.testing.assert_array_equal(host(drop_small(outliers, 2)), [-1, -1, -1, 0, 0])
    assert host(drop_small(labels, 3)).dtype == np.int32


@pytest.mark.parametrize("family", ["clustered", "duplicated"])
def test_estimator_from_features_to_labels(family, device, host):
    features = FAMILIES[family]
    model = JaccardDBSCAN(k1=7, k2=3, pairs_per_image=3).fit(device(features))
    distance, among_kept = reference.with_copies(features, 7, 3)
    assert model.eps_ == pytest.approx(reference.radius(among_kept, pairs_per_image=3), abs=1e-6)
    near = np.where(np.abs(distance - model.eps_) < 1e-6, model.eps_, distance)  # eps itself is near
    expected = DBSCAN(eps=max(model.eps_, 1e-9), min_samples=4, metric="precomputed").fit(near).labels_
    np.testing.assert_array_equal(host(model.labels_), reference.shared_labels(expected, features))
    assert type(model.labels_) is type(device(features))
