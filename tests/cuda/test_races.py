"""Kernels whose threads write to the same places, with threads that wait between reading and writing.

What is missing here is what a GPU alone can show: threads that really run at the same time.
"""

from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.clustering.neighbours import nearest_on_cpu, nearest_on_cuda
from rapids_slr.kernels import kreciprocal, runtime
from rapids_slr.kernels.dbscan import dbscan_cuda
from rapids_slr.kernels.kreciprocal import kreciprocal_weights_cpu, kreciprocal_weights_cuda
from rapids_slr.kernels.label_pairs import label_pairs_cpu, label_pairs_cuda
from rapids_slr.kernels.renumber import renumber_cpu, renumber_cuda
from rapids_slr.kernels.smallest import sum_of_smallest_cpu, sum_of_smallest_cuda
from rapids_slr.kernels.soft_rows import soft_rows_cpu, soft_rows_cuda
from tests.clustering.cases import groups
from tests.cuda import test_shared_columns, test_spanning_tree
from tests.cuda.cases import assert_same
from tests.cuda.rows import few_entries

pytestmark = pytest.mark.usefixtures("racing")


PAIRS = {
    "one pair": ([0, 1, 1, 1], [0, 0, 0, 0]),
    "two of a cluster before": ([0, 1, 1, 1], [0, 0, 1, 1]),
    "two of a cluster now": ([0, 0, 1, 1], [0, 1, 1, 1]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_counts_of_pairs_and_clusters(name, device, host):
    """The four threads of a block, of which those at the ends of a pair count it."""
    before_N, now_N = np.array(PAIRS[name], np.int32)
    assert_same(host(label_pairs_cuda(*device((before_N, now_N)))), label_pairs_cpu(before_N, now_N))


def test_counts_of_soft_rows(device, host):
    before_Q, now_Q = np.array([-1, 0, 0, 1], np.int32), np.array([0, 0, 0, 0], np.int32)  # one and the same row
    arrays = before_Q, now_Q, np.array([3, 4, 5, 6]), np.array([0, 1, 2]), np.zeros(2, np.int32), np.ones(2)
    assert_same(host(soft_rows_cuda(*device(arrays), 0.5, True)), soft_rows_cpu(*arrays, 0.5, True))


def test_first_images_of_labels(device, host):
    group_N, label_G = np.array([2, 0, 1, 1, 0, 2, 2, 0], np.int32), np.array([1, 1, 0], np.int32)
    np.testing.assert_array_equal(host(renumber_cuda(*device((group_N, label_G)))), renumber_cpu(group_N, label_G))


@pytest.mark.parametrize("combine", ["min", "product"])
def test_sums_over_shared_columns(combine, device, host):
    test_shared_columns.check(test_shared_columns.matrix(5, 12, 4, 0.6), combine, device, host)


def test_histogram_of_the_smallest(device):
    values = np.repeat(np.array([0.25, 0.5, 0.51], np.float32), 8)
    assert sum_of_smallest_cuda(device(values), 12) == sum_of_smallest_cpu(values, 12)


def test_histogram_and_lists_of_neighbours(device, host):
    features = groups(np.random.default_rng(0), 24, 3, noise=0.2)
    found, expected = nearest_on_cuda(device(features), 5), nearest_on_cpu(features, 5)
    np.testing.assert_array_equal(host(found.indices_Nk), expected.indices_Nk)


def test_members_of_reciprocal_sets(device, host, monkeypatch):
    if runtime.SIMULATED:  # all of them want the same place first
        monkeypatch.setattr(kreciprocal, "_slot", lambda j, table: 0)
    features = groups(np.random.default_rng(1), 24, 3, noise=0.2)
    near = nearest_on_cpu(features, 7)
    arrays = features, near.furthest_N, near.indices_Nk, near.distances_Nk
    found = host(kreciprocal_weights_cuda(*device(arrays), 6))
    expected = kreciprocal_weights_cpu(*arrays, 6)
    np.testing.assert_array_equal(found[0], expected[0])
    for i in range(24):
        row = slice(expected[0][i], expected[0][i + 1])
        np.testing.assert_array_equal(found[1][row], np.sort(expected[1][row]))


def test_components_that_one_point_joins(device, host):
    """Point 4 is near to all the others, which are near to it alone."""
    indptr, indices = np.array([0, 1, 2, 3, 4, 8]), np.array([4, 4, 4, 4, 0, 1, 2, 3], np.int32)
    graph = indptr, indices, np.full(8, 0.1, np.float32)
    for _ in range(5):
        np.testing.assert_array_equal(host(dbscan_cuda(*device(graph), 0.2, 2)), np.zeros(5))


def test_shortest_edges_of_components(device, host):
    test_spanning_tree.check(*few_entries(0, 25, 12), 3, device, host)
