from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels import smallest
from rapids_slr.kernels.smallest import sum_of_smallest_cpu, sum_of_smallest_cuda

MAKE = {
    "uniform": lambda rng: rng.random(400),
    "few values and zeros": lambda rng: rng.choice([0.0, 0.25, 0.5, 1.0], 400),
    "one value": lambda rng: np.full(10, 0.7),
    "six decades": lambda rng: 10.0 ** rng.uniform(-6, 0.3, 400),
    "within one bin": lambda rng: rng.uniform(0.7, 0.701, 300),
}


@pytest.mark.parametrize("name", MAKE)
def test_equals_sorting_and_the_cpu(name, device, host, monkeypatch):
    monkeypatch.setattr(smallest, "SHARE", 64)  # values a block: several blocks add up a part each
    values = MAKE[name](np.random.default_rng(0)).astype(np.float32)
    positive = np.sort(values[values > 0]).astype(np.float64)
    for count in {1, 2, len(positive) // 2, len(positive) - 1, len(positive)}:
        total = sum_of_smallest_cuda(device(values), count)
        assert total == pytest.approx(positive[:count].sum(), rel=1e-12)
        assert total == pytest.approx(sum_of_smallest_cpu(values, count), rel=1e-12)


def test_the_border_falls_between_two_bins(device):
    values = np.array([0.5, 0.25, 1.0, 0.25, 0.0, 2.0], np.float32)
    assert [sum_of_smallest_cuda(device(values), count) for count in (1, 2, 3, 4, 5)] == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_values_in_bins_of_any_size_are_counted(device, host):
    """Beyond those that nearly all values fall into, and zeros, which do not count."""
    values = np.array([1e-30, 3e-9, 1e-6, 2e-6, 0.5, 3.99, 4.0, 9.0, 1e30, 0.0, 0.0], np.float32)
    count_B = np.zeros(smallest.BINS, np.int64)
    count_B = device(count_B)
    smallest._histogram_cuda.blocks(2, device(values.view(np.int32)), count_B)
    expected = np.bincount(values[values > 0].view(np.int32) >> 16, minlength=smallest.BINS)
    np.testing.assert_array_equal(host(count_B), expected)
