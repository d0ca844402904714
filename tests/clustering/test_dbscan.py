"""Radius and DBSCAN of a graph, against the dense formulas and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.cluster import DBSCAN

from rapids_slr.clustering.dbscan import dbscan, drop_small, radius
from rapids_slr.clustering.jaccard import Graph
from rapids_slr.kernels import dbscan as kernel
from tests.clustering.cases import families, without_close_calls
from tests.clustering.test_jaccard import graph_of

FAMILIES = families(np.random.default_rng(3))


@pytest.mark.parametrize("min_samples", [1, 2, 4, 9])
@pytest.mark.parametrize("seed", range(8))
def test_dbscan_equals_scikit_learn(seed, min_samples):
    """Random graphs with many border points between clusters; border points go to the lowest cluster."""
    rng = np.random.default_rng(seed)
    N = 150
    distance = np.triu(rng.random((N, N)) ** 0.25, 1)
    distance[rng.random((N, N)) < 0.05] = 0  # stored zeros
    distance = (distance + distance.T).astype(np.float32)
    near = distance < 0.6
    np.fill_diagonal(near, False)
    graph = Graph(
        np.concatenate([[0], np.cumsum(near.sum(axis=1))]), np.nonzero(near)[1].astype(np.int32), distance[near]
    )
    full = np.where(near, distance, 1)
    np.fill_diagonal(full, 0)
    for eps in (0.3, 0.45, 0.59):
        expected = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(full).labels_
        assert_array_equal(dbscan(graph, eps, min_samples), expected)


def test_a_distance_equal_to_eps_is_near():
    pair = Graph(np.array([0, 1, 2]), np.array([1, 0], np.int32), np.full(2, 0.1, np.float32))
    assert dbscan(pair, 0.1, 2).tolist() == [0, 0]
    assert dbscan(pair, 0.0999, 2).tolist() == [-1, -1]


def test_radius_averages_ones_where_too_few_pairs_are_stored():
    graph = graph_of(FAMILIES["random"], 2, 1)
    stored = graph.distances.size // 2
    assert stored < 1300
    expected = (graph.distances.sum(dtype=float) / 2 + (1300 - stored)) / 1300
    assert radius(graph, pairs_per_image=13) == pytest.approx(expected, abs=1e-6)


def test_small_clusters_become_outliers():
    labels = np.array([0, 1, 1, -1, 2, 2, 2, 3, 3, 3], np.int32)
    assert drop_small(labels, 3).tolist() == [-1, -1, -1, -1, 0, 0, 0, 1, 1, 1]
    assert drop_small(labels, 1).tolist() == labels.tolist()
    assert drop_small(labels, 99).tolist() == [-1] * 10
    assert drop_small(np.full(3, -1, np.int32), 3).tolist() == [-1] * 3
    assert drop_small(np.array([-1, -1, 0, 1, 1], np.int32), 2).tolist() == [-1, -1, -1, 0, 0]


@given(
    st.lists(st.integers(0, 12), max_size=9), st.integers(1, 5), st.sampled_from([0.0, 0.2, 0.33, 0.5, 1.0]), st.data()
)
def test_a_share_counts_from_the_cluster_of_a_typical_image(sizes, min_size, min_share, data):
    """Sizes of clusters, the first of them the outliers; against counting image by image."""
    labels_N = [cluster - 1 for cluster, size in enumerate(sizes) for _ in range(size or (cluster > 0))]
    labels_N = data.draw(st.permutations(labels_N))
    own = sorted(labels_N.count(label) for label in labels_N if label >= 0)
    least = max(min_size, min_share * own[(len(own) - 1) // 2] if own else 0)
    kept = [label for label in sorted(set(labels_N) - {-1}) if labels_N.count(label) >= least]
    expected = [kept.index(label) if label in kept else -1 for label in labels_N]
    assert drop_small(np.array(labels_N, np.int32), min_size, min_share).tolist() == expected


def test_labels_of_two_engines_are_compared_without_pairs_about_eps():
    """Four images in a row; the middle pair is at eps, and rounds to either side of it."""
    indptr, indices = np.array([0, 1, 3, 5, 6]), np.array([1, 0, 2, 1, 3, 2], np.int32)
    both = [np.array([0.1, 0.1, middle, middle, 0.1, 0.1], np.float32) for middle in (0.5, np.float32(0.5) + 1e-7)]
    labels = [kernel.dbscan(indptr, indices, distances, 0.5, 2).tolist() for distances in both]
    assert labels == [[0, 0, 0, 0], [0, 0, 1, 1]]
    for distances in without_close_calls(0.5, *both):
        assert kernel.dbscan(indptr, indices, distances, 0.5, 2).tolist() == [0, 0, 1, 1]
    apart = np.float32([0.1, 0.1, 0.4, 0.4, 0.1, 0.1])
    assert without_close_calls(0.5, apart)[0].tolist() == apart.tolist()
