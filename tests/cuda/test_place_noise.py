"""Noise given to refined clusters: the heirs of raw clusters by kernel, and place_noise around it."""

from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels import runtime
from rapids_slr.kernels.heirs import heirs_cpu, heirs_cuda
from rapids_slr.refinement.slr.hard_labels import place_noise
from rapids_slr.refinement.slr.overlap import overlap
from rapids_slr.refinement.slr.projection import project
from rapids_slr.refinement.slr.soft_labels import soft_labels
from tests.cuda.cases import assert_same
from tests.cuda.test_projection import shared_images
from tests.refinement.slr.cases import label_pair
from tests.refinement.slr.test_hard_labels import heirs_by_hand


@pytest.mark.parametrize("seed", range(8))
def test_heirs_equal_the_cpu_and_plain_loops(seed, device, host):
    raw_N, label_N = label_pair(np.random.default_rng(seed), 40, 3 + seed, 0.9, 0.3)
    indptr, labels, counts, _, size_L = shared_images(raw_N, label_N)
    found = host(heirs_cuda(*device((indptr, labels, counts, size_L))))
    assert_same((found,), (heirs_cpu(indptr, labels, counts, size_L),))
    assert found.tolist() == heirs_by_hand(raw_N, label_N)


def test_equal_heirs_of_a_cluster(device, host):
    """Two images each in refined 0, 1 and 2: the larger wins; of equally large ones none does."""
    arrays = (
        np.array([0, 2, 4, 4, 7], np.int64),
        np.array([0, 1, 0, 2, 0, 1, 2], np.int32),
        np.array([2, 2, 2, 2, 1, 2, 2], np.int64),
    )
    for size_L, expected in (([6, 5, 6], [0, 4, 5, 2]), ([6, 9, 6], [1, 4, 5, 1]), ([6, 5, 5], [0, 0, 5, 6])):
        assert host(heirs_cuda(*device((*arrays, np.array(size_L, np.int64))))).tolist() == expected
        assert heirs_cpu(*arrays, np.array(size_L, np.int64)).tolist() == expected


@pytest.mark.parametrize("seed", range(6))
def test_place_noise_equals_the_cpu_image_by_image(seed, device, host, monkeypatch):
    rng = np.random.default_rng(seed)
    before_N, now_N = label_pair(rng, 40, 5, 0.5, 0.2)

    def place(move, label_Q):
        shared = overlap(*move((before_N, now_N)))
        soft = soft_labels(shared, project(shared), 0.5)
        if label_Q is None:
            label_Q = rng.integers(-1, 4, shared.count_Q.size).astype(np.int32)
        return label_Q, place_noise(move(label_Q), shared, soft)

    with monkeypatch.context() as patched:
        patched.setattr(runtime, "SIMULATED", False)
        label_Q, expected = place(lambda x: x, None)
    found = host(place(device, label_Q)[1])
    assert_same((found,), (expected,))
    np.testing.assert_array_equal(found[label_Q >= 0], label_Q[label_Q >= 0])
    assert ((found >= 0) & (label_Q < 0)).any()
