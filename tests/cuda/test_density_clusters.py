from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels.density_clusters import density_clusters_cpu, density_clusters_cuda
from tests.refinement.slr.cases import canonical


def tree_of(seed: int, R: int, levels: int):
    """Any tree whose edges have one of so many lengths, and rows of up to 12 points.

    The core distance of a row is at most the length of its shortest edge, and 0 if there are more than 7 copies.
    """
    rng = np.random.default_rng(seed)
    left, right = np.array([rng.integers(0, r) for r in range(1, R)], np.int32), np.arange(1, R, dtype=np.int32)
    length = np.sort(rng.uniform(0.1, 2, levels))[rng.integers(0, levels, R - 1)]
    count_R = rng.choice([1, 1, 1, 2, 3, 7, 12], R).astype(np.int64)
    core_R = np.full(R, np.inf)
    np.minimum.at(core_R, left, length)
    np.minimum.at(core_R, right, length)
    core_R *= rng.choice([1, 0.7], R) * (count_R <= 7)
    order = rng.permutation(R - 1)
    return count_R, core_R, (left[order], right[order], length[order])


@pytest.mark.parametrize("merge_distance", [0.0, 0.6, 1.1])
@pytest.mark.parametrize(("seed", "R", "levels"), [(0, 40, 39), (1, 60, 8), (2, 60, 25), (3, 25, 3), (4, 90, 60)])
def test_equals_the_cpu(seed, R, levels, merge_distance, device, host):
    clusters = set()
    for min_cluster_size in (2, 5, 7, 20):
        arguments = tree_of(seed, R, levels)
        expected = density_clusters_cpu(*arguments, min_cluster_size, merge_distance)
        found = host(density_clusters_cuda(*device(arguments), min_cluster_size, merge_distance))
        assert found.dtype == np.int32
        assert canonical(found) == canonical(expected)
        clusters.add(int(expected.max()) + 1)
    assert len(clusters) > 1


def test_order_of_rows_and_edges_does_not_matter(device, host):
    rng = np.random.default_rng(5)
    count_R, core_R, (left, right, length) = tree_of(6, 60, 12)
    labels = host(density_clusters_cuda(*device((count_R, core_R, (left, right, length))), 5, 0.0))
    new_R, order = rng.permutation(60).astype(np.int32), rng.permutation(59)
    old_R = np.argsort(new_R)
    moved = count_R[old_R], core_R[old_R], (new_R[right][order], new_R[left][order], length[order])
    assert canonical(host(density_clusters_cuda(*device(moved), 5, 0.0))[new_R]) == canonical(labels)


def test_too_few_points_are_noise(device, host):
    tree = np.array([0], np.int32), np.array([1], np.int32), np.array([2.0])
    labels = host(density_clusters_cuda(*device((np.array([3, 3]), np.array([2.0, 2.0]), tree)), 7, 0.0))
    np.testing.assert_array_equal(labels, [-1, -1])


def test_a_point_that_joins_two_clusters_at_once_belongs_to_neither(device, host):
    tree = np.array([0, 1], np.int32), np.array([1, 2], np.int32), np.array([1.0, 1.0])
    labels = host(density_clusters_cuda(*device((np.array([9, 1, 9]), np.array([0.0, 1.0, 0.0]), tree)), 7, 0.0))
    assert sorted(labels) == [-1, 0, 1]
    assert labels[1] == -1


def test_one_heavy_row_amid_noise_is_the_only_cluster(device, host):
    tree = np.array([0, 0], np.int32), np.array([1, 2], np.int32), np.array([1.0, 2.0])
    labels = host(density_clusters_cuda(*device((np.array([9, 1, 2]), np.array([0.0, 1.0, 2.0]), tree)), 7, 0.0))
    np.testing.assert_array_equal(labels, [0, -1, -1])
