"""Graphs within a bound hold what clusters need, number by number as graphs of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rapids_slr.bench import clustered_features, isotropic_features
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
        assert few.met == every.indices.size // 2


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
    (indptr, indices, found), met = kernel.jaccard_within(*rows, 0.9, room=1)
    other, met_with_room = kernel.jaccard_within(*rows, 0.9, room=64)
    assert np.diff(indptr).max() > 4
    for mine, theirs in zip((indptr, indices, found), other, strict=True):
        assert_array_equal(mine, theirs)
    assert met == met_with_room


@pytest.mark.parametrize("images", [1, 5])
def test_images_without_any_pair(images):
    rows = np.zeros(images + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    assert Distances(rows).smallest(3).indices.size == 0
    assert Distances(rows).within(0.0).indices.size == 0


def test_bounds_of_sums_are_those_of_distances():
    for bound in (0.0, 0.1, 0.5, 0.9, 0.999):
        common = kernel.least_common(bound) + kernel.ROUNDING
        assert 1 - common / (2 - common) == pytest.approx(bound, abs=1e-12)
