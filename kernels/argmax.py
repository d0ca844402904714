"""The largest entry of a soft label, with ties broken by nothing that depends on the numbering of clusters."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.runtime import cpu, gpu, on_gpu, shared


@shared
def _largest_entry(values, start, stop):
    largest = values[start]
    for e in range(start + 1, stop):
        largest = max(largest, values[e])
    return largest


@shared
def _best_cluster(a, b, r, indptr_R, indices, values, indptr_P, overlap_indices, overlap_counts):
    if r < 0:
        return -1
    largest = _largest_entry(values, indptr_R[r], indptr_R[r + 1])
    best, most, torn = -1, -1, False
    for e in range(indptr_R[r], indptr_R[r + 1]):
        if values[e] < largest:
            continue
        if indices[e] == b:
            return b
        both = 0  # images that the last cluster and this entry's share; a row of the overlap holds few clusters
        if a >= 0:
            for f in range(indptr_P[a], indptr_P[a + 1]):
                if overlap_indices[f] == indices[e]:
                    both = overlap_counts[f]
                    break
        if both > most:
            best, most, torn = indices[e], both, False
        elif both == most:
            torn = True
    return b if torn else best


@cpu("void(int32[::1], int32[::1], int32[::1], int64[::1], int32[::1], float64[::1], int64[::1], int32[::1],"
     " int64[::1], int32[::1])")  # fmt: skip
def _argmax(before_Q, now_Q, row_Q, indptr_R, indices, values, indptr_P, overlap_indices, overlap_counts, label_Q):
    for q in range(row_Q.size):
        label_Q[q] = _best_cluster(
            before_Q[q], now_Q[q], row_Q[q], indptr_R, indices, values, indptr_P, overlap_indices, overlap_counts
        )


@gpu("void(int32[::1], int32[::1], int32[::1], int64[::1], int32[::1], float64[::1], int64[::1], int32[::1],"
     " int64[::1], int32[::1])")  # fmt: skip
def _argmax_cuda(before_Q, now_Q, row_Q, indptr_R, indices, values, indptr_P, overlap_indices, overlap_counts, label_Q):
    q = cuda.grid(1)
    if q < row_Q.size:
        label_Q[q] = _best_cluster(
            before_Q[q], now_Q[q], row_Q[q], indptr_R, indices, values, indptr_P, overlap_indices, overlap_counts
        )


@cpu("void(int64[::1], float64[::1], float32[::1])")
def _largest(indptr_R, values, largest_R):
    for r in range(largest_R.size):
        largest_R[r] = _largest_entry(values, indptr_R[r], indptr_R[r + 1])


@gpu("void(int64[::1], float64[::1], float32[::1])")
def _largest_cuda(indptr_R, values, largest_R):
    r = cuda.grid(1)
    if r < largest_R.size:
        largest_R[r] = _largest_entry(values, indptr_R[r], indptr_R[r + 1])


def argmax_cuda(*args: Array) -> Array:
    """`argmax` on the device, a thread to a pair."""
    row_Q = args[2]
    label_Q = array_module(row_Q).empty(row_Q.size, np.int32)
    _argmax_cuda.each(row_Q.size, *args, label_Q)
    return label_Q


def argmax_cpu(*args: Array) -> Array:
    label_Q = np.empty(args[2].size, np.int32)
    _argmax(*args, label_Q)
    return label_Q


def argmax(
    before_Q: Array,
    now_Q: Array,
    row_Q: Array,
    indptr_R: Array,
    indices: Array,
    values: Array,
    indptr_P: Array,
    overlap_indices: Array,
    overlap_counts: Array,
) -> Array:
    """Cluster with the largest entry of each pair's soft label, int32 (Q,); -1 where there is none.

    Among equal entries: the current cluster; else the one that shares most images with the last cluster; else, as
    nothing tells them apart, the current cluster after all, or -1 for an outlier.

    Args:
        before_Q, now_Q, row_Q: int32 pairs and their rows.
        indptr_R, indices, values: distinct soft labels, CSR.
        indptr_P, overlap_indices, overlap_counts: images that clusters of both epochs share, CSR.
    """
    return (argmax_cuda if on_gpu(row_Q) else argmax_cpu)(
        before_Q, now_Q, row_Q, indptr_R, indices, values, indptr_P, overlap_indices, overlap_counts
    )


def largest_cuda(indptr_R: Array, values: Array) -> Array:
    """`largest` on the device, a thread to a row."""
    largest_R = array_module(values).empty(indptr_R.size - 1, np.float32)
    _largest_cuda.each(largest_R.size, indptr_R, values, largest_R)
    return largest_R


def largest_cpu(indptr_R: Array, values: Array) -> Array:
    largest_R = np.empty(indptr_R.size - 1, np.float32)
    _largest(indptr_R, values, largest_R)
    return largest_R


def largest(indptr_R: Array, values: Array) -> Array:
    """The largest entry of every soft label, float32 (R,); CSR rows that are not empty."""
    return (largest_cuda if on_gpu(values) else largest_cpu)(indptr_R, values)
