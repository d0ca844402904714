"""Label propagation: clusters spread over the graph of Jaccard distances, to outliers too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags_array

from rapids_slr.engine.arrays import as_array, on_torch_stream, to_host
from rapids_slr.errors import InputError
from rapids_slr.refinement.rivals.keys import PropagationKeys
from rapids_slr.refinement.rivals.relabelled import Forgetful, Relabelled, by_rows, host_labels
from rapids_slr.settings.estimator import Estimator
from rapids_slr.settings.keys import check_keys

CLOSE = 1e-6
"""How far the iteration may be from its limit, as a part of where it begins."""


class Propagation(PropagationKeys, Estimator, Forgetful):
    """Label spreading over the graph of the k-reciprocal Jaccard distances that were clustered.

    Two images are joined by 1 - their distance. Every image passes on what it holds, and takes again what it began
    with, its cluster: F = alpha S F + (1 - alpha) Y, with S = D^-1/2 W D^-1/2, until the limit
    (1 - alpha)(1 - alpha S)^-1 Y. Rows of F, divided by their sums, are soft labels, their largest entry the refined
    label and its confidence. An outlier begins with nothing and may end with a label.

    It is computed on the CPU, in (N, K) float64 of memory twice; from a GPU the graph is copied.
    """

    def update(self, labels: Any, others: Any = (), *, graph: Any) -> Relabelled:
        """Refine the labels of an epoch.

        Args:
            labels: (N,) whole numbers, -1 = outlier, clusters from 0; NumPy, CuPy or torch.
            others: further clusterings, which are not looked at.
            graph: (N, N) symmetric CSR of distances, of scipy, cupyx or torch, as `JaccardDBSCAN.graph_`; images that
                are at 1 or more, or not stored, are not joined.
        Raises: InputError for labels, a graph or settings that cannot be used.
        Source: Zhou et al., Learning with Local and Global Consistency, NIPS 2003; scikit-learn's LabelSpreading.
        """
        check_keys(self)
        with on_torch_stream(graph):
            now_N = host_labels(labels)
            rows = spread(similarities(graph, now_N.size), now_N, self.neighbours_weight)
            return by_rows(now_N, rows, self.min_confidence, self.targets == "soft", labels)


def similarities(graph: Any, N: int) -> csr_matrix:
    """1 - distance of every pair that is nearer than 1, float64 (N, N) in host memory."""
    if tuple(graph.shape) != (N, N):
        raise InputError(f"graph: {tuple(graph.shape)}, but there are labels of {N} images")
    if isinstance(graph, torch.Tensor):
        parts = (graph.values(), graph.col_indices(), graph.crow_indices())
    else:
        parts = (graph.data, graph.indices, graph.indptr)
    distances = csr_matrix(tuple(to_host(as_array(part)) for part in parts), (N, N)).tocoo()
    joined = (distances.data < 1) & (distances.row != distances.col)
    weights = 1 - distances.data[joined].astype(np.float64)
    return coo_matrix((weights, (distances.row[joined], distances.col[joined])), (N, N)).tocsr()


def spread(joined_NN: csr_matrix, now_N: np.ndarray, alpha: float) -> csr_matrix:
    """Rows of F at the limit, divided by their sums, (N, K); those of images that nothing reaches are empty.

    Each time the iteration comes nearer by alpha, so that the number of times is known beforehand.
    """
    begin_NK = (now_N[:, None] == np.arange(now_N.max(initial=-1) + 1)).astype(np.float64)
    degree_N = np.asarray(joined_NN.sum(axis=1)).ravel()
    scale_NN = diags_array(np.where(degree_N > 0, np.maximum(degree_N, 1e-300) ** -0.5, 0))
    step_NN, held_NK = csr_matrix(scale_NN @ joined_NN @ scale_NN), begin_NK
    for _ in range(math.ceil(math.log(CLOSE) / math.log(alpha)) if alpha > 0 else 0):
        held_NK = alpha * (step_NN @ held_NK) + (1 - alpha) * begin_NK
    total_N1 = held_NK.sum(axis=1, keepdims=True)
    return csr_matrix(np.divide(held_NK, total_N1, out=np.zeros_like(held_NK), where=total_N1 > 0))
