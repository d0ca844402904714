from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.errors import InputError
from rapids_slr.kernels import kreciprocal, runtime
from rapids_slr.kernels.kreciprocal import kreciprocal_weights_cpu, kreciprocal_weights_cuda, largest_set
from tests.clustering.cases import groups
from tests.reference import jaccard as reference

CLUSTERED = groups(np.random.default_rng(0), 32, 3, D=6)
FAMILIES = {
    "random": groups(np.random.default_rng(1), 30, 30, D=5),
    "clustered": CLUSTERED,
    "duplicated": CLUSTERED[np.random.default_rng(2).integers(0, 10, 30)],
    "constant": np.repeat(CLUSTERED[:1], 24, axis=0),
    "two images": np.repeat(CLUSTERED[:2], 12, axis=0),
    "one far from all": np.concatenate([groups(np.random.default_rng(3), 23, 2, D=6, noise=0.1), -CLUSTERED[:1]]),
}


def lists(features: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, furthest distances and neighbour lists, from all distances."""
    distance_NN = reference.squared_distances(features)
    index_NK = reference.ranks(distance_NN)[:, :K].astype(np.int32)
    near_NK = np.take_along_axis(distance_NN, index_NK, axis=1).astype(np.float32)
    return features, distance_NN.max(axis=1).astype(np.float32), index_NK, near_NK


def sorted_rows(indptr, indices, weights):
    order = np.lexsort((indices, np.repeat(np.arange(indptr.size - 1), np.diff(indptr))))
    return indptr, indices[order], weights[order]


def check(features, k1, K, device, host):
    neighbours = lists(features, K)
    expected = sorted_rows(*kreciprocal_weights_cpu(*neighbours, k1))
    indptr, indices, weights = host(kreciprocal_weights_cuda(*device(neighbours), k1))
    np.testing.assert_array_equal(indptr, expected[0])
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(weights, expected[2], rtol=1e-6)
    assert (indptr.dtype, indices.dtype, weights.dtype) == ("i8", "i4", "f4")
    np.testing.assert_allclose([weights[indptr[i] : indptr[i + 1]].sum() for i in range(len(features))], 1, rtol=1e-6)
    assert np.diff(indptr).max() <= largest_set(k1)
    return indptr, indices


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_cpu(family, device, host):
    check(FAMILIES[family], 9, 12, device, host)


@pytest.mark.parametrize("squares", [False, True])
@pytest.mark.parametrize(("k1", "half"), [(9, 5), (8, 5), (1, 1)])
def test_half_sized_sets_of_another_size_and_squares(k1, half, squares, device, host):
    neighbours = lists(CLUSTERED, 12)
    expected = sorted_rows(*kreciprocal_weights_cpu(*neighbours, k1, half, squares))
    indptr, indices, weights = host(kreciprocal_weights_cuda(*device(neighbours), k1, half, squares))
    np.testing.assert_array_equal(indptr, expected[0])
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(weights, expected[2], rtol=1e-6)


@pytest.mark.parametrize(("k1", "K"), [(1, 2), (1, 5), (2, 3)])
def test_few_neighbours(k1, K, device, host):
    check(CLUSTERED[:12], k1, K, device, host)


@pytest.mark.parametrize("k1", [6, 12])
def test_sets_by_their_definition(k1, device, host):
    indptr, indices = check(CLUSTERED, k1, k1 + 1, device, host)
    rank, half = reference.ranks(reference.squared_distances(CLUSTERED)), round(k1 / 2)
    grown = 0
    for i in range(len(CLUSTERED)):
        own = reference.reciprocal(rank, i, k1)
        expanded = set(own)
        for c in own:
            theirs = reference.reciprocal(rank, c, half)
            if 3 * len(theirs & own) > 2 * len(theirs):
                expanded |= theirs
        grown += len(expanded) > len(own)
        assert indices[indptr[i] : indptr[i + 1]].tolist() == sorted(expanded)
    assert grown


@pytest.mark.parametrize(("threads", "lanes"), [(1, 32), (4, 2), (8, 4)])
def test_threads_of_any_number(threads, lanes, device, host, monkeypatch):
    monkeypatch.setattr(runtime, "THREADS", threads)
    if runtime.SIMULATED:  # compiled kernels hold the constant
        monkeypatch.setattr(kreciprocal, "LANES", lanes)
    check(CLUSTERED[:20], 6, 7, device, host)


def test_a_table_almost_full(device, host, monkeypatch):
    """Most slots are taken by another image, and the next free one may lie beyond the end."""
    if not runtime.SIMULATED:
        pytest.skip("compiled kernels hold the constant")
    monkeypatch.setattr(kreciprocal, "TABLE", 16)
    indptr, _ = check(CLUSTERED, 9, 10, device, host)
    assert np.diff(indptr).max() >= 12


def test_k1_of_100(device, host):
    """Sets of the first images; all would take the simulator minutes."""
    features, furthest_N, index_NK, distance_NK = lists(groups(np.random.default_rng(4), 140, 2, D=3), 101)
    indptr, _, _ = kreciprocal_weights_cpu(features, furthest_N, index_NK, distance_NK, 100)
    back_NK, size_N = np.empty(index_NK.shape, np.int16), np.zeros(2, np.int64)
    kreciprocal._back_ranks(0, len(features), index_NK, back_NK)
    index_NK, back_NK, size_N = device((index_NK, back_NK, size_N))
    kreciprocal._count_cuda.blocks(2, index_NK, back_NK, 100, 50, kreciprocal.TABLE, size_N)
    np.testing.assert_array_equal(host(size_N), np.diff(indptr)[:2])
    assert kreciprocal.NEIGHBOURS >= 101
    assert kreciprocal.MEMBERS >= largest_set(100) == 101 * 17


def test_k1_beyond_shared_memory_is_named(device):
    lists_of_nobody = np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32)
    features, furthest = np.zeros((2, 4), np.float32), np.zeros(2, np.float32)
    with pytest.raises(InputError, match=r"k1=300: sets of up to 15351 images, but a GPU takes 3072; lower k1 to 132"):
        kreciprocal_weights_cuda(*device((features, furthest, *lists_of_nobody)), 300)
    assert kreciprocal.NEIGHBOURS >= 132 + 1
