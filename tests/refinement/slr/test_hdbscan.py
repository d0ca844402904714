"""Weighted HDBSCAN: against the definition, against the `hdbscan` package, and where rows repeat."""

import warnings

import hdbscan as package
import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree

from rapids_slr.kernels.core_distances import core_distances, rows_by_column
from rapids_slr.kernels.spanning_tree import spanning_tree
from tests.reference import hdbscan as reference
from tests.refinement.slr.cases import canonical, refine_rows, soft_rows


@pytest.mark.parametrize("seed", range(150))
def test_equals_the_definition_on_the_expanded_rows(seed):
    rng = np.random.default_rng(seed)
    x, count = soft_rows(rng, rng.integers(2, 25), rng.integers(2, 10), heavy=rng.choice([0.05, 0.4]))
    min_cluster_size, min_samples = int(rng.integers(2, 9)), int(rng.integers(1, 9))
    merge_distance = float(rng.choice([0, 0, 0.3, 0.8]))
    ours = refine_rows(x, count, min_cluster_size, min_samples, merge_distance)
    points = np.repeat(x, count, axis=0)
    expected = reference.hdbscan(points, min_cluster_size, min_samples, merge_distance)
    assert canonical(np.repeat(ours, count)) == canonical(expected)


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_definition_where_distances_tie(seed):
    """Rows of halves and quarters: nearly all distances occur many times."""
    rng = np.random.default_rng(seed)
    x = np.unique(rng.multinomial(4, np.full(5, 0.2), size=14) / 4, axis=0)
    count = rng.choice([1, 1, 2, 3, 9], len(x)).astype(np.int64)
    min_cluster_size, min_samples = int(rng.integers(2, 8)), int(rng.integers(1, 8))
    ours = refine_rows(x, count, min_cluster_size, min_samples)
    assert canonical(np.repeat(ours, count)) == canonical(
        reference.hdbscan(np.repeat(x, count, axis=0), min_cluster_size, min_samples)
    )


def package_labels(points, min_cluster_size, min_samples, rng):
    """Labels of the `hdbscan` package, None where they depend on the order of the points.

    `match_reference_implementation` makes it treat a point that joins two clusters at once as noise; it also shifts
    both sizes by one.
    """
    found = []
    for _ in range(3):
        order = rng.permutation(len(points))
        clusterer = package.HDBSCAN(
            min_cluster_size=min_cluster_size - 1, min_samples=min_samples + 1, match_reference_implementation=True,
            algorithm="generic",
        )  # fmt: skip
        labels = np.empty(len(points), int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            labels[order] = clusterer.fit(points[order]).labels_
        found.append(canonical(labels))
    return found[0] if all(labels == found[0] for labels in found) else None


def test_equals_the_hdbscan_package_where_its_labels_do_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(60):
        # points around few centres, each of them once: no two distances are equal
        centres = rng.dirichlet(np.full(6, 0.2), 4)
        x = np.abs(centres[rng.integers(0, 4, 40)] + 0.03 * rng.normal(size=(40, 6)))
        x = np.rint(x / x.sum(axis=1, keepdims=True) * 2**26) / 2**26
        min_cluster_size, min_samples = int(rng.integers(3, 8)), int(rng.integers(1, 6))
        expected = package_labels(x, min_cluster_size, min_samples, rng)
        if expected is not None:
            compared += 1
            assert canonical(refine_rows(x, np.ones(40, np.int64), min_cluster_size, min_samples)) == expected
    assert compared >= 50


def test_equals_the_hdbscan_package_on_rows_that_repeat():
    """Clear groups of rows with up to seven copies, so that no core distance is 0, which the package cannot handle."""
    rng = np.random.default_rng(1)
    compared = 0
    for _ in range(30):
        x = np.concatenate([np.eye(5)[g] * 0.8 + 0.2 * rng.dirichlet(np.ones(5), 6) for g in range(4)])
        x = np.rint(x * 2**26) / 2**26
        count = rng.integers(1, 8, len(x))
        expected = package_labels(np.repeat(x, count, axis=0), 7, 7, rng)
        if expected is not None:
            compared += 1
            assert canonical(np.repeat(refine_rows(x, count, 7, 7), count)) == expected
    assert compared >= 20


def test_neither_order_of_rows_nor_of_columns_matters():
    rng = np.random.default_rng(2)
    for _ in range(60):
        x, count = soft_rows(rng, 40, 8)
        labels = refine_rows(x, count, 5, 5)
        rows, columns = rng.permutation(len(x)), rng.permutation(8)
        shuffled = refine_rows(np.ascontiguousarray(x[rows][:, columns]), count[rows], 5, 5)
        assert canonical(labels[rows]) == canonical(shuffled)


@pytest.mark.parametrize("seed", range(20))
def test_spanning_tree_is_as_short_as_the_dense_one(seed):
    rng = np.random.default_rng(seed)
    x, count = soft_rows(rng, int(rng.integers(2, 80)), int(rng.integers(2, 40)))
    x, count = np.asarray(x), rng.choice([1, 2, 9], len(x)).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum((x > 0).sum(axis=1))])
    rows = rows_by_column(indptr, np.nonzero(x)[1].astype(np.int32), x[x > 0], x.shape[1])
    core = core_distances(rows, count, min(5, int(count.sum()) - 1))
    _, _, weight = spanning_tree(rows, core)
    d = ((x[:, None] - x) ** 2).sum(axis=2)
    dense = np.maximum(np.maximum(core[:, None], core), d)
    np.testing.assert_allclose(np.sort(weight), np.sort(minimum_spanning_tree(dense).data), rtol=0, atol=1e-15)


def test_core_distance_counts_copies_but_not_the_point_itself():
    x = np.eye(3)[:2]
    rows = rows_by_column(np.array([0, 1, 2]), np.array([0, 1], np.int32), np.ones(2), 2)
    assert core_distances(rows, np.array([8, 7]), 7).tolist() == [0, 2]
    assert refine_rows(x, np.array([8, 8]), 7, 7).tolist() in ([0, 1], [1, 0])


def test_seven_copies_are_not_dense_enough_to_stand_beside_a_cluster():
    """Their 7th neighbour is the other row, so they reach each other only where they reach that one too."""
    labels = refine_rows(np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]), np.array([20, 7, 9]), 7, 7)
    assert labels[0] == labels[1] != labels[2]


def test_rows_of_many_copies_are_clusters_of_their_own():
    labels = refine_rows(np.array([[1.0, 0], [0.999, 0.001], [0, 1]]), np.array([9, 9, 9]), 7, 7)
    assert sorted(labels) == [0, 1, 2]


def test_one_heavy_row_amid_noise_is_the_only_cluster():
    assert refine_rows(np.eye(4), np.array([9, 1, 2, 1]), 7, 7).tolist() == [0, -1, -1, -1]


@pytest.mark.parametrize(("count", "expected"), [([1], [0]), ([5], [0]), ([1, 1], [-1, -1]), ([3, 3], [-1, -1])])
def test_few_points(count, expected):
    assert refine_rows(np.eye(2)[: len(count)], np.array(count), 7, 7).tolist() == expected


def test_merge_distance_joins_clusters_that_part_below_it():
    x = np.array([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1], [0, 1, 0]])
    count = np.full(4, 9)
    assert len(set(refine_rows(x, count, 7, 7))) == 4
    merged = refine_rows(x, count, 7, 7, 0.2)
    assert merged[0] == merged[1]
    assert len(set(merged)) == 3


def test_min_samples_larger_than_the_number_of_points():
    assert refine_rows(np.eye(3), np.array([4, 4, 4]), 2, 100).tolist() == [-1, -1, -1]
