"""Distances and neighbour lists of others."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.cluster import DBSCAN
from sklearn.neighbors import NearestNeighbors, radius_neighbors_graph

from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.errors import InputError
from tests.clustering.cases import groups

FEATURES = groups(np.random.default_rng(51), 150, 10)


@pytest.mark.parametrize("convention", ["rerank", "faiss"])
def test_lists_of_another_search_give_what_our_own_gives(convention):
    settings = {"k1": 15, "k2": 4, "convention": convention, "eps": 0.5}
    ours = JaccardDBSCAN(**settings).fit(FEATURES)
    lists = NearestNeighbors(n_neighbors=20).fit(FEATURES).kneighbors(FEATURES)[1]
    rng = np.random.default_rng(52)
    lists = np.concatenate([rng.permuted(lists, axis=1), np.full((150, 1), -1), lists[:, :3]], axis=1)
    for given, convert in ((lists, np.asarray), (torch.from_numpy(lists), torch.from_numpy)):
        model = JaccardDBSCAN(**settings).fit_graph(given, features=convert(FEATURES))
        assert type(model.labels_) is type(given)
        assert_array_equal(model.labels_, ours.labels_)
        data = model.graph_.values().numpy() if torch.is_tensor(given) else model.graph_.data
        assert_allclose(data, ours.graph_.data, atol=1e-6)
        assert_array_equal(model.labels_at(eps=0.4), ours.labels_at(eps=0.4))
        assert model.recall_ is None


def test_a_sparse_graph_of_our_own_gives_the_same_again():
    ours = JaccardDBSCAN(k1=12).fit(FEATURES)
    assert_array_equal(JaccardDBSCAN(k1=12).fit_graph(ours.graph_).labels_, ours.labels_)
    of_torch = JaccardDBSCAN(k1=12).fit(torch.from_numpy(FEATURES)).graph_
    again = JaccardDBSCAN(k1=12).fit_graph(of_torch)
    assert again.labels_.dtype == torch.int64
    assert_array_equal(again.labels_, ours.labels_)
    assert again.eps_ == ours.eps_


@pytest.mark.parametrize("form", ["csr", "coo", "lil"])
def test_distances_of_others_are_clustered_as_by_scikit_learn(form):
    graph = radius_neighbors_graph(FEATURES, 1.1, mode="distance", include_self=True)
    graph = graph.multiply(1 / 2).tocsr()
    for eps in (0.2, 0.35, 0.5):
        expected = DBSCAN(eps=2 * eps, min_samples=4).fit(FEATURES.astype(np.float64)).labels_
        found = JaccardDBSCAN(eps=eps, min_samples=4).fit_graph(graph.asformat(form))
        assert_array_equal(found.labels_, expected)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (sparse.csr_matrix([[0, 2.0], [2.0, 0]]), r"in \[0, 1\], got 2.0 between 0 and 1 \(2 such values\)"),
        (sparse.csr_matrix([[0, np.nan], [0.5, 0]]), r"in \[0, 1\], got nan between 0 and 1"),
        (sparse.csr_matrix([[0, 0.5], [0.2, 0]]), "not symmetric"),
        (sparse.csr_matrix([[0, 0.5], [0, 0]]), "not symmetric"),
        (sparse.csr_matrix(np.ones((2, 3))), r"expected an \(N, N\) matrix of distances, got \(2, 3\)"),
        (np.zeros((3, 3)), "distances come as a sparse matrix"),
        (torch.zeros(3, 3), "distances come as a sparse matrix"),
        (torch.eye(3).to_sparse(), "expected a sparse_csr tensor"),
    ],
)
def test_graphs_that_cannot_be_used_are_named(graph, message):
    with pytest.raises(InputError, match=message):
        JaccardDBSCAN().fit_graph(graph)


@pytest.mark.parametrize(
    ("lists", "settings", "message"),
    [
        (np.zeros((150, 30), int), {}, "row 0 names 0 other images, but k1 and k2 need 20; give longer lists"),
        (np.full((150, 3), 150), {}, "image 150 of 150; images are numbered from 0"),
        (np.zeros((149, 30), int), {}, r"expected \(150, k\) whole numbers, got \(149, 30\)"),
        (np.zeros((150, 30)), {}, r"expected \(150, k\) whole numbers, got \(150, 30\) float64"),
        (np.zeros((150, 30), int), {"source_weight": 0.1}, "knows no source and no cameras"),
    ],
)
def test_lists_that_cannot_be_used_are_named(lists, settings, message):
    with pytest.raises(InputError, match=message):
        JaccardDBSCAN(**settings).fit_graph(lists, features=FEATURES)
