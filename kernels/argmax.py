"""The largest entry of a soft label, with ties broken by nothing that depends on the numbering of clusters."""

from __future__ import annotations

import numpy as np

from rapids_slr.kernels import cpu


@cpu("void(int32[::1], int32[::1], int32[::1], int64[::1], int32[::1], float64[::1], int64[::1], int32[::1],"
     " int64[::1], int32[::1])")  # fmt: skip
def _argmax(before_Q, now_Q, row_Q, indptr_R, indices, values, indptr_P, overlap_indices, overlap_counts, label_Q):
    for q in range(row_Q.size):
        label_Q[q] = -1
        r = row_Q[q]
        if r < 0:
            continue
        a, b = before_Q[q], now_Q[q]
        largest = values[indptr_R[r] : indptr_R[r + 1]].max()
        most, torn = -1, False
        for e in range(indptr_R[r], indptr_R[r + 1]):
            if values[e] < largest:
                continue
            if indices[e] == b:
                label_Q[q], torn = b, False
                break
            shared = 0
            if a >= 0:
                for f in range(indptr_P[a], indptr_P[a + 1]):
                    if overlap_indices[f] == indices[e]:
                        shared = overlap_counts[f]
                        break
            if shared > most:
                most, torn = shared, False
                label_Q[q] = indices[e]
            elif shared == most:
                torn = True
        if torn:
            label_Q[q] = b


def argmax(
    before_Q: np.ndarray,
    now_Q: np.ndarray,
    row_Q: np.ndarray,
    indptr_R: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    indptr_P: np.ndarray,
    overlap_indices: np.ndarray,
    overlap_counts: np.ndarray,
) -> np.ndarray:
    """Cluster with the largest entry of each pair's soft label, int32 (Q,); -1 where there is none.

    Among equal entries: the current cluster; else the one that shares most images with the last cluster; else, as
    nothing tells them apart, the current cluster after all, or -1 for an outlier.

    Args:
        before_Q, now_Q, row_Q: int32 pairs and their rows.
        indptr_R, indices, values: distinct soft labels, CSR.
        indptr_P, overlap_indices, overlap_counts: images that clusters of both epochs share, CSR.
    """
    label_Q = np.empty(row_Q.size, np.int32)
    _argmax(before_Q, now_Q, row_Q, indptr_R, indices, values, indptr_P, overlap_indices, overlap_counts, label_Q)
    return label_Q
