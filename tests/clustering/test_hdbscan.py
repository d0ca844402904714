"""HDBSCAN on features; scikit-learn takes the place of cuML, which needs a GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import cluster

from rapids_slr.clustering.hdbscan import cluster_hdbscan, hdbscan_cuml
from rapids_slr.errors import InputError, RunError
from tests.clustering.cases import groups


@pytest.fixture
def cuml(monkeypatch):
    """Pretend cuML and CuPy; what HDBSCAN was told."""
    told: list[dict] = []

    class HDBSCAN:
        def __init__(self, min_cluster_size, min_samples, cluster_selection_epsilon) -> None:
            told.append({"min_samples": min_samples, "cluster_selection_epsilon": cluster_selection_epsilon})
            self.solver = cluster.HDBSCAN(
                min_cluster_size=min_cluster_size,
                min_samples=min_samples + 1,
                cluster_selection_epsilon=cluster_selection_epsilon,
                copy=True,
            )

        def fit_predict(self, x_ND):
            assert x_ND.dtype == np.float32
            assert x_ND.flags.c_contiguous
            return self.solver.fit_predict(x_ND).astype(np.int64)

    stream = SimpleNamespace(synchronize=lambda: None)
    cupy = SimpleNamespace(
        ndarray=type(None),
        full=np.full,
        int32=np.int32,
        float32=np.float32,
        ascontiguousarray=np.ascontiguousarray,
        cuda=SimpleNamespace(get_current_stream=lambda: stream, get_allocator=lambda: None),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cuml.cluster", SimpleNamespace(HDBSCAN=HDBSCAN))
    return told


@pytest.mark.parametrize("size", [2, 5, 9])
def test_cuml_counts_one_sample_less(cuml, size):
    features_ND = groups(np.random.default_rng(0), 96, 8, noise=0.3)
    expected_N = cluster_hdbscan(features_ND, size)
    labels_N = hdbscan_cuml(np.asfortranarray(features_ND, np.float64), size, size - 1)
    assert labels_N.dtype == np.int32
    assert expected_N.max() > 1
    np.testing.assert_array_equal(labels_N, expected_N)
    assert cuml == [{"min_samples": size - 1, "cluster_selection_epsilon": 0.0}]


def test_samples_are_as_many_as_there_are_others(cuml):
    hdbscan_cuml(groups(np.random.default_rng(0), 10, 2), 3, 50, merge_distance=0.2)
    assert cuml == [{"min_samples": 9, "cluster_selection_epsilon": 0.2}]


def test_too_few_rows_are_noise(cuml):
    np.testing.assert_array_equal(hdbscan_cuml(groups(np.random.default_rng(0), 4, 1), 5, 4), [-1] * 4)
    assert not cuml


@pytest.mark.parametrize("min_samples", [0, 1024])
def test_samples_that_cuml_does_not_take(cuml, min_samples):
    with pytest.raises(InputError, match=rf"min_samples must lie in \[1, 1023\] for cuML, got {min_samples}"):
        hdbscan_cuml(groups(np.random.default_rng(0), 10, 2), 3, min_samples)


def test_running_out_of_memory_ends_in_advice(cuml, monkeypatch):
    def fail(self, x_ND):
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(sys.modules["cuml.cluster"].HDBSCAN, "fit_predict", fail)
    with pytest.raises(RunError, match="HDBSCAN by cuML: memory has run out; use fewer images"):
        hdbscan_cuml(groups(np.random.default_rng(0), 10, 2), 3, 2)


def test_without_cuml_it_says_what_to_do(cuml, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuml.cluster", None)
    with pytest.raises(InputError, match=r"needs cuML: .*; or set clusters\.method: dbscan, or refine\.hard: hdbscan"):
        hdbscan_cuml(groups(np.random.default_rng(0), 10, 2), 3, 2)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_hdbscan_on_features(convert):
    features = groups(np.random.default_rng(9), 200, 8, noise=0.1)
    labels = cluster_hdbscan(convert(features), 5)
    assert type(labels) is type(convert(features))
    assert np.asarray(labels).dtype == (np.int64 if isinstance(labels, torch.Tensor) else np.int32)
    assert labels.max() + 1 == 8
    assert set(np.asarray(cluster_hdbscan(convert(features[:3]), 5))) == {-1}
    with pytest.raises(InputError, match="min_cluster_size must be at least 2, got 1"):
        cluster_hdbscan(features, 1)
