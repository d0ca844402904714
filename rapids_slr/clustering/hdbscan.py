"""HDBSCAN on the features themselves: the other raw clustering of the paper's Table 3."""

from __future__ import annotations

import numpy as np

from rapids_slr.arrays import like, require_host
from rapids_slr.clustering.neighbours import check_features
from rapids_slr.errors import InputError


def cluster_hdbscan(features, min_cluster_size: int):
    """HDBSCAN with Euclidean distances on unit rows, by scikit-learn.

    Args:
        features: (N, D) array or tensor, NumPy or torch, finite unit rows.
        min_cluster_size: smallest cluster, images, at least 2; also min_samples, the image itself included.
    Returns: (N,) int32 of the library of the features, -1 = outlier.
    """
    from sklearn.cluster import HDBSCAN

    x_ND = check_features(features)
    require_host(x_ND, "features")
    if min_cluster_size < 2:
        raise InputError(f"min_cluster_size must be at least 2, got {min_cluster_size}")
    if len(x_ND) < min_cluster_size:
        return like(np.full(len(x_ND), -1, np.int32), features)
    labels_N = HDBSCAN(min_cluster_size=min_cluster_size, copy=True).fit_predict(x_ND)
    return like(labels_N.astype(np.int32), features)
