from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.jaccard import jaccard_distances_cpu, jaccard_distances_cuda
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
