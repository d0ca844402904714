"""Jaccard distances of sparse rows that sum to 1: all pairs whose supports meet, or those within a bound alone."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.runtime import cpu, cpu_part, gpu, in_parallel, on_gpu, shared
from rapids_slr.kernels.shared_columns import pairs_sharing_columns

ZERO = 1e-6  # distances below are 0: equal rows whose sums were rounded
ROUNDING = 1e-6  # of sums, by which a bound on distances is taken too wide rather than too narrow
LATER = 0.75  # of the sum that a pair has to have: columns that weigh so much are looked at for few pairs alone
SAMPLE_PLACES = 2**22  # for what some rows find among all others, before it is known how much that is
WORTH = 32  # entries of columns, for each of a row, that have to be saved by it
UNIT = 2.0**-40  # of weights in whole numbers on CUDA: float32 above 2^-17 are whole multiples, others off by 2^-41


@shared
def _distance(common):
    """Of two rows that sum to 1, from the sum over columns of the lesser weight."""
    distance = 1 - common / (2 - common)
    return distance if distance >= ZERO else 0.0


@cpu("void(int64[::1], int32[::1], float32[::1], int64[::1], int32[::1], float32[::1], int64[::1])")
def _transpose(indptr, indices, values, column_indptr, rows, column_values, place):
    """Columns of a CSR matrix, rows ascending; place[e]: where entry e went."""
    N = indptr.size - 1
    for e in range(indices.size):
        column_indptr[indices[e] + 1] += 1
    for c in range(N):
        column_indptr[c + 1] += column_indptr[c]
    following = column_indptr[:-1].copy()
    for i in range(N):
        for e in range(indptr[i], indptr[i + 1]):
            place[e] = following[indices[e]]
            rows[place[e]] = i
            column_values[place[e]] = values[e]
            following[indices[e]] += 1


@cpu("void(int64, int64, int64[::1], int32[::1], int64[::1], int64[::1], int32[::1], int64[::1])")
def _count(start, stop, indptr, indices, place, column_indptr, rows, size_N):
    stamp_N = np.full(indptr.size - 1, -1, np.int32)
    for i in range(start, stop):
        size = 0
        for e in range(indptr[i], indptr[i + 1]):
            for q in range(place[e] + 1, column_indptr[indices[e] + 1]):
                if stamp_N[rows[q]] != i:
                    stamp_N[rows[q]] = i
                    size += 1
        size_N[i] = size


@cpu("void(int64, int64, int64[::1], int32[::1], float32[::1], int64[::1], int64[::1], int32[::1], float32[::1],"
     " int64[::1], int32[::1], float32[::1])")  # fmt: skip
def _fill(start, stop, indptr, indices, values, place, column_indptr, rows, column_values,
          out_indptr, out_indices, distances):  # fmt: skip
    shared_N = np.zeros(indptr.size - 1)
    for i in range(start, stop):
        end = out_indptr[i]
        for e in range(indptr[i], indptr[i + 1]):
            value = values[e]
            for q in range(place[e] + 1, column_indptr[indices[e] + 1]):
                j = rows[q]
                if shared_N[j] == 0:
                    out_indices[end] = j
                    end += 1
                shared_N[j] += min(value, column_values[q])
        for e in range(out_indptr[i], end):
            distances[e] = _distance(shared_N[out_indices[e]])
            shared_N[out_indices[e]] = 0


@cpu_part()
def _left_for_later(i, indptr, indices, values, length_L, bucket_C, least, worth, later_C, weight_B):
    """Which columns of a row need not be looked through for the pairs whose sum of lesser weights is `least` or more.

    Those that most rows have, as many as weigh LATER of `least` in sum: a pair that shares these alone has less.
    later_C, which holds zeros, gets their weights. None is left where looking through them is as soon done.

    Args:
        length_L: of the row's columns, how much there is to look through.
        bucket_C: logarithms of the numbers of rows that columns have, whole numbers.
        worth: how much looking through, for each column of the row, has to be saved by it.
        weight_B: space for the weights of each of these.
    Returns: the sum of the weights that were left.
    """
    weight_B[:] = 0
    for e in range(indptr[i], indptr[i + 1]):
        weight_B[bucket_C[indices[e]]] += values[e]
    bucket, room = weight_B.size - 1, LATER * least
    while bucket > 0 and weight_B[bucket] <= room:  # columns of these lengths all
        room -= weight_B[bucket]
        bucket -= 1
    left, saved = 0.0, 0
    for e in range(indptr[i], indptr[i + 1]):
        c = indices[e]
        if bucket_C[c] > bucket or (bucket_C[c] == bucket and values[e] <= room):
            if bucket_C[c] == bucket:
                room -= values[e]
            later_C[c] = values[e]
            left += values[e]
            saved += length_L[e - indptr[i]]
    if saved < worth * (indptr[i + 1] - indptr[i]):
        for e in range(indptr[i], indptr[i + 1]):
            later_C[indices[e]] = 0
        left = 0.0
    return left


@cpu_part()
def _of_later(j, indptr, indices, values, later_C):
    """The sum of lesser weights over the columns that were left for later."""
    common = 0.0
    for e in range(indptr[j], indptr[j + 1]):
        common += min(later_C[indices[e]], values[e])
    return common


@cpu("void(int64, int64, int32[::1], int64[::1], int32[::1], float32[::1], int64[::1], int64[::1], int32[::1],"
     " float32[::1], uint8[::1], boolean, float64, int64, int64[::1], int64, int32[::1], float32[::1],"
     " int64[::1])")  # fmt: skip
def _within(start, stop, row_R, indptr, indices, values, place, column_indptr, rows, column_values, bucket_C,
            both, least, worth, slot_R, room, out_indices, distances, found_R):  # fmt: skip
    """Pairs of rows row_R whose sum of lesser weights is `least` or more, at slot_R on, up to `room` of a row.

    both: with all other rows; else with later ones alone.
    found_R: how many there are.
    """
    N = indptr.size - 1
    shared_N, touched_N, later_C, weight_B = np.zeros(N), np.empty(N, np.int32), np.zeros(N), np.empty(64)
    longest = 0
    for r in range(start, stop):
        longest = max(longest, indptr[row_R[r] + 1] - indptr[row_R[r]])
    begin_L, length_L = np.empty(longest, np.int64), np.empty(longest, np.int64)
    for r in range(start, stop):
        i, found, met, work = row_R[r], 0, 0, 0
        for e in range(indptr[i], indptr[i + 1]):
            begin = column_indptr[indices[e]] if both else place[e] + 1
            begin_L[e - indptr[i]], length_L[e - indptr[i]] = begin, column_indptr[indices[e] + 1] - begin
        left = _left_for_later(i, indptr, indices, values, length_L, bucket_C, least, worth, later_C, weight_B)
        for e in range(indptr[i], indptr[i + 1]):
            if later_C[indices[e]] == 0:
                work += length_L[e - indptr[i]]
        # A row that meets many others is looked through from end to end; of one that meets few, these are listed.
        first = 0 if both else i + 1
        listed = 4 * work < N - first
        for e in range(indptr[i], indptr[i + 1]):
            if later_C[indices[e]] > 0:
                continue
            value, begin = values[e], begin_L[e - indptr[i]]
            end = begin + length_L[e - indptr[i]]
            if listed:
                for q in range(begin, end):
                    j = rows[q]
                    if shared_N[j] == 0:
                        touched_N[met] = j
                        met += 1
                    shared_N[j] += min(value, column_values[q])
            else:
                for q in range(begin, end):
                    shared_N[rows[q]] += min(value, column_values[q])
        if both:
            shared_N[i] = 0
        for t in range(met if listed else N - first):
            j = touched_N[t] if listed else first + t
            common = shared_N[j]
            shared_N[j] = 0
            if common > 0 and left > 0 and common + left >= least:
                common += _of_later(j, indptr, indices, values, later_C)
            if common > 0 and common >= least:
                if found < room:
                    out_indices[slot_R[r] + found] = j
                    distances[slot_R[r] + found] = _distance(common)
                found += 1
        if left > 0:
            for e in range(indptr[i], indptr[i + 1]):
                later_C[indices[e]] = 0
        found_R[r] = found


@cpu("void(int64, int64, int64[::1], int64, int64[::1], int32[::1], float32[::1], int32[::1], float32[::1])")
def _compact(start, stop, found_R, room, out_indptr, slots, slot_values, out_indices, out_values):
    """The slots of `room` places of each row, but for rows that found more, side by side."""
    for r in range(start, stop):
        if found_R[r] <= room:
            for n in range(found_R[r]):
                out_indices[out_indptr[r] + n] = slots[r * room + n]
                out_values[out_indptr[r] + n] = slot_values[r * room + n]


@cpu("void(int64, int64, int64[::1], int32[::1], float32[::1], int64[::1], int32[::1], float32[::1])")
def _lower(start, stop, indptr, indices, values, out_indptr, out_indices, out_values):
    """The pairs i < j of rows i, as the lower triangle of rows start .. stop; in order, as i only grows."""
    following = out_indptr[start:stop].copy()
    for i in range(stop):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            if start <= j < stop:
                place = following[j - start]
                out_indices[place], out_values[place] = i, values[e]
                following[j - start] += 1


@cpu("void(int64, int64, int64[::1], int64[::1], int32[::1], float32[::1])")
def _upper(start, stop, below_N, indptr, indices, values):
    """The upper triangle of rows start .. stop from the lower triangle of all rows, below_N entries each, in order."""
    following = indptr[start:stop] + below_N[start:stop]
    for j in range(start + 1, indptr.size - 1):
        end = indptr[j] + below_N[j]
        for e in range(indptr[j] + np.searchsorted(indices[indptr[j] : end], start), end):
            i = indices[e]
            if i >= stop:
                break
            place = following[i - start]
            indices[place], values[place] = j, values[e]
            following[i - start] += 1


@gpu("void(int64[::1], float32[::1])")
def _distances_cuda(common, distances):
    e = cuda.grid(1)
    if e < distances.size:
        distances[e] = _distance(common[e] * UNIT)


def _pairs_cuda(
    indptr: Array, indices: Array, weights: Array, least: float = 0.0, row_R: Array | None = None
) -> tuple[Array, Array, Array]:
    """CSR of distances on the device, from sums of whole numbers, whose order does not matter."""
    xp = array_module(indptr)
    whole = xp.rint(weights.astype(xp.float64) / UNIT).astype(xp.int64)
    found = pairs_sharing_columns(indptr, indices, whole, indptr.size - 1, "min", int(max(least, 0.0) / UNIT), row_R)
    distances = xp.empty(found.indices.size, xp.float32)
    _distances_cuda.each(distances.size, found.values, distances)
    return found.indptr, found.indices, distances


def jaccard_distances_cuda(indptr: Array, indices: Array, weights: Array) -> tuple[Array, Array, Array]:
    """`jaccard_distances` on the device."""
    return _pairs_cuda(indptr, indices, weights)


def _transposed_cpu(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """A CSR matrix, then what `_transpose` makes of it: place, column_indptr, rows, column_weights."""
    N, nnz = indptr.size - 1, indices.size
    column_indptr, rows = np.zeros(N + 1, np.int64), np.empty(nnz, np.int32)
    column_weights, place = np.empty(nnz, np.float32), np.empty(nnz, np.int64)
    _transpose(indptr, indices, weights, column_indptr, rows, column_weights, place)
    return indptr, indices, weights, place, column_indptr, rows, column_weights


def _upper_pairs_cpu(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, rows_below: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs i < j of the rows i < rows_below as CSR, columns in any order."""
    *matrix, place, column_indptr, rows, column_weights = _transposed_cpu(indptr, indices, weights)
    upper = np.zeros(rows_below + 1, np.int64)
    in_parallel(_count, rows_below, indptr, indices, place, column_indptr, rows, upper[1:], smallest=256)
    np.cumsum(upper, out=upper)
    upper_indices, upper_distances = np.empty(upper[-1], np.int32), np.empty(upper[-1], np.float32)
    in_parallel(_fill, rows_below, *matrix, place, column_indptr, rows, column_weights,
                upper, upper_indices, upper_distances, smallest=256)  # fmt: skip
    return upper, upper_indices, upper_distances


