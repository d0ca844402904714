"""Core distances of distinct sparse rows that stand for many equal points each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.runtime import cpu, cpu_part, gpu, in_parallel, on_gpu, shared
from rapids_slr.kernels.shared_columns import pairs_sharing_columns
from rapids_slr.kernels.soft_rows import GRID


class Rows(NamedTuple):
    """R distinct rows with positive entries, by row and by column, and the squared norm of each.

    Two rows without a common column are norm_a + norm_b apart (squared), so only columns need to be looked at.
    """

    indptr: Array  # int64
    indices: Array  # int32
    values: Array  # float64
    column_indptr: Array  # int64
    column_rows: Array  # int32
    column_values: Array  # float64
    norm_R: Array  # float64


class Pairs(NamedTuple):
    """The same for CUDA: all pairs of rows with a common column, both triangles without the diagonal."""

    indptr: Array  # int64
    indices: Array  # int32, ascending
    products: Array  # int64, inner products of the rows times GRID^2
    norm_R: Array  # float64


@cpu("void(int64[::1], int32[::1], float64[::1], int64[::1], int32[::1], float64[::1], float64[::1])")
def _by_column(indptr, indices, values, column_indptr, column_rows, column_values, norm_R):
    for e in range(indices.size):
        column_indptr[indices[e] + 1] += 1
    for c in range(column_indptr.size - 1):
        column_indptr[c + 1] += column_indptr[c]
    following = column_indptr[:-1].copy()
    for r in range(indptr.size - 1):
        for e in range(indptr[r], indptr[r + 1]):
            place = following[indices[e]]
            column_rows[place], column_values[place] = r, values[e]
            following[indices[e]] += 1
            norm_R[r] += values[e] * values[e]


def rows_by_column_cuda(indptr: Array, indices: Array, values: Array, columns: int) -> Pairs:
    xp = array_module(indptr)
    whole = xp.rint(values * GRID).astype(xp.int64)  # as multiples of 1 / GRID
    # Sums of a row, of at most 2^52, are exact as differences of sums of all, which may pass 2^63 and come round.
    before = xp.concatenate((xp.zeros(1, xp.int64), xp.cumsum(whole * whole)))[indptr]
    norm_R = xp.diff(before) / (GRID * GRID)
    return Pairs(*pairs_sharing_columns(indptr, indices, whole, columns, "product"), norm_R)


def rows_by_column_cpu(indptr: Array, indices: Array, values: Array, columns: int) -> Rows:
    column_indptr = np.zeros(columns + 1, np.int64)
    column_rows, column_values = np.empty(indices.size, np.int32), np.empty(indices.size)
    norm_R = np.zeros(indptr.size - 1)
    _by_column(indptr, indices, values, column_indptr, column_rows, column_values, norm_R)
    return Rows(indptr, indices, values, column_indptr, column_rows, column_values, norm_R)


def rows_by_column(indptr: Array, indices: Array, values: Array, columns: int) -> Rows | Pairs:
    """Rows from CSR (indptr int64, indices int32, values float64 > 0), ready for all that measures distances.

    On CUDA values are taken as whole multiples of 1 / GRID, as those of soft labels are.
    """
    return (rows_by_column_cuda if on_gpu(indptr) else rows_by_column_cpu)(indptr, indices, values, columns)


@cpu_part(inline="always")
def sum_products(a, indptr, indices, values, column_indptr, column_rows, column_values, dot_R, touched):
    """Add the inner products of row a with all rows to dot_R, zeros before; touched: those above 0. How many."""
    met = 0
    for e in range(indptr[a], indptr[a + 1]):
        value = values[e]
        for q in range(column_indptr[indices[e]], column_indptr[indices[e] + 1]):
            j = column_rows[q]
            if dot_R[j] == 0:
                touched[met] = j
                met += 1
            dot_R[j] += value * column_values[q]
    return met


@cuda.jit(device=True)
def candidate(f, a, indptr, indices, products, norm_R, by_norm_R):
    """One of the rows around row a, and its squared distance: first those of its pairs, then all by ascending norm.

    Among the latter, row a and its pairs come as -1.
    """
    e, stop = indptr[a] + f, indptr[a + 1]
    if e < stop:
        j = np.int64(indices[e])
        return j, norm_R[a] + norm_R[j] - 2 * products[e] / (GRID * GRID)
    j = by_norm_R[e - stop]
    between = norm_R[a] + norm_R[j]
    low, high = indptr[a], stop
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < j:
            low = middle + 1
        else:
            high = middle
    if j == a or (low < stop and indices[low] == j):
        j = np.int64(-1)
    return j, between


@shared
def _keep_nearest(distance, points, room, held, near, near_points):
    """Put a row among the `held` nearest, of which there are at most `room`; returns how many they are now."""
    if held == room:
        if distance >= near[held - 1]:
            return held
        held -= 1
    place = held
    while place > 0 and near[place - 1] > distance:
        near[place], near_points[place] = near[place - 1], near_points[place - 1]
        place -= 1
    near[place], near_points[place] = distance, points
    return held + 1


@shared
def _distance_to(need, held, near, near_points):
    """Distance of the need-th point, or of the last if there are fewer."""
    place, points = 0, near_points[0]
    while points < need and place < held - 1:
        place += 1
        points += near_points[place]
    return near[place]


@cpu("void(int64, int64, int64[::1], int32[::1], float64[::1], int64[::1], int32[::1], float64[::1], float64[::1],"
     " int64[::1], int64[::1], int64, float64[::1])")  # fmt: skip
def _core_distances(start, stop, indptr, indices, values, column_indptr, column_rows, column_values, norm_R,
                    by_norm_R, count_R, min_samples, core_R):  # fmt: skip
    R = norm_R.size
    dot_R, touched = np.zeros(R), np.empty(R, np.int32)
    near, near_points = np.empty(min(min_samples, R)), np.empty(min(min_samples, R), np.int64)
    for a in range(start, stop):
        need = min_samples - (count_R[a] - 1)
        if need <= 0:
            core_R[a] = 0.0
            continue
        met = sum_products(a, indptr, indices, values, column_indptr, column_rows, column_values, dot_R, touched)
        # the `need` nearest rows are enough, each stands for a point at least: those that meet, then the rest by norm
        room, held = min(need, R), 0
        for t in range(met):
            j = touched[t]
            if j != a:
                distance = max(0.0, norm_R[a] + norm_R[j] - 2 * dot_R[j])
                held = _keep_nearest(distance, count_R[j], room, held, near, near_points)
        for j in by_norm_R:
            distance = norm_R[a] + norm_R[j]
            if held == room and distance >= near[held - 1]:
                break
            if dot_R[j] == 0:
                held = _keep_nearest(distance, count_R[j], room, held, near, near_points)
        for t in range(met):
            dot_R[touched[t]] = 0
        core_R[a] = _distance_to(need, held, near, near_points)


@gpu("void(int64[::1], int32[::1], int64[::1], float64[::1], int64[::1], int64[::1], int64, float64[:, ::1],"
     " int64[:, ::1], float64[::1])")  # fmt: skip
def _core_distances_cuda(indptr, indices, products, norm_R, by_norm_R, count_R, min_samples, near_RK, near_points_RK,
                         core_R):  # fmt: skip
    a = cuda.grid(1)
    if a >= core_R.size:
        return
    need = min_samples - (count_R[a] - 1)
    if need <= 0:
        core_R[a] = 0.0
        return
    R, pairs, near, near_points = core_R.size, indptr[a + 1] - indptr[a], near_RK[a], near_points_RK[a]
    room, held = min(need, R), 0
    for f in range(pairs + R):
        j, distance = candidate(f, a, indptr, indices, products, norm_R, by_norm_R)
        if f >= pairs and held == room and distance >= near[held - 1]:
            break
        if j >= 0:
            held = _keep_nearest(distance, count_R[j], room, held, near, near_points)
    core_R[a] = _distance_to(need, held, near, near_points)


def core_distances_cuda(rows: Pairs, count_R: Array, min_samples: int) -> Array:
    """`core_distances` on the device, a thread to a row."""
    xp, R = array_module(count_R), count_R.size
    core_R, by_norm_R, room = xp.zeros(R), xp.argsort(rows.norm_R), min(min_samples, R)
    if room:
        near_RK, near_points_RK = xp.empty((R, room)), xp.empty((R, room), xp.int64)
        _core_distances_cuda.each(R, *rows, by_norm_R, count_R, min_samples, near_RK, near_points_RK, core_R)
    return core_R


def core_distances_cpu(rows: Rows, count_R: Array, min_samples: int) -> Array:
    core_R = np.zeros(count_R.size)
    if min_samples:
        by_norm_R = np.argsort(rows.norm_R, kind="stable")
        in_parallel(_core_distances, count_R.size, *rows, by_norm_R, count_R, min_samples, core_R, smallest=2048)
    return core_R


def core_distances(rows: Rows | Pairs, count_R: Array, min_samples: int) -> Array:
    """Squared distance (R,) float64 of a row's points to their min_samples-th neighbour, copies counted, self not.

    Args:
        rows: two at least.
        count_R: int64 points of each row, at least 1.
        min_samples: beyond the number of all other points it stands for that.
    """
    return (core_distances_cuda if on_gpu(count_R) else core_distances_cpu)(rows, count_R, min_samples)
