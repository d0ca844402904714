from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.argmax import argmax_cpu, argmax_cuda, largest_cpu, largest_cuda
from rapids_slr.kernels.soft_rows import soft_rows_cpu
from tests.cuda.cases import assert_same, dense
from tests.cuda.test_projection import shared_images
from tests.cuda.test_soft_rows import arguments
from tests.refinement.slr.cases import label_pair


def soft_labels(before_N, now_N, alpha, outliers=True):
    (before_Q, now_Q, count_Q, *projection), pair_N = arguments(before_N, now_N)
    indptr, indices, values, row_Q, _ = soft_rows_cpu(before_Q, now_Q, count_Q, *projection, alpha, outliers)
    return (before_Q, now_Q, row_Q, indptr, indices, values, *shared_images(before_N, now_N)[:3]), pair_N


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("outliers", [True, False])
def test_equals_the_cpu_and_the_largest_entry(alpha, outliers, device, host):
    rng = np.random.default_rng(int(alpha * 10) + outliers)
    for clusters in (2, 4):
        before_N, now_N = label_pair(rng, 40, clusters, 0.6, 0.3)
        arrays, _ = soft_labels(before_N, now_N, alpha, outliers)
        label_Q = host(argmax_cuda(*device(arrays)))
        assert_same((label_Q,), (argmax_cpu(*arrays),))
        row_Q, indptr, indices, values = arrays[2:6]
        rows = dense(indptr, indices, values, now_N.max() + 1)
        assert (label_Q[row_Q < 0] == -1).all()
        for q in np.flatnonzero((row_Q >= 0) & (label_Q >= 0)):
            assert rows[row_Q[q], label_Q[q]] == rows[row_Q[q]].max()
        unique = np.array([(row == row.max()).sum() == 1 for row in rows] + [False])
        np.testing.assert_array_equal(label_Q[unique[row_Q]], rows.argmax(axis=1)[row_Q[unique[row_Q]]])
        largest_R = host(largest_cuda(*device((indptr, values))))
        assert_same((largest_R,), (largest_cpu(indptr, values),))
        np.testing.assert_array_equal(largest_R, rows.max(axis=1).astype(np.float32))


def test_ties_go_to_the_current_cluster_then_to_the_largest_overlap(device, host):
    """Row 0 is even between clusters 0, 1 and 2, row 1 between 0 and 2, which share as much with their last cluster."""
    third = 1 / 3
    arrays = (
        np.array([0, 0, 1, 1, -1], np.int32),
        np.array([0, -1, 2, -1, -1], np.int32),
        np.array([0, 0, 1, 1, -1], np.int32),
        np.array([0, 3, 5], np.int64),
        np.array([0, 1, 2, 0, 2], np.int32),
        np.array([third, third, third, 0.5, 0.5]),
        np.array([0, 3, 5], np.int64),
        np.array([0, 1, 2, 0, 2], np.int32),
        np.array([2, 5, 3, 4, 4], np.int64),
    )
    assert host(argmax_cuda(*device(arrays))).tolist() == [0, 1, 2, -1, -1]
    assert argmax_cpu(*arrays).tolist() == [0, 1, 2, -1, -1]


def test_nothing_at_all(device, host):
    arrays, _ = soft_labels(np.zeros(0, np.int32), np.zeros(0, np.int32), 0.5)
    assert host(argmax_cuda(*device(arrays))).size == 0
    assert host(largest_cuda(*device((arrays[3], arrays[5])))).size == 0
