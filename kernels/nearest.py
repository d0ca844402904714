"""The nearest rows by inner product, gathered from float32 blocks of the product and settled in float64.

A block of the product serves the images of its rows and those of its columns. For every image a short list keeps what
may still be among its k best: all that lies within the rounding of float32 of the k-th. In the end the few candidates
are measured again in float64, so that ranks do not depend on how the product was blocked, threaded or rounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.group import ALONE, Group, mean_of_rows
from rapids_slr.kernels.runtime import cpu, cpu_part, in_parallel, shared

CHUNK = 64  # similarities looked at together; one branch decides that none is a candidate
ALIKE = 200  # times the rounding of their products: features that differ by less are multiplied by what they differ by
PART = 1024  # rows that are looked at in float64 together
ZERO = 1e-6  # squared distances below are 0: equal images whose inner product was rounded


class Candidates(NamedTuple):
    """Lists of candidates of N images, C places each; `filled_N` places are taken."""

    similarity_NC: np.ndarray  # float32
    index_NC: np.ndarray  # int32
    filled_N: np.ndarray  # int32
    threshold_N: np.ndarray  # float32: what lies below cannot be among the k nearest
    least_N: np.ndarray  # float32: smallest similarity seen


def no_candidates(N: int, k: int) -> Candidates:
    """Empty lists for the k nearest others of N images."""
    C = 2 * k + 16
    return Candidates(
        np.empty((N, C), np.float32),
        np.empty((N, C), np.int32),
        np.zeros(N, np.int32),
        np.full(N, -np.inf, np.float32),
        np.full(N, np.inf, np.float32),
    )


def rounding(D: int) -> float:
    """Bound on |float32 inner product - exact inner product| of unit rows, whatever the order of summation."""
    return (D + 2) * 2.0**-24


class Similarities(NamedTuple):
    """How the product of rows stands for inner products: f_i.f_j = (x_i.x_j + shift_i + shift_j) / scale + offset."""

    x_ND: Array
    """float32, the rows to multiply."""
    shift_N: Array | None
    """float32, to be added to rows and columns of the product; None: nothing."""
    offset: float
    scale: float
    rounding: float
    """Bound on how far the sum is from what it stands for, if the product is computed in float32."""
    mean_D: Array | None = None
    """float32, what features are less by in x_ND; None: nothing."""


def similarities(
    features_ND: Array, alike: float | None = None, wide: bool = False, group: Group = ALONE
) -> Similarities:
    """Rows whose product tells features apart: themselves, or where all are nearly alike what they differ by.

    With m the mean and g = f - m rounded, f_i.f_j = m.m + m.(f_i - m) + m.(f_j - m) + g_i.g_j but for rounding. The
    products g_i.g_j are as small as features are alike, and so is what float32 loses of them: with u = 2^-24, G the
    longest g and C the largest |m.(f - m)| no more than u ((D + 8) G^2 + 8 C), by the terms of the sum one by one.
    Where (D + 2) u of the products themselves would hide the differences, all images would be candidates of all.

    Args:
        features_ND: (N, D) float32 unit rows.
        alike: 1 - m.m, the mean squared length of g, below which features are multiplied by what they differ by; None
            takes ALIKE times the rounding of float32.
        wide: scale sums to -1 .. 1 then.
        group: its processes hold the features, each a share that begins on a multiple of PART. shift_N is of all.
    """
    xp, D = array_module(features_ND), features_ND.shape[1]
    mean_D = mean_of_rows(features_ND, group)
    if 1.0 - float(xp.dot(mean_D, mean_D)) >= (ALIKE * rounding(D) if alike is None else alike):
        return Similarities(features_ND, None, 0.0, 1.0, rounding(D))
    x_ND, exact_D = features_ND - mean_D, mean_D.astype(xp.float64)
    offset = float(xp.dot(exact_D, exact_D))
    parts = range(0, len(features_ND), PART)
    shifts = [features_ND[row : row + PART].astype(xp.float64) @ exact_D for row in parts]
    shift_N = group.gather(xp.concatenate([xp.empty(0), *shifts])) - offset
    longest = max((float(xp.square(x_ND[row : row + PART]).sum(axis=1).max()) for row in parts), default=0.0)
    longest = group.highest(longest)
    largest = float(xp.abs(shift_N).max())
    scale = 1 / (longest + 2 * largest) if wide and longest + 2 * largest > 0 else 1.0
    if wide:
        x_ND *= np.float32(scale**0.5)
    bound = 2.0**-24 * ((D + 10) * longest + 10 * largest)  # 2 more of each for the scale
    return Similarities(x_ND, (scale * shift_N).astype(xp.float32), offset, scale, scale * bound, mean_D)


def add_shifts(of: Similarities, block_IJ: Array, rows: Any, columns: Any) -> None:
    """Make a block of the product of `of.x_ND` what stands for inner products."""
    if of.shift_N is not None:
        block_IJ += of.shift_N[rows, None]
        block_IJ += of.shift_N[columns]


@shared
def distance_of(dot):
    """max(0, 2 - 2 dot); below ZERO it is 0."""
    distance = 2.0 - 2.0 * dot
    return distance if distance >= ZERO else 0.0


@cpu_part(fastmath=True)
def squared_distance(x_D, y_D):
    """max(0, 2 - 2 x.y) in float64; below ZERO it is 0."""
    dot = 0.0
    for d in range(x_D.size):
        dot += np.float64(x_D[d]) * np.float64(y_D[d])
    return distance_of(dot)


@cpu_part()
def _kth_largest(values, count, k, scratch):
    """The k-th largest of values[:count] (Hoare's selection)."""
    for c in range(count):
        scratch[c] = values[c]
    low, high = 0, count - 1
    while low < high:
        pivot = scratch[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while scratch[left] > pivot:
                left += 1
            while scratch[right] < pivot:
                right -= 1
            if left <= right:
                scratch[left], scratch[right] = scratch[right], scratch[left]
                left += 1
                right -= 1
        if k - 1 <= right:
            high = right
        elif k - 1 >= left:
            low = left
        else:
            break
    return scratch[k - 1]


@cpu_part()
def _settle(x_D, other_MD, index_C, count, k, distances):
    """Sort index_C[:count], rows of other_MD, by exact distance to x_D, then by index.

    distances[:min(count, k)] go with the k first.
    """
    kept = 0
    for c in range(count):
        j = index_C[c]
        d = squared_distance(x_D, other_MD[j])
        if kept == k:
            if d > distances[k - 1] or (d == distances[k - 1] and j > index_C[k - 1]):
                continue
            kept -= 1
        place = kept
        while place > 0 and (distances[place - 1] > d or (distances[place - 1] == d and index_C[place - 1] > j)):
            distances[place] = distances[place - 1]
            index_C[place] = index_C[place - 1]
            place -= 1
        distances[place] = d
        index_C[place] = j
        kept += 1
    return kept


@cpu_part()
def _threshold(kth, rounding, offset):
    """Similarity below which nothing is among the k nearest, if k of them are computed as `kth` or more."""
    return np.float32(min(kth, np.float32(1.0 - ZERO / 2 - offset)) - 2.0 * rounding)


@cpu_part(fastmath={"nnan", "nsz"})
def _first_threshold(similarity_J, k, rounding, offset, largest, scratch):
    """A threshold for an image without candidates: of many disjoint groups, k + 1 have a member as large as this."""
    groups = largest.size
    if similarity_J.size < 2 * groups:
        return np.float32(-np.inf)
    largest[:] = similarity_J[:groups]
    for first in range(groups, similarity_J.size - groups + 1, groups):
        for g in range(groups):
            largest[g] = max(largest[g], similarity_J[first + g])
    return _threshold(_kth_largest(largest, groups, k + 1, scratch), rounding, offset)  # one may be the image itself


@cpu_part()
def _tighten(
    i, own_ND, other_MD, k, rounding, offset, similarity_NC, index_NC, filled_N, threshold_N, scratch, distances
):
    """Drop the candidates of i that cannot be among its k nearest, and raise its threshold."""
    count = filled_N[i]
    threshold = _threshold(_kth_largest(similarity_NC[i], count, k, scratch), rounding, offset)
    kept = 0
    for c in range(count):
        if similarity_NC[i, c] >= threshold:
            similarity_NC[i, kept] = similarity_NC[i, c]
            index_NC[i, kept] = index_NC[i, c]
            kept += 1
    if kept > count - count // 8:  # many equal images: only exact distances tell them apart
        kept = _settle(own_ND[i], other_MD, index_NC[i], kept, k, distances)
        for c in range(kept):
            similarity_NC[i, c] = np.float32(1.0 - distances[c] / 2 - offset)
    filled_N[i] = kept
    threshold_N[i] = threshold


@cpu_part()
def _offer(
    i, j, value, own_ND, other_MD, k, rounding, offset, similarity_NC, index_NC, filled_N, threshold_N, scratch,
    distances,
):  # fmt: skip
    place = filled_N[i]
    similarity_NC[i, place] = value
    index_NC[i, place] = j
    filled_N[i] = place + 1
    if place + 1 == similarity_NC.shape[1]:
        _tighten(
            i, own_ND, other_MD, k, rounding, offset, similarity_NC, index_NC, filled_N, threshold_N, scratch, distances
        )


@cpu_part(fastmath={"nnan", "nsz"})
def _least(values, lanes):
    """The smallest value. Minima of CHUNK lanes, unlike one minimum, are computed by vector instructions."""
    lanes[:] = np.inf
    for first in range(0, values.size - CHUNK + 1, CHUNK):
        part = values[first : first + CHUNK]
        for c in range(CHUNK):
            lanes[c] = min(lanes[c], part[c])
    least = values[-1]
    for c in range(CHUNK):
        least = min(least, lanes[c])
    for c in range(values.size - values.size % CHUNK, values.size):
        least = min(least, values[c])
    return least


_STATE = "float32[:, ::1], int32[:, ::1], int32[::1], float32[::1], float32[::1]"
_FEATURES = "Array(float32, 2, 'C', readonly=True)"


@cpu(f"void(int64, int64, float32[:, ::1], int64, int64, int64, {_FEATURES}, {_FEATURES}, int64, float64, float64,"
     f" {_STATE})")  # fmt: skip
def _offer_to_rows(start, stop, block_IJ, row, column, itself, own_ND, other_MD, k, rounding, offset,
                   similarity_NC, index_NC, filled_N, threshold_N, least_N):  # fmt: skip
    """Offer every column of the block to the images row + start .. row + stop of own_ND; to image i not i + itself."""
    J, C = block_IJ.shape[1], similarity_NC.shape[1]
    scratch, distances = np.empty(2 * C, np.float32), np.empty(k + 1)
    largest, lanes = np.empty(4 * (k + 1), np.float32), np.empty(CHUNK, np.float32)
    for r in range(start, stop):
        i, similarity_J = row + r, block_IJ[r]
        least_N[i] = min(least_N[i], _least(similarity_J, lanes))
        if threshold_N[i] == -np.inf:
            threshold_N[i] = _first_threshold(similarity_J, k, rounding, offset, largest, scratch)
        for first in range(0, J, CHUNK):
            part = similarity_J[first : first + CHUNK]
            if part.size == CHUNK:
                threshold = threshold_N[i]
                hit = numba.int32(0)
                for c in range(CHUNK):
                    hit |= numba.int32(part[c] >= threshold)
                if not hit:
                    continue
            for c in range(part.size):
                j = column + first + c
                if part[c] >= threshold_N[i] and j != i + itself:
                    _offer(i, j, part[c], own_ND, other_MD, k, rounding, offset,
                           similarity_NC, index_NC, filled_N, threshold_N, scratch, distances)  # fmt: skip


@cpu(f"void(int64, int64, float32[:, ::1], int64, int64, {_FEATURES}, {_FEATURES}, int64, float64, float64, {_STATE})",
     fastmath={"nnan", "nsz"})  # fmt: skip
def _offer_to_columns(start, stop, block_IJ, row, column, own_ND, other_MD, k, rounding, offset,
                      similarity_NC, index_NC, filled_N, threshold_N, least_N):  # fmt: skip
    """Offer every row of the block to the images column + start .. column + stop of own_ND."""
    I, C = block_IJ.shape[0], similarity_NC.shape[1]  # noqa: E741
    scratch, distances = np.empty(C, np.float32), np.empty(k + 1)
    threshold_J, least_J = threshold_N[column + start : column + stop], least_N[column + start : column + stop]
    for r in range(I):
        similarity_J = block_IJ[r][start:stop]
        for c in range(similarity_J.size):
            least_J[c] = min(least_J[c], similarity_J[c])
        for first in range(0, similarity_J.size, CHUNK):
            part, threshold = similarity_J[first : first + CHUNK], threshold_J[first : first + CHUNK]
            if part.size == CHUNK:
                hit = numba.int32(0)
                for c in range(CHUNK):
                    hit |= numba.int32(part[c] >= threshold[c])
                if not hit:
                    continue
            for c in range(part.size):
                if part[c] >= threshold[c]:
                    _offer(column + start + first + c, row + r, part[c], own_ND, other_MD, k, rounding, offset,
                           similarity_NC, index_NC, filled_N, threshold_N, scratch, distances)  # fmt: skip


@cpu(f"void(int64, int64, {_FEATURES}, int32[:, ::1], float32[:, ::1], float64, float64, {_STATE})")
def _rank(start, stop, features_ND, index_NK, distance_NK, rounding, offset,
          similarity_NC, index_NC, filled_N, threshold_N, least_N):  # fmt: skip
    """Write the lists of the images start .. stop: the image itself first, then the others by (distance, index)."""
    k, C = index_NK.shape[1] - 1, similarity_NC.shape[1]
    scratch, distances = np.empty(C, np.float32), np.empty(k + 1)
    for i in range(start, stop):
        index_NK[i, 0] = i
        distance_NK[i, 0] = squared_distance(features_ND[i], features_ND[i])
        if k:
            _tighten(i, features_ND, features_ND, k, rounding, offset,
                     similarity_NC, index_NC, filled_N, threshold_N, scratch, distances)  # fmt: skip
            _settle(features_ND[i], features_ND, index_NC[i], filled_N[i], k, distances)
            for p in range(k):
                index_NK[i, p + 1] = index_NC[i, p]
                distance_NK[i, p + 1] = distances[p]


def offer(
    candidates: Candidates,
    block_IJ: np.ndarray,
    row: int,
    column: int,
    features_ND: np.ndarray,
    k: int,
    of: Similarities,
) -> None:
    """Offer a block of the product of `of.x_ND`, rows from `row` and columns from `column`, to the lists of its images.

    A block off the diagonal stands for its mirror image too, which must not be offered again.
    """
    I, J = block_IJ.shape  # noqa: E741
    add_shifts(of, block_IJ, slice(row, row + I), slice(column, column + J))
    offer_columns(block_IJ, row, column, 0, features_ND, features_ND, k, of, candidates)
    if row != column:
        offer_rows(block_IJ, row, column, features_ND, features_ND, k, of, candidates)


@cpu_part()
def _insert(d, j, distance_K, index_K):
    """Put an image into a list sorted by (distance, index), where it is among the first."""
    place = distance_K.size
    while place > 0 and (distance_K[place - 1] > d or (distance_K[place - 1] == d and index_K[place - 1] > j)):
        place -= 1
    if place < distance_K.size:
        for p in range(distance_K.size - 1, place, -1):
            distance_K[p] = distance_K[p - 1]
            index_K[p] = index_K[p - 1]
        distance_K[place] = d
        index_K[place] = j


@cpu(f"void(int64, int64, {_FEATURES}, {_FEATURES}, int64, float64, float64, {_STATE}, float64[:, ::1], int32[:, ::1])")
def _take(start, stop, own_ND, other_MD, first, rounding, offset,
          similarity_NC, index_NC, filled_N, threshold_N, least_N, distance_NK, near_NK):  # fmt: skip
    """Put the candidates of the images start .. stop, rows of other_MD, into their lists, and forget them."""
    k, C = near_NK.shape[1], similarity_NC.shape[1]
    scratch, distances = np.empty(C, np.float32), np.empty(k + 1)
    for i in range(start, stop):
        if filled_N[i] >= k:
            _tighten(i, own_ND, other_MD, k, rounding, offset,
                     similarity_NC, index_NC, filled_N, threshold_N, scratch, distances)  # fmt: skip
        if filled_N[i]:
            for c in range(_settle(own_ND[i], other_MD, index_NC[i], filled_N[i], k, distances)):
                _insert(distances[c], first + index_NC[i, c], distance_NK[i], near_NK[i])
            filled_N[i] = 0
            kth = np.float32(1.0 - distance_NK[i, k - 1] / 2 - offset)
            threshold_N[i] = max(threshold_N[i], _threshold(kth, rounding, offset))


@cpu("void(int64, int64, float64[:, ::1], int32[:, ::1], float64[:, ::1], int32[:, ::1])")
def _merge(start, stop, distance_NK, near_NK, other_NK, other_near_NK):
    for i in range(start, stop):
        for p in range(near_NK.shape[1]):
            if other_near_NK[i, p] >= 0:
                _insert(other_NK[i, p], other_near_NK[i, p], distance_NK[i], near_NK[i])


@cpu(f"void(int64, int64, {_FEATURES}, float32[::1])")
def _own_distances(start, stop, x_ND, distance_N):
    for i in range(start, stop):
        distance_N[i] = squared_distance(x_ND[i], x_ND[i])


def offer_columns(
    block_IJ: np.ndarray, row: int, column: int, itself: int, own_ND: np.ndarray, other_MD: np.ndarray, k: int,
    of: Similarities, candidates: Candidates,
) -> None:  # fmt: skip
    """Offer the columns of a block, images `column` on of other_MD, to images `row` on of own_ND.

    Args:
        candidates: lists of the images of own_ND; they name rows of other_MD.
        itself: image i of own_ND is image i + itself of other_MD, which is not offered to it.
    """
    in_parallel(_offer_to_rows, len(block_IJ), block_IJ, row, column, itself, own_ND, other_MD, k, of.rounding,
                of.offset, *candidates, smallest=64)  # fmt: skip


def offer_rows(
    block_IJ: np.ndarray, row: int, column: int, own_ND: np.ndarray, other_MD: np.ndarray, k: int,
    of: Similarities, candidates: Candidates,
) -> None:  # fmt: skip
    """Offer the rows of a block, images `row` on of other_MD, to images `column` on of own_ND."""
    in_parallel(_offer_to_columns, block_IJ.shape[1], block_IJ, row, column, own_ND, other_MD, k, of.rounding,
                of.offset, *candidates, smallest=64)  # fmt: skip


def take(
    candidates: Candidates, own_ND: np.ndarray, other_MD: np.ndarray, first: int, of: Similarities,
    distance_NK: np.ndarray, near_NK: np.ndarray,
) -> None:  # fmt: skip
    """Move candidates, rows of other_MD, into lists by (distance, index): float64 and int32, inf and -1 where empty.

    Args:
        first: number of the first image of other_MD among all.
    """
    in_parallel(_take, len(own_ND), own_ND, other_MD, first, of.rounding, of.offset, *candidates, distance_NK, near_NK,
                smallest=64)  # fmt: skip


def merge(distance_NK: np.ndarray, near_NK: np.ndarray, other_NK: np.ndarray, other_near_NK: np.ndarray) -> None:
    """Put lists of others of the same images, as `take` fills them, into the first ones."""
    in_parallel(_merge, len(near_NK), distance_NK, near_NK, other_NK, other_near_NK, smallest=256)


def finished_cpu(
    features_ND: np.ndarray, first: int, distance_NK: np.ndarray, near_NK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lists that `take` has filled, of images `first` on, as `rank` gives them."""
    N = len(features_ND)
    own_N = np.empty(N, np.float32)
    in_parallel(_own_distances, N, features_ND, own_N, smallest=64)
    index_NK = np.column_stack([np.arange(first, first + N, dtype=np.int32), near_NK])
    return index_NK, np.column_stack([own_N, distance_NK.astype(np.float32)])


def rank(candidates: Candidates, features_ND: np.ndarray, k: int, of: Similarities) -> tuple[np.ndarray, np.ndarray]:
    """Indices (N, k + 1) int32 and squared distances float32 of the images by ascending distance, themselves first."""
    N = len(features_ND)
    index_NK, distance_NK = np.empty((N, k + 1), np.int32), np.empty((N, k + 1), np.float32)
    in_parallel(_rank, N, features_ND, index_NK, distance_NK, of.rounding, of.offset, *candidates, smallest=64)
    return index_NK, distance_NK
