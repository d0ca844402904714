"""The sum of the smallest positive values against sorting."""

import numpy as np
import pytest

from rapids_slr.kernels.smallest import sum_of_smallest


@pytest.mark.parametrize("make", [
    lambda rng: rng.random(1000),
    lambda rng: rng.choice([0.0, 0.25, 0.5, 1.0], 1000),
    lambda rng: np.full(10, 0.7),
    lambda rng: 10.0 ** rng.uniform(-6, 0.3, 1000),
])  # fmt: skip
def test_equals_sorting(make):
    values = make(np.random.default_rng(0)).astype(np.float32)
    positive = np.sort(values[values > 0]).astype(np.float64)
    for count in {1, 2, len(positive) // 2, len(positive) - 1, len(positive)}:
        assert sum_of_smallest(values, count) == pytest.approx(positive[:count].sum(), rel=1e-12)
