"""The benchmark must time what it says, and find both ways equal."""

import numpy as np
import pytest

from rapids_slr.bench import bench_labels, dense_refinement, same_partition, synthetic_features, table
from rapids_slr.errors import InputError
from rapids_slr.refinement import SLR


def test_both_ways_agree():
    result = bench_labels(400, 64, k1=12, repeats=1)
    assert result["equal"] == {"raw": True, "refined": True}
    assert result["clusters"] > 5
    assert {"product", "neighbours", "graph", "radius", "dbscan", "total", "refine"} <= set(result["seconds"])
    assert result["environment"]["commit"]
    assert "raw labels equal, refined labels equal" in table(result)


def test_dense_refinement_agrees_on_harder_labels():
    rng = np.random.default_rng(0)
    for _ in range(20):
        before, now = rng.integers(-1, 12, (2, 300)).astype(np.int32)
        before[:200] = now[:200]
        slr = SLR()
        slr.update(before)
        assert same_partition(slr.update(now).hard, dense_refinement(before, now))


def test_same_partition():
    assert same_partition(np.array([0, 0, 1, -1]), np.array([5, 5, 2, -1]))
    assert not same_partition(np.array([0, 0, 1, -1]), np.array([5, 5, 2, 3]))
    assert not same_partition(np.array([0, 0, 1]), np.array([0, 0, 0]))


def test_features_are_unit_rows_and_repeatable():
    x = synthetic_features(100, 16)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(x, synthetic_features(100, 16))
    assert not np.array_equal(x, synthetic_features(100, 16, epoch=1))


def test_sizes_that_cannot_be_used():
    with pytest.raises(InputError, match="bench: need samples > k1=30"):
        bench_labels(20, 8)
