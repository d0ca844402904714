from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.renumber import renumber_cpu, renumber_cuda


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_cpu(seed, device, host):
    rng = np.random.default_rng(seed)
    group_N, label_G = rng.integers(0, 9, 30).astype(np.int32), rng.integers(-1, 6, 9).astype(np.int32)
    expected = renumber_cpu(group_N, label_G)
    assert expected.max() >= 1
    np.testing.assert_array_equal(host(renumber_cuda(*device((group_N, label_G)))), expected)


@pytest.mark.parametrize(
    ("group", "label", "expected"),
    [
        ([0, 1, 0], [-1, -1], [-1, -1, -1]),
        ([2, 2, 0, 1, 0], [7, -1, 3], [0, 0, 1, -1, 1]),  # numbers with gaps
        ([1, 0, 2, 1], [4, 4, 4], [0, 0, 0, 0]),
        ([0], [0], [0]),
        ([], [], []),
    ],
)
def test_corner_cases(group, label, expected, device, host):
    arrays = np.array(group, np.int32), np.array(label, np.int32)
    np.testing.assert_array_equal(host(renumber_cuda(*device(arrays))), expected)
    np.testing.assert_array_equal(renumber_cpu(*arrays), expected)
