from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.projection import projection_cpu, projection_cuda
from tests.cuda.cases import assert_same, dense
from tests.reference import slr as reference
from tests.refinement.slr.cases import label_pair


def shared_images(before_N, now_N):
    """CSR of the images two clusterings share, and the sizes of their clusters, by plain loops."""
    P, K = before_N.max(initial=-1) + 1, now_N.max(initial=-1) + 1
    count_PK = np.array([[((before_N == a) & (now_N == b)).sum() for b in range(K)] for a in range(P)]).reshape(P, K)
    indptr = np.append(0, np.cumsum((count_PK > 0).sum(axis=1))).astype(np.int64)
    size_P, size_K = (
        np.array([(x == c).sum() for c in range(x.max(initial=-1) + 1)], np.int64) for x in (before_N, now_N)
    )
    return indptr, np.nonzero(count_PK)[1].astype(np.int32), count_PK[count_PK > 0].astype(np.int64), size_P, size_K


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_cpu_and_plain_loops(seed, device, host):
    rng = np.random.default_rng(seed)
    before_N, now_N = label_pair(rng, 60, 9, 0.5, 0.3)
    arrays = shared_images(before_N, now_N)
    values = host(projection_cuda(*device(arrays)))
    assert_same((values,), (projection_cpu(*arrays),))
    P, K = arrays[3].size, arrays[4].size
    np.testing.assert_allclose(
        dense(*arrays[:2], values, K), reference.projection(before_N, now_N, P, K), rtol=0, atol=1e-14
    )


def test_rows_that_sum_to_one_and_rows_without_an_heir(device, host):
    before_N = np.array([0, 0, 0, 1, 1, 2, 4, 4, 4], np.int32)  # 2 is lost, 3 a gap
    now_N = np.array([0, 0, 1, 1, 1, -1, 3, 0, 5], np.int32)
    arrays = shared_images(before_N, now_N)
    values = host(projection_cuda(*device(arrays)))
    assert_same((values,), (projection_cpu(*arrays),))
    sums = dense(*arrays[:2], values, 6).sum(axis=1)
    np.testing.assert_allclose(sums, [1, 1, 0, 0, 1], rtol=0, atol=1e-14)


def test_the_order_of_clusters_does_not_change_a_bit(device, host):
    """IoUs on a grid: the sum of a row is the same from either end."""
    before_N, now_N = label_pair(np.random.default_rng(9), 90, 7, 0.8, 0.0)
    turned_N = (now_N.max() - now_N).astype(np.int32)
    arrays, turned = shared_images(before_N, now_N), shared_images(before_N, turned_N)
    K = arrays[4].size
    one = dense(*arrays[:2], host(projection_cuda(*device(arrays))), K)
    other = dense(*turned[:2], host(projection_cuda(*device(turned))), K)
    np.testing.assert_array_equal(one, other[:, ::-1])


@pytest.mark.parametrize(("P", "K"), [(0, 0), (0, 3), (3, 0)])
def test_no_clusters(P, K, device, host):
    none = np.zeros(P + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)
    arrays = (*none, np.full(P, 2, np.int64), np.full(K, 2, np.int64))
    assert host(projection_cuda(*device(arrays))).size == 0
