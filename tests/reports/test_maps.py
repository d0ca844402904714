"""The map of the features: what is apart stays apart, and the same features give the same map."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from rapids_slr.reports import maps
from rapids_slr.reports.maps import map_features, pca


def groups(images: int, generator: torch.Generator) -> tuple[torch.Tensor, np.ndarray]:
    """Unit rows in three tight groups, and the group of each."""
    label = torch.arange(images) % 3
    rows = torch.eye(3, 16)[label] + 0.02 * torch.randn(images, 16, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1), label.numpy()


def apart(xy: np.ndarray, label: np.ndarray) -> bool:
    """Whether every point is nearer to the middle of its own group than to the others."""
    middles = np.array([xy[label == group].mean(axis=0) for group in range(3)])
    return bool((np.linalg.norm(xy[:, None] - middles, axis=2).argmin(axis=1) == label).all())


def test_pca_is_that_of_scikit_learn(rng):
    features = torch.randn(20, 6, generator=rng)
    expected = PCA(2).fit_transform(features.numpy())
    np.testing.assert_allclose(np.abs(pca(features)), np.abs(expected), atol=1e-4)


@pytest.mark.parametrize("images", [1, 2, 14])
def test_a_handful_of_images_needs_no_umap(rng, images, monkeypatch):
    monkeypatch.setattr(maps, "FEWEST", 15)
    xy, method = map_features(groups(images, rng)[0], seed=0)
    assert (xy.shape, method) == ((images, 2), "PCA")
    assert np.isfinite(xy).all()


def test_without_cuml_features_of_a_gpu_go_to_umap_learn(rng, monkeypatch):
    monkeypatch.setattr(maps, "FEWEST", 15)
    features, _ = groups(30, rng)

    class OfGpu:
        is_cuda = True

        def __len__(self) -> int:
            return len(features)

        def cpu(self) -> torch.Tensor:
            return features

    class UMAP:
        def __init__(self, **settings) -> None:
            pass

        def fit_transform(self, x_ND):
            return x_ND[:, :2] * [3, 1]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    xy, method = map_features(OfGpu(), seed=0)
    assert method == "UMAP"
    np.testing.assert_array_equal(xy, features.numpy()[:, :2] * np.float32([3, 1]))


@pytest.mark.slow
def test_umap_keeps_groups_apart_and_repeats(rng, monkeypatch):
    monkeypatch.setattr(maps, "FEWEST", 15)
    features, label = groups(60, rng)
    threads = torch.get_num_threads()
    xy, method = map_features(features, seed=3)
    assert torch.get_num_threads() == threads
    assert (xy.shape, xy.dtype, method) == ((60, 2), np.float32, "UMAP")
    assert apart(xy, label)
    np.testing.assert_array_equal(xy, map_features(features, seed=3)[0])
