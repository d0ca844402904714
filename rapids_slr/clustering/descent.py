"""Approximate nearest neighbours on the CPU: near images by NN-descent, distances and their order settled exactly."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import torch

from rapids_slr.clustering.given import given_lists
from rapids_slr.clustering.neighbours import RECALL, SAMPLE, Neighbours
from rapids_slr.engine.blocks import as_tensor, product

BLOCK = 64
"""Images whose similarities to all others are looked at together."""
SPARE = 32
"""Images beyond k that float32 may mistake for those among the k nearest."""
SEED = 0

log = logging.getLogger(__name__)


def nearest_by_descent_cpu(features_ND: np.ndarray, k: int) -> Neighbours:
    """Every image, then k near others: of those that pynndescent finds among twice as many, the nearest.

    The same for the same features and number of threads. `furthest_N` is an image's largest distance to FAR_SAMPLE
    others, and hence may be a little low; images of which too few are found are searched among all.

    Args:
        features_ND: (N, D) float32 unit rows.
        k: fewer than N / 2.
    Source: Dong et al., Efficient k-nearest neighbor graph construction for generic similarity measures, WWW 2011.
    """
    N = len(features_ND)
    near_NC = _descend_cpu(features_ND, 2 * k)
    found_NC = np.sort(np.where(near_NC == np.arange(N)[:, None], -1, near_NC), axis=1)
    distinct_N = ((found_NC[:, 1:] != found_NC[:, :-1]) & (found_NC[:, 1:] >= 0)).sum(axis=1) + (found_NC[:, 0] >= 0)
    few = np.flatnonzero(distinct_N < k)
    near_NC[few] = -1
    near_NC[few, :k] = _nearest_of_all_cpu(features_ND, few, k)
    found = given_lists(near_NC, features_ND, k + 1)
    recall = _recall_cpu(features_ND, found, k)
    level = logging.INFO if recall >= RECALL else logging.WARNING
    text = "nearest neighbours: the approximate search found %.2f %% of those of %d images"
    log.log(level, text, 100 * recall, min(SAMPLE, N))
    return Neighbours(found.indices_Nk, found.distances_Nk, found.furthest_N, recall)


def _descend_cpu(features_ND: np.ndarray, near: int) -> np.ndarray:
    """Numbers int64 (N, near) of near images; itself, gaps below 0 and repetitions may be among them."""
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pynndescent import NNDescent  # compiles for a dozen seconds: only here

        index = NNDescent(features_ND, "euclidean", n_neighbors=near, random_state=SEED, n_jobs=threads)
        near_NC = index.neighbor_graph[0].astype(np.int64)
    torch.set_num_threads(threads)  # Numba has set those of OpenMP to its own
    return near_NC


def _nearest_of_all_cpu(features_ND: np.ndarray, image_I: np.ndarray, k: int) -> np.ndarray:
    """The k nearest others of some images, int64 (I, k), in any order, exactly but for ties."""
    x, found = as_tensor(features_ND), np.empty((len(image_I), k), np.int64)
    some = min(k + 1 + SPARE, len(x))
    for start in range(0, len(image_I), BLOCK):
        rows = image_I[start : start + BLOCK]
        similarity_RN = torch.empty(len(rows), len(x))
        product(as_tensor(features_ND[rows]), x, similarity_RN, "ieee")
        near_RC = similarity_RN.topk(some).indices.numpy()
        exact_RC = np.einsum(
            "rd,rcd->rc", features_ND[rows].astype(np.float64), features_ND[near_RC].astype(np.float64)
        )
        exact_RC[near_RC == rows[:, None]] = -np.inf
        best_RK = np.argsort(-exact_RC, axis=1, kind="stable")[:, :k]
        found[start : start + len(rows)] = np.take_along_axis(near_RC, best_RK, axis=1)
    return found


def _recall_cpu(features_ND: np.ndarray, found: Neighbours, k: int) -> float:
    """Share of the neighbours of SAMPLE images that were found: an image that ties with the last is no miss."""
    N = len(features_ND)
    sample = np.arange(min(SAMPLE, N)) * N // min(SAMPLE, N)
    nearest_SK = _nearest_of_all_cpu(features_ND, sample, k)
    exact_SK = np.einsum(
        "sd,skd->sk", features_ND[sample].astype(np.float64), features_ND[nearest_SK].astype(np.float64)
    )
    furthest_S = np.maximum(0, 2 - 2 * exact_SK.min(axis=1)).astype(np.float32)
    return float((found.distances_Nk[sample, 1:] <= furthest_S[:, None] + np.float32(1e-6)).mean())
