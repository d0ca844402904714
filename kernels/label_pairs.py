"""Which pairs (label last epoch, label now) occur, how often, and which pair an image has."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.runtime import cpu, gpu, on_gpu


@cpu("int64(int32[::1], int32[::1], int32[::1], int32[::1], int64[::1], int32[::1], int64[::1], int64[::1])")
def _pairs(before_N, now_N, before_Q, now_Q, count_Q, pair_N, size_P, size_K):
    """Two stable counting sorts bring equal pairs together; -1 is counted as a cluster in front of all others."""
    N, P, K = before_N.size, size_P.size, size_K.size
    by_now_N, by_pair_N = np.empty(N, np.int32), np.empty(N, np.int32)
    start_K, start_P = np.zeros(K + 2, np.int64), np.zeros(P + 2, np.int64)
    for i in range(N):
        start_K[now_N[i] + 2] += 1  # at the place after its own, so that sums up to a place are where it begins
        start_P[before_N[i] + 2] += 1
    size_P[:], size_K[:] = start_P[2:], start_K[2:]
    for k in range(K + 1):
        start_K[k + 1] += start_K[k]
    for p in range(P + 1):
        start_P[p + 1] += start_P[p]
    for i in range(N):
        k = now_N[i] + 1
        by_now_N[start_K[k]] = i
        start_K[k] += 1
    for n in range(N):
        i = by_now_N[n]
        p = before_N[i] + 1
        by_pair_N[start_P[p]] = i
        start_P[p] += 1
    Q = 0
    for n in range(N):
        i = by_pair_N[n]
        if Q == 0 or before_Q[Q - 1] != before_N[i] or now_Q[Q - 1] != now_N[i]:
            before_Q[Q], now_Q[Q], count_Q[Q] = before_N[i], now_N[i], 0
            Q += 1
        count_Q[Q - 1] += 1
        pair_N[i] = Q - 1
    return Q


@gpu("void(int64[::1], int64[::1], int32[::1], int32[::1], int32[::1], int64[::1], int32[::1], int64[::1], int64[::1])")
def _pairs_cuda(order_N, key_N, number_N, before_Q, now_Q, count_Q, pair_N, size_P, size_K):
    """Images in the order of their keys. Where a pair begins and where it ends tells how many images it has."""
    n = cuda.grid(1)
    if n < key_N.size:
        q, a, b = number_N[n] - 1, (key_N[n] >> 32) - 1, (key_N[n] & 0xFFFFFFFF) - 1
        pair_N[order_N[n]] = q
        begins = n == 0 or key_N[n - 1] != key_N[n]
        ends = n == key_N.size - 1 or key_N[n + 1] != key_N[n]
        if begins:
            before_Q[q], now_Q[q] = a, b
        if begins or ends:  # counts are added in two parts, as they come: +n + 1 at the end, -n at the beginning
            count = (n + 1 if ends else 0) - (n if begins else 0)
            cuda.atomic.add(count_Q, q, count)
            if a >= 0:
                cuda.atomic.add(size_P, a, count)
            if b >= 0:
                cuda.atomic.add(size_K, b, count)


def label_pairs_cuda(before_N: Array, now_N: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """`label_pairs` on the device: images sorted by a key of both labels, whose runs are the pairs."""
    xp, N, (Q, P, K) = array_module(before_N), before_N.size, (0, 0, 0)
    if N:
        key_N = ((before_N + 1).astype(xp.int64) << 32) + (now_N + 1)
        order_N = xp.argsort(key_N)
        key_N = key_N[order_N]
        number_N = xp.cumsum(xp.diff(key_N, prepend=-1) != 0, dtype=xp.int32)
        # One copy to the host for all three sizes, which is what the device is waited for.
        Q, P, K = xp.stack((number_N[-1], before_N.max() + 1, now_N.max() + 1)).tolist()
    before_Q, now_Q, count_Q = xp.empty(Q, xp.int32), xp.empty(Q, xp.int32), xp.zeros(Q, xp.int64)
    pair_N, size_P, size_K = xp.empty(N, xp.int32), xp.zeros(P, xp.int64), xp.zeros(K, xp.int64)
    if N:
        _pairs_cuda.each(N, order_N, key_N, number_N, before_Q, now_Q, count_Q, pair_N, size_P, size_K)
    return before_Q, now_Q, count_Q, pair_N, size_P, size_K


def label_pairs_cpu(before_N: Array, now_N: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    N, P, K = before_N.size, int(before_N.max(initial=-1)) + 1, int(now_N.max(initial=-1)) + 1
    before_Q, now_Q, count_Q = np.empty(N, np.int32), np.empty(N, np.int32), np.empty(N, np.int64)
    pair_N, size_P, size_K = np.empty(N, np.int32), np.empty(P, np.int64), np.empty(K, np.int64)
    Q = _pairs(before_N, now_N, before_Q, now_Q, count_Q, pair_N, size_P, size_K)
    return before_Q[:Q].copy(), now_Q[:Q].copy(), count_Q[:Q].copy(), pair_N, size_P, size_K


def label_pairs(before_N: Array, now_N: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The Q pairs that occur, sorted by (before, now), and the sizes of the clusters.

    Args:
        before_N, now_N: int32 labels of the same images, -1 = outlier; clusters count up to the largest label.
    Returns: before_Q, now_Q int32; count_Q int64, images of a pair; pair_N int32, the pair of an image; size_P, size_K
        int64, images of each cluster.
    """
    return (label_pairs_cuda if on_gpu(before_N) else label_pairs_cpu)(before_N, now_N)
