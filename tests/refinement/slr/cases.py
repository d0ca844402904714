"""Label pairs and soft rows to test on."""

import numpy as np
from scipy.sparse import csr_matrix

from rapids_slr.refinement.slr.hdbscan import weighted_hdbscan


def canonical(labels):
    """Labels numbered by first appearance, -1 kept: equal for equal partitions with equal outliers."""
    numbers = {-1: -1}
    return [numbers.setdefault(int(label), len(numbers) - 1) for label in labels]


def label_pair(rng, N, clusters, disagreement=0.2, outliers=0.15):
    """Two noisy views of one clustering, numbered without gaps."""
    truth = rng.integers(0, clusters, N)
    views = []
    for _ in range(2):
        view = truth.copy()
        moved = rng.random(N) < disagreement
        view[moved] = rng.integers(0, clusters, moved.sum())
        view[rng.random(N) < outliers] = clusters
        kept, view = np.unique(view, return_inverse=True)
        views.append(np.where(kept[view] == clusters, -1, view).astype(np.int32))
    return views


def soft_rows(rng, rows, columns, heavy=0.1):
    """Distinct sparse rows on the grid of soft labels, and counts, a few of them large."""
    x = rng.dirichlet(np.full(columns, 0.3), rows)
    x[x < 0.05] = 0
    x = np.unique(np.rint(x / x.sum(axis=1, keepdims=True) * 2**26) / 2**26, axis=0)
    count = rng.integers(1, 6, len(x))
    count[rng.random(len(x)) < heavy] += 8
    return x, count.astype(np.int64)


def refine_rows(x, count, *args, **kwargs):
    """weighted_hdbscan of dense rows."""
    m = csr_matrix(x)
    indptr, indices = m.indptr.astype(np.int64), m.indices.astype(np.int32)
    return weighted_hdbscan(indptr, indices, m.data, count, x.shape[1], *args, **kwargs)