def _pairs_within_cpu(
    matrix: tuple[np.ndarray, ...], row_R: np.ndarray, both: bool, least: float, room: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CSR of what `_within` finds, columns in any order.

    Args:
        matrix: as `_transposed_cpu` gives it.
        room: places for what a row finds; where it is too little, the row is gone through once more.
    """
    R, found_R = row_R.size, np.empty(row_R.size, np.int64)
    slots, slot_distances = np.empty(R * room, np.int32), np.empty(R * room, np.float32)
    bucket_C = np.log2(np.diff(matrix[4]) + 1).astype(np.uint8)
    in_parallel(_within, R, row_R, *matrix, bucket_C, both, least, WORTH, np.arange(R) * room, room, slots,
                slot_distances, found_R, smallest=16 if both else 256)  # fmt: skip
    out_indptr = np.zeros(R + 1, np.int64)
    np.cumsum(found_R, out=out_indptr[1:])
    out_indices, distances = np.empty(out_indptr[-1], np.int32), np.empty(out_indptr[-1], np.float32)
    in_parallel(_compact, R, found_R, room, out_indptr, slots, slot_distances, out_indices, distances, smallest=4096)
    over = np.flatnonzero(found_R > room)
    if over.size:
        in_parallel(_within, over.size, row_R[over], *matrix, bucket_C, both, least, WORTH, out_indptr[over],
                    np.iinfo(np.int64).max, out_indices, distances, found_R[over], smallest=64)  # fmt: skip
    return out_indptr, out_indices, distances


def both_triangles_cpu(
    upper: np.ndarray, upper_indices: np.ndarray, upper_distances: np.ndarray
) -> tuple[np.ndarray, ...]:
    """CSR of a symmetric matrix, columns ascending, from its pairs i < j, whose columns are in any order."""
    N = upper.size - 1
    below_N, out_indptr = np.bincount(upper_indices, minlength=N), np.zeros(N + 1, np.int64)
    np.cumsum(np.diff(upper) + below_N, out=out_indptr[1:])
    out_indices, distances = np.empty(2 * upper[-1], np.int32), np.empty(2 * upper[-1], np.float32)
    in_parallel(_lower, N, upper, upper_indices, upper_distances, out_indptr, out_indices, distances, smallest=256)
    in_parallel(_upper, N, below_N, out_indptr, out_indices, distances, smallest=256)
    return out_indptr, out_indices, distances


def jaccard_distances_cpu(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return both_triangles_cpu(*_upper_pairs_cpu(indptr, indices, weights, indptr.size - 1))


def jaccard_distances(indptr: Array, indices: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Jaccard distance of all pairs of rows that share a column, both triangles without the diagonal.

    Args: an (N, N) CSR matrix: indptr int64, indices int32, weights float32, positive, rows summing to 1.
    Returns: CSR (indptr int64, indices int32 ascending, distances float32 in [0, 1)); zeros are stored.
    """
    return (jaccard_distances_cuda if on_gpu(indptr) else jaccard_distances_cpu)(indptr, indices, weights)


def least_common(bound: float) -> float:
    """The sum of lesser weights c that a pair at most `bound` apart has: J = 1 - c / (2 - c), solved for c."""
    return 2 * (1 - bound) / (2 - bound) - ROUNDING


def upper_within_cpu(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, bound: float, room: int, row_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `jaccard_within` finds of some rows and later ones: rows of CSR, columns in any order."""
    matrix = _transposed_cpu(indptr, indices, weights)
    return _pairs_within_cpu(matrix, row_R, False, least_common(bound), room)


def jaccard_within(
    indptr: Array, indices: Array, weights: Array, bound: float, room: int = 32
) -> tuple[Array, Array, Array]:
    """`jaccard_distances` of the pairs at most `bound` apart, and perhaps of a few that are hardly further.

    Sums are those of `jaccard_distances`, so distances are equal bit by bit: on the CPU float64 holds sums up to 1 of
    float32 above 2^-29 as they are, whatever their order. What is left out is never stored, and columns that most
    rows share, of a network that finds all images alike for one, are not looked through for pairs (prefix filtering:
    Bayardo et al., Scaling Up All Pairs Similarity Search, WWW 2007, with sums of lesser weights in place of products).

    Args:
        bound: below 1.
        room: pairs of a row i < j that are expected; of rows with more it is found twice.
    Returns: CSR as of `jaccard_distances`.
    """
    if on_gpu(indptr):
        return _pairs_cuda(indptr, indices, weights, least_common(bound))
    every = np.arange(indptr.size - 1, dtype=np.int32)
    return both_triangles_cpu(*upper_within_cpu(indptr, indices, weights, bound, room, every))


def jaccard_of_rows(indptr: Array, indices: Array, weights: Array, row_R: Array) -> tuple[Array, Array, Array]:
    """`jaccard_distances` of some rows and all others: a row for each of row_R, int32, columns in any order."""
    if on_gpu(indptr):
        return _pairs_cuda(indptr, indices, weights, row_R=row_R)
    room = min(indptr.size - 1, SAMPLE_PLACES // max(row_R.size, 1))
    return _pairs_within_cpu(_transposed_cpu(indptr, indices, weights), row_R, True, 0.0, room)


def jaccard_of_first(indptr: Array, indices: Array, weights: Array, rows: int) -> tuple[Array, Array, Array]:
    """`jaccard_distances` of the first `rows` rows and all later ones, as rows of CSR with columns in any order.

    On CUDA pairs of later rows are made as well and let go.
    """
    if not on_gpu(indptr):
        return _upper_pairs_cpu(indptr, indices, weights, rows)
    whole = jaccard_distances_cuda(indptr, indices, weights)
    last = int(whole[0][rows])
    return whole[0][: rows + 1], whole[1][:last], whole[2][:last]
