from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels import soft_rows as module
from rapids_slr.kernels.label_pairs import label_pairs_cpu
from rapids_slr.kernels.projection import projection_cpu
from rapids_slr.kernels.runtime import SIMULATED
from rapids_slr.kernels.soft_rows import GRID, soft_rows_cpu, soft_rows_cuda
from tests.cuda.cases import assert_same, dense
from tests.cuda.test_projection import shared_images
from tests.reference import slr as reference
from tests.refinement.slr.cases import label_pair


def arguments(before_N, now_N):
    """Pairs and projection as soft_rows takes them; the pair of every image."""
    before_Q, now_Q, count_Q, pair_N, _, _ = label_pairs_cpu(before_N, now_N)
    shared = shared_images(before_N, now_N)
    return (before_Q, now_Q, count_Q, *shared[:2], projection_cpu(*shared)), pair_N


def check(before_N, now_N, alpha, outliers, device, host):
    arrays, pair_N = arguments(before_N, now_N)
    found = host(soft_rows_cuda(*device(arrays), alpha, outliers))
    assert_same(found, soft_rows_cpu(*arrays, alpha, outliers))
    indptr, indices, values, row_Q, count_R = found
    K = now_N.max(initial=-1) + 1
    row_N = row_Q[pair_N]
    rows = np.concatenate([dense(indptr, indices, values, K), np.zeros((1, K))])
    expected = reference.soft_labels(before_N, now_N, alpha, "project" if outliers else "drop")
    np.testing.assert_allclose(rows[row_N], expected, rtol=0, atol=1 / GRID)
    np.testing.assert_array_equal(values * GRID, np.rint(values * GRID))
    assert len({row.tobytes() for row in rows}) == len(rows)  # distinct
    assert count_R.tolist() == [(row_N == r).sum() for r in range(count_R.size)]
    firsts = [row_Q.tolist().index(r) for r in range(count_R.size)]
    assert firsts == sorted(firsts)  # numbered by first appearance
    return found


@pytest.mark.parametrize("outliers", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.87, 1.0])
def test_equals_the_cpu_and_the_dense_blend(alpha, outliers, device, host):
    rng = np.random.default_rng(int(alpha * 100) + outliers)
    for clusters in (2, 5):
        check(*label_pair(rng, 30, clusters, 0.5, 0.3), alpha, outliers, device, host)


def test_equal_rows_of_different_pairs_are_one(device, host):
    """Old clusters 0 to 4 went into new cluster 0 as a whole, like the images that are new in it."""
    before_N = np.array([0, 0, 1, 2, 3, 3, 4, -1, 5, 5], np.int32)
    now_N = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1], np.int32)
    _, _, _, row_Q, count_R = check(before_N, now_N, 0.5, True, device, host)
    assert row_Q.tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert count_R.tolist() == [8, 2]


@pytest.mark.skipif(not SIMULATED, reason="compiled kernels keep their hash")
@pytest.mark.parametrize("seed", range(3))
def test_rows_with_one_hash_are_told_apart(seed, device, host, monkeypatch):
    """Every row in the same run, pairs that are left out too."""
    before_N, now_N = label_pair(np.random.default_rng(seed), 30, 4, 0.5, 0.3)
    arrays, _ = arguments(before_N, now_N)
    expected = soft_rows_cpu(*arrays, 0.5, True)
    assert expected[4].size > 4
    monkeypatch.setattr(module, "_hash_row", lambda indices, values, start, stop: 7)
    assert_same(host(soft_rows_cuda(*device(arrays), 0.5, True)), expected)


@pytest.mark.parametrize(
    ("before_N", "now_N"),
    [
        ([-1, -1, -1], [-1, -1, -1]),
        ([-1, -1, -1], [0, 1, 0]),
        ([0, 1, 0], [-1, -1, -1]),
        ([0, 0, 0], [0, 0, 0]),
        ([6, 2, 6, -1, 2], [3, 3, -1, 1, 5]),
        ([4], [2]),
        ([], []),
    ],
)
@pytest.mark.parametrize("outliers", [True, False])
def test_corner_cases(before_N, now_N, outliers, device, host):
    check(np.array(before_N, np.int32), np.array(now_N, np.int32), 0.4, outliers, device, host)
