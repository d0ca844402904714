"""HDBSCAN on the features themselves: the other raw clustering of the paper's Table 3."""

from __future__ import annotations

import numpy as np

from rapids_slr.clustering.neighbours import check_features
from rapids_slr.engine.arrays import Array, array_module, labels_like, on_torch_stream
from rapids_slr.engine.memory import memory_advice
from rapids_slr.engine.rapids import import_rapids
from rapids_slr.errors import InputError
from rapids_slr.marks import step

MOST_SAMPLES = 1023  # of cuML


@step("HDBSCAN")
def cluster_hdbscan(features, min_cluster_size: int):
    """HDBSCAN with Euclidean distances on unit rows, by scikit-learn on the CPU and by cuML on a GPU.

    Args:
        features: (N, D) array or tensor, NumPy, CuPy or torch, finite unit rows.
        min_cluster_size: smallest cluster, images, at least 2; also min_samples, the image itself included.
    Returns: (N,) int32, int64 in torch, of the library of the features, -1 = outlier. Where distances tie, the two
        libraries may differ.
    """
    x_ND = check_features(features)
    xp = array_module(x_ND)
    if min_cluster_size < 2:
        raise InputError(f"min_cluster_size must be at least 2, got {min_cluster_size}")
    if len(x_ND) < min_cluster_size:
        return labels_like(xp.full(len(x_ND), -1, xp.int32), features)
    if xp is not np:
        with on_torch_stream(features):
            return labels_like(hdbscan_cuml(x_ND, min_cluster_size, min_cluster_size - 1), features)
    from sklearn.cluster import HDBSCAN

    # A copy, as the features are the caller's.
    labels_N = HDBSCAN(min_cluster_size=min_cluster_size, copy=True).fit_predict(x_ND)
    return labels_like(labels_N.astype(np.int32), features)


@memory_advice("HDBSCAN by cuML", "use fewer images, or run with --device cpu")
def hdbscan_cuml(x_ND: Array, min_cluster_size: int, min_samples: int, merge_distance: float = 0.0) -> Array:
    """HDBSCAN with Euclidean distances by cuML, on any rows that lie on a GPU.

    cuML copies its single-linkage tree, N - 1 rows, to the host. Among equal rows, at a core distance of 0, its labels
    may depend on their order.

    Args:
        x_ND: (N, D) CuPy array; taken as contiguous float32.
        min_cluster_size: rows of the smallest cluster, at least 2.
        min_samples: neighbours of a core distance, without the row itself, in [1, 1023]; scikit-learn's is one more.
        merge_distance: clusters that part below this distance stay together (cluster_selection_epsilon).
    Returns: int32 (N,), -1 = noise.
    Raises: InputError for another min_samples, or if cuML is not installed; RunError if memory runs out.
    """
    import cupy

    cluster = import_rapids("cuml.cluster", "set clusters.method: dbscan, or refine.hard: hdbscan")
    if not 1 <= min_samples <= MOST_SAMPLES:
        raise InputError(f"min_samples must lie in [1, {MOST_SAMPLES}] for cuML, got {min_samples}")
    if len(x_ND) < max(2, min_cluster_size):
        return cupy.full(len(x_ND), -1, cupy.int32)
    solver = cluster.HDBSCAN(
        min_cluster_size=min_cluster_size,
        min_samples=min(min_samples, len(x_ND) - 1),
        cluster_selection_epsilon=merge_distance,
    )
    x_ND = cupy.ascontiguousarray(x_ND, dtype=cupy.float32)
    cupy.cuda.get_current_stream().synchronize()  # cuML has a stream of its own
    return solver.fit_predict(x_ND).astype(cupy.int32)
