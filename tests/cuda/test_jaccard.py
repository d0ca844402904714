from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.jaccard import (
    _pairs_cuda,
    jaccard_distances_cpu,
    jaccard_distances_cuda,
    jaccard_of_rows,
    jaccard_within,
    least_common,
)
from tests.cuda.test_query_expansion import dense, sparse_rows


@pytest.mark.parametrize(("N", "share"), [(30, 0.05), (20, 0.3), (6, 0.0), (1, 0.0)])
def test_equals_the_cpu_and_the_dense_formula(N, share, device, host):
    matrix = sparse_rows(N, N, share)
    expected = jaccard_distances_cpu(*matrix)
    result = host(jaccard_distances_cuda(*device(matrix)))
    np.testing.assert_array_equal(result[0], expected[0])
    np.testing.assert_array_equal(result[1], expected[1])
    np.testing.assert_allclose(result[2], expected[2], atol=1e-6)
    assert [part.dtype for part in result] == ["i8", "i4", "f4"]
    V_NN = dense(*matrix).astype(np.float64)
    shared_NN = np.minimum(V_NN[:, None], V_NN).sum(axis=2)
    J_NN = 1 - shared_NN / (2 - shared_NN)
    rows = np.repeat(np.arange(N), np.diff(result[0]))
    np.testing.assert_allclose(result[2], J_NN[rows, result[1]], atol=1e-6)
    assert result[1].size == (shared_NN > 0).sum() - N


def test_equal_rows_are_at_distance_zero_and_stored(device, host):
    weights = np.float32([0.3, 0.3, 0.4000001])
    matrix = np.arange(0, 10, 3), np.tile(np.int32([0, 1, 2]), 3), np.tile(weights, 3)
    indptr, indices, distances = host(jaccard_distances_cuda(*device(matrix)))
    np.testing.assert_array_equal(indptr, [0, 2, 4, 6])
    np.testing.assert_array_equal(indices, [1, 2, 0, 2, 0, 1])
    np.testing.assert_array_equal(distances, 0)


def test_the_smallest_weight_still_meets(device, host):
    """A weight below the unit of whole numbers is not lost: the pair is stored."""
    matrix = np.array([0, 2, 3]), np.int32([0, 1, 1]), np.float32([1, 1e-13, 1])
    for found, expected in zip(
        host(jaccard_distances_cuda(*device(matrix))), jaccard_distances_cpu(*matrix), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bound", [0.7, 0.9])
def test_pairs_within_a_bound_equal_those_of_the_cpu(bound, device, host):
    rows = sparse_rows(1, 40, 0.2)
    indptr, indices, distances = host(_pairs_cuda(*device(rows), least_common(bound)))
    expected = jaccard_within(*rows, bound)
    np.testing.assert_array_equal(indptr, expected[0])
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(distances, expected[2], atol=1e-6)
    assert 0 < expected[1].size < jaccard_distances_cpu(*rows)[1].size


def test_some_rows_equal_those_of_the_cpu(device, host):
    rows, row_R = sparse_rows(2, 40, 0.1), np.array([3, 39, 0], np.int32)
    found = host(_pairs_cuda(*device(rows), row_R=device(row_R)))
    indptr, indices, distances = jaccard_of_rows(*rows, row_R)
    np.testing.assert_array_equal(found[0], indptr)
    for r in range(3):
        mine = slice(indptr[r], indptr[r + 1])
        order = np.argsort(indices[mine])  # columns in any order
        np.testing.assert_array_equal(found[1][mine], indices[mine][order])
        np.testing.assert_allclose(found[2][mine], distances[mine][order], atol=1e-6)
