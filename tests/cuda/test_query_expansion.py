from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.query_expansion import expand_queries_cpu, expand_queries_cuda


def sparse_rows(seed: int, N: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CSR of rows that hold their own column and sum to 1."""
    rng = np.random.default_rng(seed)
    weight_NN = np.where(rng.random((N, N)) < share, rng.uniform(0.1, 1, (N, N)), 0) + np.eye(N)
    weight_NN /= weight_NN.sum(axis=1, keepdims=True)
    rows, columns = np.nonzero(weight_NN)
    indptr = np.searchsorted(rows, np.arange(N + 1)).astype(np.int64)
    return indptr, columns.astype(np.int32), weight_NN[rows, columns].astype(np.float32)


def dense(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    weight_NN = np.zeros((indptr.size - 1, indptr.size - 1), np.float32)
    weight_NN[np.repeat(np.arange(indptr.size - 1), np.diff(indptr)), indices] = weights
    return weight_NN


@pytest.mark.parametrize("k2", [1, 2, 6, 9])
@pytest.mark.parametrize(("N", "share"), [(30, 0.1), (9, 1.0), (11, 0.0)])
def test_equals_the_mean_of_dense_rows_and_the_cpu(N, share, k2, device, host):
    matrix = sparse_rows(N, N, share)
    closeness_NN = np.random.default_rng(1).random((N, N)) - np.eye(N)  # an image is its own first neighbour
    index_NK = np.argsort(closeness_NN, axis=1)[:, :9].astype(np.int32)
    result = host(expand_queries_cuda(*device(matrix), device(index_NK), k2))
    expected = dense(*matrix).astype(np.float64)[index_NK[:, :k2]].mean(axis=1)
    np.testing.assert_allclose(dense(*result), expected, rtol=1e-6)
    np.testing.assert_array_equal(dense(*result), dense(*expand_queries_cpu(*matrix, index_NK, k2)))
    indptr, indices, weights = result
    assert (indptr.dtype, indices.dtype, weights.dtype) == ("i8", "i4", "f4")
    np.testing.assert_array_equal(np.diff(indptr), (expected > 0).sum(axis=1))
    for i in range(N):
        assert (np.diff(indices[indptr[i] : indptr[i + 1]]) > 0).all()
