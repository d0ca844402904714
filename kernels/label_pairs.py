"""Which pairs (label last epoch, label now) occur, how often, and which pair an image has."""

from __future__ import annotations

import numpy as np

from rapids_slr.kernels import cpu


@cpu("int64(int32[::1], int32[::1], int64, int64, int32[::1], int32[::1], int64[::1], int32[::1])")
def _pairs(before_N, now_N, P, K, before_Q, now_Q, count_Q, pair_N):
    """Two stable counting sorts bring equal pairs together; -1 is counted as a cluster in front of all others."""
    N = before_N.size
    by_now_N, by_pair_N = np.empty(N, np.int32), np.empty(N, np.int32)
    start_K, start_P = np.zeros(K + 2, np.int64), np.zeros(P + 2, np.int64)
    for i in range(N):
        start_K[now_N[i] + 2] += 1
        start_P[before_N[i] + 2] += 1
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


def label_pairs(
    before_N: np.ndarray, now_N: np.ndarray, P: int, K: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The Q pairs that occur, sorted by (before, now): before_Q, now_Q int32, count_Q int64, and pair_N int32.

    Args:
        before_N: int32 labels in [-1, P).
        now_N: int32 labels in [-1, K).
    """
    N = before_N.size
    before_Q, now_Q, count_Q = np.empty(N, np.int32), np.empty(N, np.int32), np.empty(N, np.int64)
    pair_N = np.empty(N, np.int32)
    Q = _pairs(before_N, now_N, P, K, before_Q, now_Q, count_Q, pair_N)
    return before_Q[:Q].copy(), now_Q[:Q].copy(), count_Q[:Q].copy(), pair_N
