from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from rapids_slr.kernels import runtime, spanning_tree
from rapids_slr.kernels.core_distances import core_distances_cpu
from rapids_slr.kernels.spanning_tree import spanning_tree_cpu, spanning_tree_cuda
from tests.cuda.rows import KINDS, few_entries, on_both, quarters, squared_distances


def check(x_RC, count_R, min_samples, device, host):
    """R - 1 edges that connect all rows, each as long as its rows are apart, together as short as can be."""
    rows, pairs = on_both(x_RC, device)
    core_R = core_distances_cpu(rows, count_R, min_samples)
    left, right, weight = host(spanning_tree_cuda(pairs, device(core_R)))
    assert left.dtype == right.dtype == np.int32
    assert left.size == len(x_RC) - 1
    reach = np.maximum(np.maximum(core_R[:, None], core_R), squared_distances(x_RC))
    np.testing.assert_array_equal(weight, reach[left, right])
    graph = coo_array((np.ones(left.size), (left, right)), shape=reach.shape)
    assert connected_components(graph, directed=False)[0] == 1
    np.testing.assert_array_equal(np.sort(weight), np.sort(spanning_tree_cpu(rows, core_R)[2]))
    np.testing.assert_array_equal(np.sort(weight), np.sort(minimum_spanning_tree(csr_array(reach)).data))
    return left, right, weight


@pytest.mark.parametrize("min_samples", [1, 7])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_is_as_short_as_can_be(kind, seed, min_samples, device, host):
    check(*kind(seed, 35, 40 if kind is few_entries else 7), min_samples, device, host)


@pytest.mark.parametrize("R", [2, 3, 5, 9])
def test_few_rows(R, device, host):
    check(np.eye(9)[:R], np.ones(R, np.int64), 2, device, host)
    check(*few_entries(R, R, 4), 1, device, host)


def test_rows_of_different_norm_that_share_nothing(device, host):
    """The links alone make the tree, and the row of least norm changes with the core distance."""
    norm_R = np.array([1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    for seed in range(4):
        count_R = np.random.default_rng(seed).permutation([9, 9, 9, 4, 3, 2, 1, 1])
        check(np.diag(norm_R), count_R, 7, device, host)


@pytest.mark.parametrize(("threads", "lanes"), [(1, 8), (4, 1), (8, 3), (2, 2)])
def test_any_number_of_threads_gives_the_same_edges(threads, lanes, device, host, monkeypatch):
    x_RC, count_R = quarters(3, 30, 6)
    expected = check(x_RC, count_R, 3, device, host)
    monkeypatch.setattr(runtime, "THREADS", threads)
    if runtime.SIMULATED:  # compiled kernels hold the constant
        monkeypatch.setattr(spanning_tree, "LANES", lanes)
    for found, same in zip(check(x_RC, count_R, 3, device, host), expected, strict=True):
        np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize("R", [0, 1])
def test_no_edge(R, device, host):
    _, pairs = on_both(np.eye(1)[:R], device)
    assert [part.size for part in host(spanning_tree_cuda(pairs, device(np.zeros(R))))] == [0, 0, 0]
