from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.core_distances import core_distances_cpu, core_distances_cuda, rows_by_column_cuda
from tests.cuda.rows import KINDS, csr, few_entries, on_both, squared_distances


def by_expanding(x_RC: np.ndarray, count_R: np.ndarray, min_samples: int) -> np.ndarray:
    """Every copy a point; the k-th of the others, or the last."""
    d = squared_distances(x_RC)
    others = (np.sort(np.repeat(d[r], count_R - (np.arange(len(d)) == r))) for r in range(len(d)))
    return np.array([o[min(min_samples, o.size) - 1] for o in others])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_made_ready(kind, device, host):
    x_RC, _ = kind(0, 25, 12)
    _, expected = on_both(x_RC, device)
    indptr, indices, values, columns = csr(x_RC)
    pairs = rows_by_column_cuda(*device((indptr, indices, values)), columns)
    for found, part in zip(host(pairs), host(expected), strict=True):
        assert found.dtype == part.dtype
        np.testing.assert_array_equal(found, part)


@pytest.mark.parametrize("min_samples", [1, 4, 7, 40, 500])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_cpu_bit_for_bit(kind, min_samples, device, host):
    """500 are more than there are points."""
    x_RC, count_R = kind(1, 33, 20 if kind is few_entries else 6)
    assert count_R.sum() < 500
    rows, pairs = on_both(x_RC, device)
    core_R = host(core_distances_cuda(pairs, device(count_R), min_samples))
    np.testing.assert_array_equal(core_R, core_distances_cpu(rows, count_R, min_samples))
    np.testing.assert_array_equal(core_R, by_expanding(x_RC, count_R, min_samples))


@pytest.mark.parametrize("seed", range(6))
def test_many_small_ones(seed, device, host):
    x_RC, count_R = few_entries(seed, 25, 12)
    _, pairs = on_both(x_RC, device)
    core_R = host(core_distances_cuda(pairs, device(count_R), 6))
    assert (core_R == 0).any()
    np.testing.assert_array_equal(core_R, by_expanding(x_RC, count_R, 6))


def test_the_point_itself_does_not_count_but_its_copies_do(device, host):
    _, pairs = on_both(np.eye(3)[:2], device)
    np.testing.assert_array_equal(host(core_distances_cuda(pairs, device(np.array([8, 7])), 7)), [0, 2])


def test_two_rows_and_one_point_each(device, host):
    _, pairs = on_both(np.array([[0.5, 0.5], [1, 0]]), device)
    np.testing.assert_array_equal(host(core_distances_cuda(pairs, device(np.array([1, 1])), 3)), [0.5, 0.5])


def test_no_neighbour_is_asked_for(device, host):
    _, pairs = on_both(np.eye(2), device)
    np.testing.assert_array_equal(host(core_distances_cuda(pairs, device(np.array([1, 1])), 0)), [0, 0])
