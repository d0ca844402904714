"""Weighted HDBSCAN on CUDA, against its definition on the expanded rows."""

from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.core_distances import core_distances_cpu, rows_by_column_cpu
from rapids_slr.kernels.density_clusters import density_clusters_cpu
from rapids_slr.kernels.spanning_tree import spanning_tree_cpu
from rapids_slr.refinement.slr.hdbscan import weighted_hdbscan
from tests.cuda.rows import GRID, csr, few_entries, quarters
from tests.reference import hdbscan as reference
from tests.refinement.slr.cases import canonical, soft_rows


@pytest.fixture
def refine(device, host):
    def run(x_RC, count_R, *settings):
        indptr, indices, values, columns = csr(np.rint(np.asarray(x_RC) * GRID) / GRID)
        label_R = host(weighted_hdbscan(*device((indptr, indices, values, count_R)), columns, *settings))
        assert label_R.dtype == np.int32
        return label_R

    return run


def on_cpu(x_RC, count_R, min_cluster_size, min_samples, merge_distance=0.0):
    rows = rows_by_column_cpu(*csr(x_RC))
    core_R = core_distances_cpu(rows, count_R, min_samples)
    return density_clusters_cpu(count_R, core_R, spanning_tree_cpu(rows, core_R), min_cluster_size, merge_distance)


def check(refine, x_RC, count_R, *settings):
    label_R = refine(x_RC, count_R, *settings)
    expected = reference.hdbscan(np.repeat(x_RC, count_R, axis=0), *settings)
    assert canonical(np.repeat(label_R, count_R)) == canonical(expected)
    assert canonical(label_R) == canonical(on_cpu(x_RC, count_R, *settings))
    return label_R


@pytest.mark.parametrize("seed", range(18))
def test_equals_the_definition_on_the_expanded_rows(seed, refine):
    rng = np.random.default_rng(seed)
    x, count = soft_rows(rng, rng.integers(2, 25), rng.integers(2, 10), heavy=rng.choice([0.05, 0.4]))
    merge_distance = float(rng.choice([0, 0, 0.3, 0.8]))
    check(refine, x, count, int(rng.integers(2, 9)), int(rng.integers(1, 9)), merge_distance)


@pytest.mark.parametrize("seed", range(8))
def test_where_distances_tie(seed, refine):
    rng = np.random.default_rng(seed)
    check(refine, *quarters(seed, 14, 5), int(rng.integers(2, 8)), int(rng.integers(1, 8)))


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_mostly_share_nothing(seed, refine):
    check(refine, *few_entries(seed, 30, 20), 5, 5)


def test_labels_of_two_epochs_that_agree_on_most(refine):
    """Half of the weight on each epoch's cluster: rows (a, b) with 0.5 at both."""
    rng = np.random.default_rng(3)
    before, now = (np.where(rng.random(150) < 0.2, rng.integers(0, 8, 150), np.arange(150) % 8) for _ in range(2))
    x, count = np.unique((np.eye(8)[before] + np.eye(8)[now]) / 2, axis=0, return_counts=True)
    assert len(set(check(refine, x, count, 7, 7).tolist())) > 4


def test_neither_order_of_rows_nor_of_columns_matters(refine):
    rng = np.random.default_rng(2)
    for _ in range(3):
        x, count = soft_rows(rng, 25, 8)
        rows, columns = rng.permutation(len(x)), rng.permutation(8)
        shuffled = refine(x[rows][:, columns], count[rows], 5, 5)
        assert canonical(refine(x, count, 5, 5)[rows]) == canonical(shuffled)


def test_rows_of_many_copies_are_clusters_of_their_own(refine):
    assert sorted(refine([[1.0, 0], [0.999, 0.001], [0, 1]], np.array([9, 9, 9]), 7, 7)) == [0, 1, 2]


def test_one_heavy_row_amid_noise_is_the_only_cluster(refine):
    assert refine(np.eye(4), np.array([9, 1, 2, 1]), 7, 7).tolist() == [0, -1, -1, -1]


def test_merge_distance_joins_clusters_that_part_below_it(refine):
    x, count = np.array([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1], [0, 1, 0]]), np.full(4, 9)
    assert len(set(refine(x, count, 7, 7))) == 4
    merged = refine(x, count, 7, 7, 0.2)
    assert merged[0] == merged[1]
    assert len(set(merged)) == 3


@pytest.mark.parametrize(
    ("count", "expected"), [([], []), ([1], [0]), ([5], [0]), ([1, 1], [-1, -1]), ([3, 3], [-1, -1])]
)
def test_few_points(count, expected, refine):
    assert refine(np.eye(2)[: len(count)], np.array(count, np.int64), 7, 7).tolist() == expected


def test_two_heavy_rows(refine):
    assert sorted(refine(np.eye(2), np.array([8, 8]), 7, 7)) == [0, 1]


def test_min_samples_larger_than_the_number_of_points(refine):
    assert refine(np.eye(3), np.array([4, 4, 4]), 2, 100).tolist() == [-1, -1, -1]
