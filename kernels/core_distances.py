"""Core distances of distinct sparse rows that stand for many equal points each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rapids_slr.kernels import cpu, in_parallel


class Rows(NamedTuple):
    """R distinct rows with positive entries, by row and by column, and the squared norm of each.

    Two rows without a common column are norm_a + norm_b apart (squared), so only columns need to be looked at.
    """

    indptr: np.ndarray  # int64
    indices: np.ndarray  # int32
    values: np.ndarray  # float64
    column_indptr: np.ndarray  # int64
    column_rows: np.ndarray  # int32
    column_values: np.ndarray  # float64
    norm_R: np.ndarray  # float64


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


def rows_by_column(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, columns: int) -> Rows:
    """Rows from CSR (indptr int64, indices int32, values float64 > 0)."""
    column_indptr = np.zeros(columns + 1, np.int64)
    column_rows, column_values = np.empty(indices.size, np.int32), np.empty(indices.size)
    norm_R = np.zeros(indptr.size - 1)
    _by_column(indptr, indices, values, column_indptr, column_rows, column_values, norm_R)
    return Rows(indptr, indices, values, column_indptr, column_rows, column_values, norm_R)


@cpu("void(int64, int64, int64[::1], int32[::1], float64[::1], int64[::1], int32[::1], float64[::1], float64[::1],"
     " int64[::1], int64[::1], int64, float64[::1])")  # fmt: skip
def _core_distances(start, stop, indptr, indices, values, column_indptr, column_rows, column_values, norm_R,
                    by_norm_R, count_R, min_samples, core_R):  # fmt: skip
    R = norm_R.size
    dot_R, touched = np.zeros(R), np.empty(R, np.int32)
    near, near_count = np.empty(min(min_samples, R)), np.empty(min(min_samples, R), np.int64)
    for a in range(start, stop):
        need = min_samples - (count_R[a] - 1)
        if need <= 0:
            core_R[a] = 0.0
            continue
        met = 0
        for e in range(indptr[a], indptr[a + 1]):
            for q in range(column_indptr[indices[e]], column_indptr[indices[e] + 1]):
                j = column_rows[q]
                if dot_R[j] == 0:
                    touched[met] = j
                    met += 1
                dot_R[j] += values[e] * column_values[q]
        # the `need` nearest rows are enough, each stands for a point at least: those that meet, then the rest by norm
        room, held = min(need, R), 0
        for t in range(met + R):
            if t < met:
                j = touched[t]
                if j == a:
                    continue
                distance = max(0.0, norm_R[a] + norm_R[j] - 2 * dot_R[j])
            else:
                j = by_norm_R[t - met]
                distance = norm_R[a] + norm_R[j]
                if held == room and distance >= near[held - 1]:
                    break
                if dot_R[j] > 0:
                    continue
            if held == room:
                if distance >= near[held - 1]:
                    continue
                held -= 1
            place = held
            while place > 0 and near[place - 1] > distance:
                near[place], near_count[place] = near[place - 1], near_count[place - 1]
                place -= 1
            near[place], near_count[place] = distance, count_R[j]
            held += 1
        for t in range(met):
            dot_R[touched[t]] = 0
        place, points = 0, near_count[0]
        while points < need:
            place += 1
            points += near_count[place]
        core_R[a] = near[place]


def core_distances(rows: Rows, count_R: np.ndarray, min_samples: int) -> np.ndarray:
    """Squared distance (R,) float64 of a row's points to their min_samples-th neighbour, copies counted, self not.

    Args:
        count_R: int64 points of each row, at least 1.
        min_samples: at most the number of all points less one.
    """
    core_R = np.zeros(count_R.size)
    if min_samples:
        by_norm_R = np.argsort(rows.norm_R, kind="stable")
        in_parallel(_core_distances, count_R.size, *rows, by_norm_R, count_R, min_samples, core_R, smallest=2048)
    return core_R
