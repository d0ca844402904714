from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.dbscan import dbscan_cpu, dbscan_cuda


def graph_of_points(x_N: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CSR of the distances below `reach` of points on a line."""
    distance_NN = np.abs(x_N[:, None] - x_N[None, :]).astype(np.float32)
    rows, columns = np.nonzero((distance_NN < reach) & ~np.eye(x_N.size, dtype=bool))
    indptr = np.searchsorted(rows, np.arange(x_N.size + 1)).astype(np.int64)
    return indptr, columns.astype(np.int32), distance_NN[rows, columns]


@pytest.mark.parametrize("min_samples", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_cpu_number_by_number(seed, min_samples, device, host):
    graph = graph_of_points(np.random.default_rng(seed).uniform(0, 10, 40), reach=1.0)
    expected = dbscan_cpu(*graph, 0.3, min_samples)
    assert expected.max() > 0
    assert min_samples == 1 or (expected < 0).any()
    np.testing.assert_array_equal(host(dbscan_cuda(*device(graph), 0.3, min_samples)), expected)


def test_a_point_counts_for_as_many_as_it_stands_for(device, host):
    graph = graph_of_points(np.random.default_rng(7).uniform(0, 10, 40), reach=1.0)
    count_N = np.random.default_rng(8).integers(1, 4, 40)
    expected = dbscan_cpu(*graph, 0.3, 5, count_N)
    assert (expected >= 0).sum() > (dbscan_cpu(*graph, 0.3, 5) >= 0).sum()
    np.testing.assert_array_equal(host(dbscan_cuda(*device(graph), 0.3, 5, device(count_N))), expected)


def test_a_border_point_between_two_clusters_joins_the_lower(device, host):
    x_N = np.array([5.0, 0.0, 0.1, 0.2, 1.0, 1.8, 1.9, 2.0])  # 1.0 is within 0.85 of both groups, and no core point
    labels_N = host(dbscan_cuda(*device(graph_of_points(x_N, reach=3.0)), 0.81, 4))
    np.testing.assert_array_equal(labels_N, [-1, 0, 0, 0, 0, 1, 1, 1])


def test_a_graph_without_pairs(device, host):
    nothing = np.zeros(4, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    np.testing.assert_array_equal(host(dbscan_cuda(*device(nothing), 0.5, 2)), [-1, -1, -1])
    np.testing.assert_array_equal(host(dbscan_cuda(*device(nothing), 0.5, 1)), [0, 1, 2])
