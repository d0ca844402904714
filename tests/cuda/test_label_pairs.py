from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.label_pairs import label_pairs_cpu, label_pairs_cuda
from tests.cuda.cases import assert_same
from tests.refinement.slr.cases import label_pair

OUTLIERS = np.full(9, -1, np.int32)
ZEROS = np.zeros(9, np.int32)
GAPS = np.array([7, -1, 3, 7, 0, 3, -1, 7, 5], np.int32)


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_cpu_and_counting_by_hand(seed, device, host):
    rng = np.random.default_rng(seed)
    before_N, now_N = label_pair(rng, int(rng.integers(20, 40)), 4, 0.4, 0.3)
    found = host(label_pairs_cuda(*device((before_N, now_N))))
    assert_same(found, label_pairs_cpu(before_N, now_N))
    before_Q, now_Q, count_Q, pair_N, size_P, size_K = found
    pairs = list(zip(before_N.tolist(), now_N.tolist(), strict=True))
    assert list(zip(before_Q.tolist(), now_Q.tolist(), strict=True)) == sorted(set(pairs))
    assert count_Q.tolist() == [pairs.count(pair) for pair in sorted(set(pairs))]
    assert [sorted(set(pairs))[q] for q in pair_N] == pairs
    assert size_P.tolist() == [(before_N == a).sum() for a in range(before_N.max() + 1)]
    assert size_K.tolist() == [(now_N == b).sum() for b in range(now_N.max() + 1)]


@pytest.mark.parametrize(
    ("before_N", "now_N"),
    [
        (OUTLIERS, OUTLIERS),
        (OUTLIERS, ZEROS),
        (ZEROS, OUTLIERS),
        (ZEROS, ZEROS),
        (GAPS, GAPS[::-1].copy()),
        (GAPS, GAPS),
        (ZEROS[:1], GAPS[:1]),
        (ZEROS[:0], ZEROS[:0]),
        (np.array([70000, -1], np.int32), np.array([2, 70000], np.int32)),  # labels beyond 16 bits
    ],
)
def test_corner_cases_equal_the_cpu(before_N, now_N, device, host):
    assert_same(host(label_pairs_cuda(*device((before_N, now_N)))), label_pairs_cpu(before_N, now_N))
