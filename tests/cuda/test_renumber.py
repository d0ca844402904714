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


def test_no_label_at_all(device, host):
    group_N, label_G = np.array([0, 1, 0], np.int32), np.array([-1, -1], np.int32)
    np.testing.assert_array_equal(host(renumber_cuda(*device((group_N, label_G)))), [-1, -1, -1])
