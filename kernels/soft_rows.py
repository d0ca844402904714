"""Soft labels of pairs (label last epoch, label now), and which of them are equal."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.runtime import cpu, gpu, on_gpu, shared

GRID = 2.0**26  # entries are whole multiples of 1 / GRID: their sums, and those of their products, are exact in float64
POSITIVE = 2**63 - 1  # keeps a hash an int64 that is not negative


@shared
def _kept(a, b, outliers):
    return b >= 0 or (outliers and a >= 0)


@shared
def _blend(a, b, indptr_P, indices, values, past_values, alpha, place, out_indices, out_values):
    """Write the soft label of the pair (a, b) from `place` on; the place after its last entry."""
    if a < 0:
        out_indices[place], out_values[place] = b, 1.0
        return place + 1
    for e in range(indptr_P[a], indptr_P[a + 1]):
        value = values[e]
        if b >= 0:
            value = past_values[e] + (alpha if indices[e] == b else 0.0)
        value = round(value * GRID) / GRID
        if value > 0:
            out_indices[place], out_values[place] = indices[e], value
            place += 1
    return place


@shared
def _hash_row(indices, values, start, stop):
    code = int(stop - start)
    for e in range(start, stop):
        # Odd multipliers spread close numbers over all bits; equal hashes are compared in full, so that any would do.
        entry = int(indices[e]) * 0x1E3779B97F4A7C15 + round(values[e] * GRID)
        code = ((code ^ entry) * 0x56E8FEB86659FD93) & POSITIVE
        code ^= code >> 32
    return code


@shared
def _equal(indices, values, one, other, length):
    """Whether the entries from `one` on and those from `other` on are the same."""
    for e in range(length):
        if indices[one + e] != indices[other + e] or values[one + e] != values[other + e]:
            return False
    return True


@shared
def _copy(indices, values, start, stop, place, out_indices, out_values):
    for e in range(start, stop):
        out_indices[place + e - start], out_values[place + e - start] = indices[e], values[e]


@cpu("void(int32[::1], int32[::1], boolean, int64[::1], int32[::1], float64[::1], float64[::1], float64, int64[::1],"
     " int32[::1], float64[::1])")  # fmt: skip
def _blend_pairs(before_Q, now_Q, outliers, indptr_P, indices, values, past_values, alpha,
                 indptr_Q, pair_indices, pair_values):  # fmt: skip
    for q in range(before_Q.size):
        a, b = before_Q[q], now_Q[q]
        indptr_Q[q + 1] = indptr_Q[q]
        if _kept(a, b, outliers):
            indptr_Q[q + 1] = _blend(
                a, b, indptr_P, indices, values, past_values, alpha, indptr_Q[q], pair_indices, pair_values
            )


@cpu("int64(int64[::1], int32[::1], float64[::1], int64[::1], int32[::1], int32[::1], int64[::1])")
def _equal_rows(indptr, indices, values, count_Q, row_Q, first_R, count_R):
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
        place = _hash_row(indices, values, start, start + length) & (places - 1)
        while True:
            r = table[place]
            if r < 0:
                table[place], first_R[R], row_Q[q], count_R[R] = R, q, R, count_Q[q]
                R += 1
                break
            other = indptr[first_R[r]]
            if indptr[first_R[r] + 1] - other == length and _equal(indices, values, start, other, length):
                row_Q[q] = r
                count_R[r] += count_Q[q]
                break
            place = (place + 1) & (places - 1)
    return R


@cpu("void(int64[::1], int32[::1], float64[::1], int32[::1], int64[::1], int32[::1], float64[::1])")
def _take(indptr, indices, values, first_R, out_indptr, out_indices, out_values):
    for r in range(first_R.size):
        start, stop = indptr[first_R[r]], indptr[first_R[r] + 1]
        _copy(indices, values, start, stop, out_indptr[r], out_indices, out_values)
        out_indptr[r + 1] = out_indptr[r] + stop - start


@gpu("void(int32[::1], int32[::1], boolean, int64[::1], int32[::1], float64[::1], float64[::1], float64, int64[::1],"
     " int64[::1], int64[::1], int32[::1], float64[::1])")  # fmt: skip
def _blend_pairs_cuda(before_Q, now_Q, outliers, indptr_P, indices, values, past_values, alpha,
                      start_Q, stop_Q, hash_Q, pair_indices, pair_values):  # fmt: skip
    q = cuda.grid(1)
    if q < stop_Q.size:
        a, b = before_Q[q], now_Q[q]
        stop_Q[q] = start_Q[q]
        if _kept(a, b, outliers):
            stop_Q[q] = _blend(
                a, b, indptr_P, indices, values, past_values, alpha, start_Q[q], pair_indices, pair_values
            )
        hash_Q[q] = _hash_row(pair_indices, pair_values, start_Q[q], stop_Q[q])


@gpu("void(int64[::1], int64[::1], int64[::1], int64[::1], int32[::1], float64[::1], int32[::1], int64[::1],"
     " int64[::1])")  # fmt: skip
def _find_first_cuda(order_Q, run_Q, start_Q, stop_Q, indices, values, first_Q, new_Q, length_Q):
    """The first pair with the same row; it is in the run of equal hashes that begins at run_Q.

    new_Q, length_Q: 1 and its entries for a pair that is the first of its row, else 0.
    """
    n = cuda.grid(1)
    if n < order_Q.size:
        q = order_Q[n]
        length, m = stop_Q[q] - start_Q[q], run_Q[n]
        while True:
            other = order_Q[m]
            if stop_Q[other] - start_Q[other] == length and _equal(indices, values, start_Q[q], start_Q[other], length):
                break
            m += 1
        first_Q[q] = other
        new_Q[q] = other == q and length > 0
        length_Q[q] = length if other == q else 0


@gpu("void(int64[::1], int64[::1], int32[::1], float64[::1], int32[::1], int64[::1], int64[::1], int64[::1],"
     " int32[::1], int64[::1], int64[::1], int32[::1], float64[::1])")  # fmt: skip
def _take_cuda(start_Q, stop_Q, indices, values, first_Q, number_Q, end_Q, count_Q,
               row_Q, count_R, out_indptr, out_indices, out_values):  # fmt: skip
    q = cuda.grid(1)
    if q < row_Q.size:
        r, length = number_Q[first_Q[q]] - 1, stop_Q[q] - start_Q[q]
        row_Q[q] = r if length else -1
        if length:
            cuda.atomic.add(count_R, r, count_Q[q])
            if first_Q[q] == q:
                _copy(indices, values, start_Q[q], stop_Q[q], end_Q[q] - length, out_indices, out_values)
                out_indptr[r + 1] = end_Q[q]


def soft_rows_cuda(
    before_Q: Array,
    now_Q: Array,
    count_Q: Array,
    indptr_P: Array,
    indices: Array,
    values: Array,
    alpha: float,
    outliers: bool,
) -> tuple[Array, Array, Array, Array, Array]:
    """`soft_rows` on the device: equal rows are neighbours in the order of their hashes, and compared in full."""
    xp, Q, (R, size) = array_module(count_Q), count_Q.size, (0, 0)
    if Q:
        # Entries that a soft label has at most: those of its row of the projection, or one.
        room_Q = xp.concatenate((xp.diff(indptr_P), xp.ones(1, xp.int64)))[before_Q]  # -1 is the last of these
        if not outliers:
            room_Q = xp.where(now_Q >= 0, room_Q, 0)
        end_Q = xp.cumsum(room_Q)
        start_Q, stop_Q, hash_Q = end_Q - room_Q, xp.empty(Q, xp.int64), xp.empty(Q, xp.int64)
        room = int(end_Q[-1])
        pair_indices, pair_values = xp.empty(room, xp.int32), xp.empty(room, xp.float64)
        past_values = (1.0 - alpha) * values
        _blend_pairs_cuda.each(
            Q, before_Q, now_Q, outliers, indptr_P, indices, values, past_values, alpha,
            start_Q, stop_Q, hash_Q, pair_indices, pair_values,
        )  # fmt: skip
        order_Q = xp.argsort(hash_Q, kind="stable")
        hash_Q = hash_Q[order_Q]
        run_Q = xp.searchsorted(hash_Q, hash_Q)
        first_Q, new_Q, length_Q = xp.empty(Q, xp.int32), xp.empty(Q, xp.int64), xp.empty(Q, xp.int64)
        _find_first_cuda.each(
            Q, order_Q, run_Q, start_Q, stop_Q, pair_indices, pair_values, first_Q, new_Q, length_Q
        )  # fmt: skip
        number_Q, end_Q = xp.cumsum(new_Q), xp.cumsum(length_Q)
        R, size = xp.stack((number_Q[-1], end_Q[-1])).tolist()
    row_Q, count_R, out_indptr = xp.empty(Q, xp.int32), xp.zeros(R, xp.int64), xp.zeros(R + 1, xp.int64)
    out_indices, out_values = xp.empty(size, xp.int32), xp.empty(size, xp.float64)
    if Q:
        _take_cuda.each(
            Q, start_Q, stop_Q, pair_indices, pair_values, first_Q, number_Q, end_Q, count_Q,
            row_Q, count_R, out_indptr, out_indices, out_values,
        )  # fmt: skip
    return out_indptr, out_indices, out_values, row_Q, count_R


def soft_rows_cpu(
    before_Q: Array,
    now_Q: Array,
    count_Q: Array,
    indptr_P: Array,
    indices: Array,
    values: Array,
    alpha: float,
    outliers: bool,
) -> tuple[Array, Array, Array, Array, Array]:
    Q = before_Q.size
    room = int(np.diff(indptr_P)[before_Q[before_Q >= 0]].sum()) + Q
    indptr, pair_indices, pair_values = np.zeros(Q + 1, np.int64), np.empty(room, np.int32), np.empty(room)
    _blend_pairs(
        before_Q, now_Q, outliers, indptr_P, indices, values, (1.0 - alpha) * values, alpha,
        indptr, pair_indices, pair_values,
    )  # fmt: skip
    row_Q, first_R, count_R = np.empty(Q, np.int32), np.empty(Q, np.int32), np.empty(Q, np.int64)
    R = _equal_rows(indptr, pair_indices, pair_values, count_Q, row_Q, first_R, count_R)
    first_R = first_R[:R].copy()
    size = int((indptr[first_R + 1] - indptr[first_R]).sum())
    out_indptr, out_indices, out_values = np.zeros(R + 1, np.int64), np.empty(size, np.int32), np.empty(size)
    _take(indptr, pair_indices, pair_values, first_R, out_indptr, out_indices, out_values)
    return out_indptr, out_indices, out_values, row_Q, count_R[:R].copy()


def soft_rows(
    before_Q: Array,
    now_Q: Array,
    count_Q: Array,
    indptr_P: Array,
    indices: Array,
    values: Array,
    alpha: float,
    outliers: bool,
) -> tuple[Array, Array, Array, Array, Array]:
    """Distinct soft labels: CSR (indptr int64, indices int32, values float64 on the grid), row_Q int32, count_R int64.

    A pair (a, b) has alpha * onehot(b) + (1 - alpha) * P[a]; without a, onehot(b); without b, P[a].

    Args:
        before_Q, now_Q: int32 pairs, -1 = outlier.
        count_Q: int64 images of a pair.
        indptr_P, indices, values: the projection P as CSR, float64, indices ascending, rows summing to 1 or empty.
        outliers: whether pairs without b have a soft label.
    Returns: row_Q is -1 for a pair that has none, or whose last cluster has no heir. Rows are numbered by the first
        pair that has them; count_R are their images.
    """
    return (soft_rows_cuda if on_gpu(count_Q) else soft_rows_cpu)(
        before_Q, now_Q, count_Q, indptr_P, indices, values, alpha, outliers
    )
