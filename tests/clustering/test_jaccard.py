"""The sparse graph against the dense formulas, pair by pair."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rapids_slr.clustering import jaccard
from rapids_slr.clustering.jaccard import add_source_term, jaccard_graph, source_reach
from rapids_slr.clustering.neighbours import nearest_neighbours
from rapids_slr.errors import InputError, RunError
from tests.clustering.cases import families, groups
from tests.reference import jaccard as reference

FAMILIES = families(np.random.default_rng(1))


def dense(graph):
    """All distances of a graph, and which are stored."""
    N = graph.N
    reach = np.zeros(N) if graph.reach_N is None else graph.reach_N.astype(float)
    distance = graph.far + reach[:, None] + reach
    stored = np.zeros((N, N), bool)
    rows = np.repeat(np.arange(N), np.diff(graph.indptr))
    distance[rows, graph.indices] = graph.distances
    stored[rows, graph.indices] = True
    np.fill_diagonal(distance, 0)
    return distance, stored


def graph_of(features, k1, k2):
    return jaccard_graph(features, nearest_neighbours(features, max(k1 + 1, k2)), k1, k2)


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (5, 1), (15, 3), (2, 8), (1, 1), (30, 6)])
@pytest.mark.parametrize("family", FAMILIES)
def test_graph_equals_the_dense_formula_on_every_pair(family, k1, k2):
    features = FAMILIES[family]
    graph = graph_of(features, k1, k2)
    expected = reference.jaccard_distances(features, k1, k2)
    distance, stored = dense(graph)
    assert_allclose(distance, expected, atol=1e-5)
    assert_array_equal(stored | np.eye(graph.N, dtype=bool), expected < 1)
    assert_array_equal(distance, distance.T)
    assert ((distance == 0) == (expected == 0)).all()


@pytest.mark.parametrize("seed", range(10))
def test_graph_of_random_features_and_settings(seed):
    rng = np.random.default_rng(seed)
    features = groups(rng, int(rng.integers(40, 150)), int(rng.integers(2, 20)), D=int(rng.integers(2, 64)))
    k1, k2 = int(rng.integers(1, 39)), int(rng.integers(1, 12))
    assert_allclose(dense(graph_of(features, k1, k2))[0], reference.jaccard_distances(features, k1, k2), atol=1e-5)


def test_rows_are_sorted_and_hold_no_diagonal():
    graph = graph_of(FAMILIES["clustered"], 20, 6)
    for i in range(graph.N):
        row = graph.indices[graph.indptr[i] : graph.indptr[i + 1]]
        assert (np.diff(row) > 0).all()
        assert i not in row
    assert (graph.indptr.dtype, graph.indices.dtype, graph.distances.dtype) == ("i8", "i4", "f4")


def test_equal_images_are_stored_at_distance_zero():
    features = np.repeat(FAMILIES["clustered"][:30], 2, axis=0)
    graph = graph_of(features, 10, 4)
    distance, stored = dense(graph)
    pairs = np.arange(0, 60, 2)
    assert (distance[pairs, pairs + 1] == 0).all()
    assert stored[pairs, pairs + 1].all()


def test_source_term_equals_the_dense_formula():
    rng = np.random.default_rng(2)
    features, source = groups(rng, 90, 8), groups(rng, 50, 8)
    reach = source_reach(features, source)
    graph = add_source_term(graph_of(features, 10, 4), reach, 0.1)
    J = reference.jaccard_distances(features, 10, 4)
    assert_allclose(dense(graph)[0], reference.with_source(J, features, source, 0.1), atol=1e-5)


def test_source_that_holds_every_target_image():
    features = FAMILIES["clustered"]
    assert not source_reach(features, features[::-1].copy()).any()


def test_source_of_another_width():
    with pytest.raises(InputError, match="source: expected features of 24 dimensions like the target's, got 16"):
        source_reach(FAMILIES["clustered"], FAMILIES["random"])


def test_short_lists_are_named():
    features = FAMILIES["clustered"]
    with pytest.raises(InputError, match="lists of 5 images, but k1=20 and k2=6 need 21"):
        jaccard_graph(features, nearest_neighbours(features, 5), 20, 6)


def test_running_out_of_memory_ends_in_advice(monkeypatch):
    def fail(*_):
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(jaccard, "kreciprocal_weights", fail)
    with pytest.raises(RunError, match=r"Jaccard graph: memory has run out; lower clusters\.k1, use fewer images"):
        graph_of(FAMILIES["random"], 5, 2)
