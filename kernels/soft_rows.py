"""Soft labels of pairs (label last epoch, label now), and which of them are equal."""

from __future__ import annotations

import numpy as np

from rapids_slr.kernels import cpu

GRID = 2.0**26  # entries are whole multiples of 1 / GRID: their sums, and those of their products, are exact in float64


@cpu("void(int32[::1], int32[::1], boolean[::1], int64[::1], int32[::1], float64[::1], float64, int64[::1],"
     " int32[::1], float64[::1])")  # fmt: skip
def _blend(before_Q, now_Q, kept_Q, indptr_P, indices, values, alpha, out_indptr, out_indices, out_values):
    place = 0
    for q in range(before_Q.size):
        a, b = before_Q[q], now_Q[q]
        if kept_Q[q]:
            past = 1.0 - alpha if b >= 0 else 1.0
            if a < 0 or past == 0.0:
                out_indices[place], out_values[place] = b, 1.0
                place += 1
            else:
                for e in range(indptr_P[a], indptr_P[a + 1]):
                    value = past * values[e] + (alpha if indices[e] == b else 0.0)
                    value = np.rint(value * GRID) / GRID
                    if value > 0:
                        out_indices[place], out_values[place] = indices[e], value
                        place += 1
        out_indptr[q + 1] = place


@cpu("int64(int64[::1], int32[::1], float64[::1], int32[::1], int32[::1])")
def _equal_rows(indptr, indices, values, row_Q, first_R):
    """Number rows by first appearance, empty ones -1; equal ones meet in a table of hashes and are compared in full."""
    Q = indptr.size - 1
    places = 16
    while places < 2 * Q:
        places *= 2
    table = np.full(places, -1, np.int32)
    R = 0
    for q in range(Q):
        start, length = indptr[q], indptr[q + 1] - indptr[q]
        if length == 0:
            row_Q[q] = -1
            continue
        code = np.uint64(length)
        for e in range(start, start + length):
            entry = np.uint64(indices[e]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(values[e] * GRID)
            code = (code ^ entry) * np.uint64(0xD6E8FEB86659FD93)
            code ^= code >> np.uint64(32)
        place = np.int64(code & np.uint64(places - 1))
        while True:
            r = table[place]
            if r < 0:
                table[place], first_R[R], row_Q[q] = R, q, R
                R += 1
                break
            other = indptr[first_R[r]]
            equal = indptr[first_R[r] + 1] - other == length
            for e in range(length):
                if not equal:
                    break
                equal = indices[start + e] == indices[other + e] and values[start + e] == values[other + e]
            if equal:
                row_Q[q] = r
                break
            place = (place + 1) & (places - 1)
    return R


@cpu("void(int64[::1], int32[::1], float64[::1], int32[::1], int64[::1], int32[::1], float64[::1])")
def _take(indptr, indices, values, rows_R, out_indptr, out_indices, out_values):
    place = 0
    for r in range(rows_R.size):
        for e in range(indptr[rows_R[r]], indptr[rows_R[r] + 1]):
            out_indices[place], out_values[place] = indices[e], values[e]
            place += 1
        out_indptr[r + 1] = place


def soft_rows(
    before_Q: np.ndarray,
    now_Q: np.ndarray,
    kept_Q: np.ndarray,
    indptr_P: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    alpha: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct soft labels: CSR (indptr int64, indices int32, values float64 on the grid) and row_Q int32.

    A pair (a, b) has alpha * onehot(b) + (1 - alpha) * P[a]; without a, onehot(b); without b, P[a].

    Args:
        before_Q, now_Q: int32 pairs, -1 = outlier.
        kept_Q: pairs that get a soft label; not (-1, -1).
        indptr_P, indices, values: the projection P as CSR, float64, indices ascending, rows summing to 1 or empty.
    Returns: row_Q is -1 for a pair that is not kept or whose last cluster has no heir.
    """
    Q = before_Q.size
    length_P = np.diff(indptr_P)
    room = int(np.maximum(length_P[before_Q[before_Q >= 0]], 1).sum()) + Q
    indptr, pair_indices, pair_values = np.zeros(Q + 1, np.int64), np.empty(room, np.int32), np.empty(room)
    _blend(before_Q, now_Q, kept_Q, indptr_P, indices, values, alpha, indptr, pair_indices, pair_values)
    row_Q, first_R = np.empty(Q, np.int32), np.empty(Q, np.int32)
    R = _equal_rows(indptr, pair_indices, pair_values, row_Q, first_R)
    first_R = first_R[:R].copy()
    size = int((indptr[first_R + 1] - indptr[first_R]).sum())
    out_indptr, out_indices, out_values = np.zeros(R + 1, np.int64), np.empty(size, np.int32), np.empty(size)
    _take(indptr, pair_indices, pair_values, first_R, out_indptr, out_indices, out_values)
    return out_indptr, out_indices, out_values, row_Q
