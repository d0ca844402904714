"""Graphs within a bound hold what clusters need, number by number as graphs of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csr_matrix

from rapids_slr.bench import clustered_features, collapsed_features, isotropic_features
from rapids_slr.clustering import distances as module
from rapids_slr.clustering.dbscan import dbscan, radius
from rapids_slr.clustering.distances import Distances
from rapids_slr.clustering.jaccard import memberships
from rapids_slr.clustering.neighbours import nearest_neighbours
from rapids_slr.kernels import jaccard as kernel
from tests.reference import jaccard as reference

KINDS = ("clustered", "isotropic", "duplicated", "tied", "collapsed")


@pytest.fixture(autouse=True)
def few_images_are_many(monkeypatch):
    monkeypatch.setattr(module, "FEW", 0)


def features_of(kind: str, seed: int, N: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "clustered":
        return clustered_features(N, 24, seed)
    if kind == "isotropic":
        return isotropic_features(N, 16, seed)
    if kind == "duplicated":
        return isotropic_features(N, 8, seed)[rng.integers(0, N // 2, N)]
    if kind == "tied":
        x_ND = rng.integers(-1, 2, (N, 6)).astype(np.float32)
        x_ND[~x_ND.any(axis=1), 0] = 1
    else:
        x_ND = (np.ones((N, 12)) + 1e-3 * rng.standard_normal((N, 12))).astype(np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def distances_of(kind: str, seed: int, N: int = 90, weight: float = 0.0) -> Distances:
    x_ND = features_of(kind, seed, N)
    reach_N = np.random.default_rng(seed).random(N, np.float32) if weight else None
    return Distances(memberships(x_ND, nearest_neighbours(x_ND, 9), 8, 4), reach_N, weight)


def stored(graph, bound: float) -> tuple[np.ndarray, ...]:
    row_E = np.repeat(np.arange(graph.N), np.diff(graph.indptr))
    near_E = graph.distances <= np.float32(bound)
    return row_E[near_E], graph.indices[near_E], graph.distances[near_E]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_radius_and_labels_are_those_of_all_pairs(kind, weight, monkeypatch):
    """300 cases; in every other one the first bound is far too narrow, and the sample small."""
    for seed in range(30):
        monkeypatch.setattr(module, "MORE", 1e-3 if seed % 2 else 1.2)
        monkeypatch.setattr(module, "SAMPLE", (7, 256)[seed % 2])
        few, every = distances_of(kind, seed, weight=weight), distances_of(kind, seed, weight=weight).whole()
        rule = {"pairs_per_image": (0.2, 3, 20)[seed % 3]}
        graph = few.smallest(round(rule["pairs_per_image"] * 90))
        assert_array_equal(stored(graph, few._bound), stored(every, few._bound))
        eps = radius(graph, **rule)
        assert eps == radius(every, **rule)
        if weight == 0 or eps < 1 - weight:
            assert_array_equal(dbscan(graph, eps, 4), dbscan(every, eps, 4))
        met = every.indices.size // 2
        assert few.met == met or abs(few.met - met) < (0.6 * met if seed % 2 == 0 else 1)  # of 7 images, or of all


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "collapsed"])  # whose ranks are rounding
def test_radius_is_that_of_the_dense_way(kind):
    for seed in range(3):
        x_ND = features_of(kind, seed, 60)
        if len(np.unique(x_ND, axis=0)) < 60:  # copies are another test's
            continue
        J_NN = reference.jaccard_distances(x_ND, 8, 4)
        distances = Distances(memberships(x_ND, nearest_neighbours(x_ND, 9), 8, 4))
        eps = radius(distances.smallest(180), pairs_per_image=3)
        above = np.sort(J_NN[np.triu_indices(60, 1)])
        assert eps == pytest.approx(above[above > 0][:180].mean(), abs=1e-6)


def test_a_wider_bound_finds_more_and_a_narrower_one_nothing_new():
    distances = distances_of("isotropic", 0, 300)
    graph = distances.within(0.5)
    assert distances.within(0.3) is graph
    assert distances.smallest(1) is graph
    wider = distances.within(0.8)
    assert wider.indices.size > graph.indices.size
    assert_array_equal(stored(wider, 0.5), stored(graph, 0.5))
    assert distances.within(1.0).indices.size == distances.whole().indices.size == 2 * distances.met


def test_nothing_but_the_nearest_is_stored():
    x_ND = isotropic_features(2000, 32)
    distances = Distances(memberships(x_ND, nearest_neighbours(x_ND, 31), 30, 6))
    graph = distances.smallest(7 * 2000)
    assert distances.met > 100 * 2000
    assert 2 * 7 * 2000 <= graph.indices.size < 2 * 20 * 2000


def test_rows_with_more_pairs_than_they_have_room_for_are_gone_through_again():
    rows = distances_of("clustered", 1, 200).rows
    indptr, indices, found = kernel.jaccard_within(*rows, 0.9, room=1)
    other = kernel.jaccard_within(*rows, 0.9, room=64)
    assert np.diff(indptr).max() > 4
    for mine, theirs in zip((indptr, indices, found), other, strict=True):
        assert_array_equal(mine, theirs)


@given(st.integers(0, 2**16), st.integers(1, 3), st.floats(0.05, 0.95), st.booleans())
def test_columns_that_are_left_for_later_change_no_bit(seed, hubs, bound, both):
    """Rows that sum to 1 and share some columns all; every row leaves of them what it may."""
    rng = np.random.default_rng(seed)
    N = int(rng.integers(4, 60))
    dense = rng.random((N, N)) * (rng.random((N, N)) < rng.uniform(0.02, 0.3))
    dense[:, :hubs] = rng.random((N, hubs)) * rng.uniform(0.1, 3)
    matrix = csr_matrix((dense / dense.sum(axis=1, keepdims=True)).astype(np.float32))
    rows = matrix.indptr.astype(np.int64), matrix.indices, matrix.data
    every = csr_matrix(kernel.jaccard_distances(*rows)[::-1], shape=(N, N)).toarray()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kernel, "WORTH", 0)
        if both:
            transposed, row_R = kernel._transposed_cpu(*rows), np.arange(N, dtype=np.int32)
            found = kernel._pairs_within_cpu(transposed, row_R, True, kernel.least_common(bound), 4)
        else:
            found = kernel.jaccard_within(*rows, bound)
    row_E = np.repeat(np.arange(N), np.diff(found[0]))
    assert_array_equal(found[2], every[row_E, found[1]])
    here = np.zeros((N, N), bool)
    here[row_E, found[1]] = True
    common = np.minimum(matrix.toarray()[:, None], matrix.toarray()[None]).astype(np.float64).sum(axis=2)
    exact = 1 - common / (2 - common)
    np.fill_diagonal(exact, 1)
    assert here[exact <= bound].all()
    assert not here[exact > bound + 1e-5].any()


def test_columns_are_left_where_all_rows_share_them(monkeypatch):
    """All images alike: what is found does not change, whether they are left or not."""
    x_ND = collapsed_features(3000, 64)
    rows = memberships(x_ND, nearest_neighbours(x_ND, 31), 30, 6)
    matrix, row_R = kernel._transposed_cpu(*rows), np.arange(0, 3000, 50, dtype=np.int32)
    bucket_C = np.log2(np.diff(matrix[4]) + 1).astype(np.uint8)
    later_C, left = np.zeros(3000), []
    for i in row_R:
        length_L = np.diff(matrix[4])[matrix[1][rows[0][i] : rows[0][i + 1]]]
        later_C[:] = 0
        left.append(kernel._left_for_later(i, *rows, length_L, bucket_C, 0.4, kernel.WORTH, later_C, np.empty(64)))
        assert later_C.sum() == pytest.approx(left[-1])
        assert left[-1] <= kernel.LATER * 0.4 + 1e-6
    assert np.mean(np.array(left) > 0.1) > 0.9
    found = kernel._pairs_within_cpu(matrix, row_R, True, 0.4, 16)
    monkeypatch.setattr(kernel, "WORTH", 2**40)
    expected = kernel._pairs_within_cpu(matrix, row_R, True, 0.4, 16)
    for r in range(len(row_R)):
        ours, theirs = (
            dict(zip(x[1][x[0][r] : x[0][r + 1]], x[2][x[0][r] :], strict=False)) for x in (found, expected)
        )
        assert ours == theirs
    assert found[1].size > len(row_R)


@pytest.mark.parametrize("images", [1, 5])
def test_images_without_any_pair(images):
    rows = np.zeros(images + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    assert Distances(rows).smallest(3).indices.size == 0
    assert Distances(rows).within(0.0).indices.size == 0


def test_bounds_of_sums_are_those_of_distances():
    for bound in (0.0, 0.1, 0.5, 0.9, 0.999):
        common = kernel.least_common(bound) + kernel.ROUNDING
        assert 1 - common / (2 - common) == pytest.approx(bound, abs=1e-12)
