"""A map of features in two dimensions: UMAP where the features are, PCA where there are too few."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from rapids_slr.engine.arrays import as_array
from rapids_slr.engine.rapids import import_rapids, installed

FEWEST = 15
"""Images below which UMAP has no neighbourhood to work with."""
NEIGHBOURS, MIN_DIST = 30, 0.99
"""Neighbours and least distance of UMAP; with a small distance the images of a good cluster become one dot."""


def map_features(features_ND: Tensor, seed: int) -> tuple[np.ndarray, str]:
    """Positions (N, 2) float32 of features, at least as wide as they are high, and the name of the method.

    Args:
        features_ND: (N, D) float32 unit rows; UMAP is cuML's on a GPU, where it is installed, else umap-learn's on the
            CPU, which takes some twenty seconds, most of them to compile, and gives the same map for the same features
            and seed.
    """
    if len(features_ND) < FEWEST:
        return pca(features_ND), "PCA"
    neighbours = min(NEIGHBOURS, len(features_ND) - 1)
    by_library = _by_cuml if features_ND.is_cuda and installed("cuml") else _by_umap_learn
    xy = by_library(features_ND, neighbours, seed)
    return xy if np.ptp(xy[:, 0]) >= np.ptp(xy[:, 1]) else xy[:, ::-1], "UMAP"


def _by_umap_learn(features_ND: Tensor, neighbours: int, seed: int) -> np.ndarray:
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP  # compiles for a dozen seconds: only here

        solver = UMAP(n_neighbors=neighbours, min_dist=MIN_DIST, init="pca", random_state=seed, n_jobs=1)
        xy_N2 = np.asarray(solver.fit_transform(features_ND.cpu().numpy()), np.float32)
    torch.set_num_threads(threads)  # Numba has set those of OpenMP to its own
    return xy_N2


def _by_cuml(features_ND: Tensor, neighbours: int, seed: int) -> np.ndarray:
    import cupy

    manifold = import_rapids("cuml.manifold", "report with --device cpu")
    solver = manifold.UMAP(n_neighbors=neighbours, min_dist=MIN_DIST, random_state=seed)
    cupy.cuda.get_current_stream().synchronize()  # cuML has a stream of its own
    return cupy.asnumpy(solver.fit_transform(as_array(features_ND))).astype(np.float32)


def pca(features_ND: Tensor) -> np.ndarray:
    """The two directions of largest variance, (N, 2) float32; zeros where there is none."""
    centred = (features_ND - features_ND.mean(dim=0)).double()
    left, spread, _ = torch.linalg.svd(centred, full_matrices=False)
    xy = torch.zeros(len(centred), 2, dtype=torch.float64, device=centred.device)
    width = min(2, left.shape[1])
    xy[:, :width] = left[:, :width] * spread[:width]
    return xy.float().cpu().numpy()
