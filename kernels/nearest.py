"""The nearest rows by inner product, gathered from coarse blocks of the product and settled in float64.

A block of the product serves the images of its rows and those of its columns. For every image a short list keeps what
may still be among its k best: all that lies within the rounding of the product of the k-th; another keeps what may be
its furthest. In the end the few candidates are measured again in float64, so that ranks and distances do not depend on
how the product was blocked, threaded or rounded, nor on whether it is one of float32 or of bfloat16, nor on how many
processes looked at parts of the images and merged their lists.

Similarities are compared as integers, `keys`: the bits of a float in the order of its value. Those of bfloat16 are the
upper half of those of float32, so that one loop, compiled for either width, reads both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.engine.blocks import as_tensor
from rapids_slr.group import ALONE, Group, mean_of_rows
from rapids_slr.kernels.runtime import cpu, cpu_part, each_in_parallel, in_parallel, shared

FAR = 16  # places in a list of what may be the furthest
CHUNK = 64  # similarities looked at together; one branch decides that none is a candidate
ALIKE = 200  # times the rounding of their products: features that differ by less are multiplied by what they differ by
SAMPLE = 32  # rows that show how many candidates a coarse product leaves
PART = 1024  # rows that are looked at in float64 together
FEW = 128  # rows of which what is computed stays in the cache
NOBODY = np.iinfo(np.int32).max  # in a list that is not full
ZERO = 1e-6  # squared distances below are 0: equal images whose inner product was rounded


class Lists(NamedTuple):
    """Short lists of N images, C places each."""

    similarity_NC: np.ndarray  # float32
    index_NC: np.ndarray  # int32
    filled_N: np.ndarray  # int32, places taken
    threshold_N: np.ndarray  # float32: what lies below cannot be among the nearest


class Candidates(NamedTuple):
    """What may be among the k nearest of N images, and what may be their furthest.

    The furthest image is the nearest to the opposite of an image: in its list similarities are negated.
    """

    near: Lists
    far: Lists


def no_candidates(N: int, k: int) -> Candidates:
    """Empty lists for the k nearest others of N images, and for the furthest."""

    def lists_cpu(C: int) -> Lists:
        similarity_NC, index_NC = np.empty((N, C), np.float32), np.empty((N, C), np.int32)
        return Lists(similarity_NC, index_NC, np.zeros(N, np.int32), np.full(N, -np.inf, np.float32))

    return Candidates(lists_cpu(2 * k + 16), lists_cpu(FAR))


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
    share: float = 0.0
    """What may be added to this bound, in parts of the size of the sum."""
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
        group: its processes hold the features, each its share; mean and bounds are those of all.
    """
    xp, D = array_module(features_ND), features_ND.shape[1]
    mean_D = mean_of_rows(features_ND, group)
    if 1.0 - float(xp.dot(mean_D, mean_D)) >= (ALIKE * rounding(D) if alike is None else alike):
        return Similarities(features_ND, None, 0.0, 1.0, rounding(D))
    x_ND, shift_N, offset = _less(features_ND, mean_D)
    parts = range(0, len(features_ND), PART)
    longest = group.highest(
        max((float(xp.square(x_ND[row : row + PART]).sum(axis=1).max()) for row in parts), default=0.0)
    )
    largest = group.highest(float(xp.abs(shift_N).max()) if shift_N.size else 0.0)
    scale = 1 / (longest + 2 * largest) if wide and longest + 2 * largest > 0 else 1.0
    if wide:
        x_ND *= np.float32(scale**0.5)
    bound = 2.0**-24 * ((D + 10) * longest + 10 * largest)  # 2 more of each for the scale
    return Similarities(x_ND, (scale * shift_N).astype(xp.float32), offset, scale, scale * bound, mean_D=mean_D)


def of_others(of: Similarities, features_ND: Array) -> Similarities:
    """What `similarities`, not `wide`, gives for other images of the group."""
    if of.mean_D is None:
        return of._replace(x_ND=features_ND)
    x_ND, shift_N, _ = _less(features_ND, of.mean_D)
    return of._replace(x_ND=x_ND, shift_N=shift_N.astype(np.float32))


def _less(features_ND: Array, mean_D: Array) -> tuple[Array, Array, float]:
    """f - m, in float64 m.(f - m), and m.m."""
    xp, exact_D = array_module(features_ND), mean_D.astype(np.float64)
    parts = range(0, len(features_ND), PART)
    shifts = [features_ND[row : row + PART].astype(xp.float64) @ exact_D for row in parts]
    offset = float(xp.dot(exact_D, exact_D))
    return features_ND - mean_D, xp.concatenate([xp.empty(0), *shifts]) - offset, offset


def coarsely_cpu(of: Similarities, group: Group = ALONE) -> Similarities:
    """The bounds where the product of float32 rows on the CPU is computed in bfloat16.

    With e = x - x rounded to bfloat16, x.y differs from the product of rounded rows by |e_x| |y| + |x_rounded| |e_y| at
    most, what is summed in float32 by twice what it would be of x and y, each product being added on its own, and the
    sum rounded to bfloat16 by 2^-9 of itself. The longest e is measured.
    """

    def loses(row: int) -> float:
        part = as_tensor(of.x_ND[row : row + FEW])
        return float(torch.linalg.vector_norm(part - part.bfloat16().float(), dim=1).max())

    lost = group.highest(max(each_in_parallel(loses, range(0, len(of.x_ND), FEW)), default=0.0))
    # 1.001: rows are of length 1 but for 1e-4, and what is lost is measured in float32.
    return of._replace(rounding=1.001 * lost * (2 + lost) + 2 * rounding(of.x_ND.shape[1]), share=2.0**-9)


def in_bfloat16_cpu(of: Similarities, k: int, group: Group = ALONE) -> Similarities | None:
    """`coarsely_cpu`; None for features that this leaves with more candidates than short lists hold, as SAMPLE rows
    show, or that are nearly alike. Processes of a group look at their own features, and need not agree."""
    if of.shift_N is not None:
        return None
    coarse, N = coarsely_cpu(of, group), len(of.x_ND)
    if N == 0:
        return coarse
    sample_SD, similarity_SN = of.x_ND[np.arange(SAMPLE) * N // SAMPLE], np.empty((SAMPLE, N), np.float32)

    def multiply(row: int) -> None:
        similarity_SN[:, row : row + PART] = as_tensor(sample_SD) @ as_tensor(of.x_ND[row : row + PART]).T

    for _ in each_in_parallel(multiply, range(0, N, PART)):
        pass
    place = max(N - k - 1, 0)  # the image itself is one of those above
    kth_S = np.partition(similarity_SN, place, axis=1)[:, place]
    margin_S = 2.01 * (coarse.rounding + coarse.share * np.abs(kth_S))
    candidates = (similarity_SN >= (kth_S - margin_S)[:, None]).sum(axis=1)
    return coarse if candidates.mean() <= 1.5 * k + FAR else None


def add_shifts(of: Similarities, block_IJ: Array, rows: Any, columns: Any, others: Similarities | None = None) -> None:
    """Make a block of the product of `of.x_ND`, or with that of `others`, what stands for inner products."""
    shift_M = (others or of).shift_N
    if of.shift_N is not None and shift_M is not None:
        block_IJ += of.shift_N[rows, None]
        block_IJ += shift_M[columns]


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
def _settle(x_D, other_MD, index_C, count, k, sign, distances):
    """Sort index_C[:count], rows of other_MD, by exact distance to x_D, to its opposite if sign is -1, then by index.

    distances[:min(count, k)] go with the k first, whose number is returned.
    """
    kept = 0
    for c in range(count):
        j = index_C[c]
        d = squared_distance(x_D, other_MD[j])
        if sign < 0:
            d = 4.0 - d
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
def _threshold(kth, rounding, share, offset):
    """Similarity below which nothing is among the k nearest, if k of them are computed as `kth` or more.

    The k are kth - rounding - share |kth| at least. What is computed as x is x + rounding + share |x| at most; where
    x < -|kth| that grows with x by 1 - share a unit, which the hundredth beyond 2 makes up for.
    """
    least = min(kth, np.float32(1.0 - ZERO / 2 - offset))
    return np.float32(least - 2.01 * (rounding + share * abs(least)))


@cpu_part()
def _key(value, shift):
    """The bits of a float32 in the order of its value; with shift 16 those of its upper half, rounded towards 0.

    In either, x <= y has a key no larger: what a threshold lets through, its key does.
    """
    bits = np.float32(value).view(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> shift


@cpu_part()
def _value(key, shift):
    """The float32 of a key."""
    bits = key ^ ((key >> 31) & (0x7FFFFFFF >> shift))
    return np.int32(bits << shift).view(np.float32)


@cpu_part()
def _to_keys(similarity_J):
    """Turn a row into keys where it lies; returns the smallest."""
    mask = similarity_J.dtype.type((1 << (8 * similarity_J.itemsize - 1)) - 1)
    least = mask
    for c in range(similarity_J.size):
        bits = similarity_J[c]
        key = similarity_J.dtype.type(bits if bits >= 0 else bits ^ mask)
        similarity_J[c] = key
        least = min(least, key)
    return least


@cpu_part()
def _first_threshold(key_J, k, rounding, share, offset, largest, scratch, shift):
    """A threshold for an image without candidates: of many disjoint groups, k + 1 have a member as large as this."""
    groups = largest.size
    if key_J.size < 2 * groups:
        return np.float32(-np.inf)
    for g in range(groups):
        largest[g] = key_J[g]
    for first in range(groups, key_J.size - groups + 1, groups):
        for g in range(groups):
            largest[g] = max(largest[g], key_J[first + g])
    # One may be the image itself.
    return _threshold(_value(_kth_largest(largest, groups, k + 1, scratch), shift), rounding, share, offset)


@cpu_part()
def _tighten(i, own_ND, other_MD, k, sign, rounding, share, offset, lists, scratch, distances):
    """Drop the candidates of i that cannot be among its k nearest, and raise its threshold."""
    similarity_NC, index_NC, filled_N, threshold_N = lists
    count = filled_N[i]
    threshold = _threshold(_kth_largest(similarity_NC[i], count, k, scratch), rounding, share, offset)
    kept = 0
    for c in range(count):
        if similarity_NC[i, c] >= threshold:
            similarity_NC[i, kept] = similarity_NC[i, c]
            index_NC[i, kept] = index_NC[i, c]
            kept += 1
    if kept > count - count // 8:  # many alike: only exact distances tell them apart
        kept = _settle(own_ND[i], other_MD, index_NC[i], kept, k, sign, distances)
        for c in range(kept):
            similarity_NC[i, c] = np.float32(1.0 - distances[c] / 2 - offset)
    filled_N[i] = kept
    threshold_N[i] = max(threshold_N[i], threshold)


@cpu_part(inline="always")
def _offer(i, j, value, own_ND, other_MD, k, sign, rounding, share, offset, lists, scratch, distances):
    similarity_NC, index_NC, filled_N, _ = lists
    place = filled_N[i]
    similarity_NC[i, place] = value
    index_NC[i, place] = j
    filled_N[i] = place + 1
    if place + 1 == similarity_NC.shape[1]:
        _tighten(i, own_ND, other_MD, k, sign, rounding, share, offset, lists, scratch, distances)


@cpu_part()
def _beyond(key_J, low, high):
    """The first and the end of what is to be looked at, of up to CHUNK keys, for those up to low and from high on.

    Found out by vector instructions alone, for whether a key is one of these is hard to predict: their number, and the
    sum of their places, which of a single one is its place.
    """
    number, place = numba.int16(0), numba.int16(0)
    for c in range(key_J.size):
        is_one = numba.int16((key_J[c] >= high) | (key_J[c] <= low))
        number = numba.int16(number + is_one)
        place = numba.int16(place + is_one * c)
    return (place, place + number) if number <= 1 else (0, key_J.size)


@cpu_part()
def _outside(key_J, low_J, high_J):
    """`_beyond` with bounds of their own."""
    number, place = numba.int16(0), numba.int16(0)
    for c in range(key_J.size):
        is_one = numba.int16((key_J[c] >= high_J[c]) | (key_J[c] <= low_J[c]))
        number = numba.int16(number + is_one)
        place = numba.int16(place + is_one * c)
    return (place, place + number) if number <= 1 else (0, key_J.size)


@cpu_part()
def _offer_to_rows(block_IJ, row, column, itself, own_ND, other_MD, k, rounding, share, offset, near, far, space):
    """Turn the block into keys, and offer every column, rows of other_MD, to the images of own_ND from `row` on; to
    image i not i + itself, which is the same."""
    J, shift = block_IJ.shape[1], 32 - 8 * block_IJ.itemsize
    scratch, distances, keys, largest, _, _ = space
    threshold_N, limit_N = near[3], far[3]
    for r in range(block_IJ.shape[0]):
        i, key_J = row + r, block_IJ[r]
        least = -_value(_to_keys(key_J), shift)
        limit_N[i] = max(limit_N[i], _threshold(least, rounding, share, -offset))
        if threshold_N[i] == -np.inf:
            threshold_N[i] = _first_threshold(key_J, k, rounding, share, offset, largest, keys, shift)
        for first in range(0, J, CHUNK):
            low, high = _key(-limit_N[i], shift), _key(threshold_N[i], shift)
            chunk = key_J[first : min(first + CHUNK, J)]
            from_c, end = _beyond(chunk, low, high)
            for c in range(from_c, end):
                j, key = column + first + c, chunk[c]
                if key >= high and j != i + itself:
                    _offer(i, j, _value(key, shift), own_ND, other_MD, k, 1, rounding, share, offset,
                           near, scratch, distances)  # fmt: skip
                    high = _key(threshold_N[i], shift)
                if key <= low:
                    _offer(i, j, -_value(key, shift), own_ND, other_MD, 1, -1, rounding, share, -offset,
                           far, scratch, distances)  # fmt: skip
                    low = _key(-limit_N[i], shift)


@cpu_part()
def _offer_to_columns(block_IJ, row, column, own_ND, other_MD, k, rounding, share, offset, near, far, space):
    """Offer every row of the block of keys, rows of other_MD, to the images of own_ND from `column` on."""
    (I, J), shift = block_IJ.shape, 32 - 8 * block_IJ.itemsize  # noqa: E741
    scratch, distances, _, _, high_J, low_J = space
    threshold_N, limit_N = near[3], far[3]
    for c in range(J):
        high_J[c] = _key(threshold_N[column + c], shift)
        low_J[c] = _key(-limit_N[column + c], shift)
    for r in range(I):
        key_J = block_IJ[r]
        for first in range(0, J, CHUNK):
            last = min(first + CHUNK, J)
            from_c, end = _outside(key_J[first:last], low_J[first:last], high_J[first:last])
            for c in range(first + from_c, first + end):
                j, key = column + c, key_J[c]
                if key >= high_J[c]:
                    _offer(j, row + r, _value(key, shift), own_ND, other_MD, k, 1, rounding, share, offset,
                           near, scratch, distances)  # fmt: skip
                    high_J[c] = _key(threshold_N[j], shift)
                if key <= low_J[c]:
                    _offer(j, row + r, -_value(key, shift), own_ND, other_MD, 1, -1, rounding, share, -offset,
                           far, scratch, distances)  # fmt: skip
                    low_J[c] = _key(-limit_N[j], shift)


_LISTS = "Tuple((float32[:, ::1], int32[:, ::1], int32[::1], float32[::1]))"
_FEATURES = "Array(float32, 2, 'C', readonly=True)"
_BOUNDS = "float64, float64, float64"  # rounding, share, offset
_PART = f"{_FEATURES}, {_LISTS}, {_LISTS}"


@cpu([f"void({keys}[:, ::1], int64, int64, int64, boolean, int64, {_BOUNDS}, {_PART}, {_PART})"
      for keys in ("int16", "int32")])  # fmt: skip
def _offer_tile(block_IJ, row, column, itself, mirrored, k, rounding, share, offset,
                row_MD, row_near, row_far, column_MD, column_near, column_far):  # fmt: skip
    """Offer the images of the rows and those of the columns to each other; not `mirrored`: to the rows alone."""
    J, groups = block_IJ.shape[1], 4 * (k + 1)
    space = (np.empty(groups + FAR, np.float32), np.empty(k + 1),
             np.empty(groups, block_IJ.dtype), np.empty(groups, block_IJ.dtype),
             np.empty(J, block_IJ.dtype), np.empty(J, block_IJ.dtype))  # fmt: skip
    _offer_to_rows(
        block_IJ, row, column, itself, row_MD, column_MD, k, rounding, share, offset, row_near, row_far, space
    )
    if mirrored:
        _offer_to_columns(
            block_IJ, row, column, column_MD, row_MD, k, rounding, share, offset, column_near, column_far, space
        )


_FOUND = "int32[:, ::1], float32[:, ::1], float32[::1]"


@cpu(f"void(int64, int64, {_FEATURES}, {_FOUND}, {_BOUNDS}, {_LISTS}, {_LISTS})")
def _rank(start, stop, features_ND, index_NK, distance_NK, furthest_N, rounding, share, offset, near, far):
    """Write the lists of the images start .. stop: the image itself first, then the others by (distance, index)."""
    k = index_NK.shape[1] - 1
    scratch, distances = np.empty(4 * (k + 1) + FAR, np.float32), np.empty(k + 1)
    for i in range(start, stop):
        index_NK[i, 0] = i
        distance_NK[i, 0] = squared_distance(features_ND[i], features_ND[i])
        if k:
            _tighten(i, features_ND, features_ND, k, 1, rounding, share, offset, near, scratch, distances)
            _settle(features_ND[i], features_ND, near[1][i], near[2][i], k, 1, distances)
            for p in range(k):
                index_NK[i, p + 1] = near[1][i, p]
                distance_NK[i, p + 1] = distances[p]
        _tighten(i, features_ND, features_ND, 1, -1, rounding, share, -offset, far, scratch, distances)
        _settle(features_ND[i], features_ND, far[1][i], far[2][i], 1, -1, distances)
        furthest_N[i] = 4.0 - distances[0]


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


@cpu_part()
def _beyond_reach(distance, rounding, share, offset):
    """Similarity below which nothing is nearer than `distance`."""
    if distance == np.inf:
        return np.float32(-np.inf)
    return _threshold(np.float32(1.0 - distance / 2 - offset), rounding, share, offset)


_SETTLED = "Tuple((float64[:, ::1], int32[:, ::1], float64[::1]))"


@cpu(f"void(int64, int64, {_FEATURES}, {_FEATURES}, int64, {_BOUNDS}, {_LISTS}, {_LISTS}, {_SETTLED})")
def _take(start, stop, own_ND, other_MD, first, rounding, share, offset, near, far, settled):
    """Put the candidates of the images start .. stop, rows of other_MD, into their lists, and forget them."""
    distance_NK, index_NK, opposite_N = settled
    k = index_NK.shape[1]
    scratch, distances = np.empty(4 * (k + 1) + FAR, np.float32), np.empty(k + 1)
    for i in range(start, stop):
        if near[2][i] >= k:
            _tighten(i, own_ND, other_MD, k, 1, rounding, share, offset, near, scratch, distances)
        for c in range(_settle(own_ND[i], other_MD, near[1][i], near[2][i], k, 1, distances)):
            _insert(distances[c], first + near[1][i, c], distance_NK[i], index_NK[i])
        if far[2][i]:
            _tighten(i, own_ND, other_MD, 1, -1, rounding, share, -offset, far, scratch, distances)
            _settle(own_ND[i], other_MD, far[1][i], far[2][i], 1, -1, distances)
            opposite_N[i] = min(opposite_N[i], distances[0])
        near[2][i] = far[2][i] = 0
        near[3][i] = max(near[3][i], _beyond_reach(distance_NK[i, k - 1], rounding, share, offset))
        far[3][i] = max(far[3][i], _beyond_reach(opposite_N[i], rounding, share, -offset))


@cpu(f"void(int64, int64, {_SETTLED}, {_SETTLED})")
def _merge(start, stop, settled, others):
    distance_NK, index_NK, opposite_N = settled
    for i in range(start, stop):
        for p in range(index_NK.shape[1]):
            if others[1][i, p] != NOBODY:
                _insert(others[0][i, p], others[1][i, p], distance_NK[i], index_NK[i])
        opposite_N[i] = min(opposite_N[i], others[2][i])


@cpu(f"void(int64, int64, {_FEATURES}, float32[::1])")
def _own_distances(start, stop, features_ND, distance_N):
    for i in range(start, stop):
        distance_N[i] = squared_distance(features_ND[i], features_ND[i])


class Part(NamedTuple):
    """Some of the images: the rows or the columns of a product, and what may be nearest to them."""

    features_ND: np.ndarray
    """float32, contiguous."""
    of: Similarities
    """Their rows."""
    k: int
    """Images of a list, beside the image itself."""
    candidates: Candidates
    """Of one part; what was offered of another is taken first."""
    first: int
    """Which of all images is the first."""


def part(features_ND: np.ndarray, of: Similarities, k: int, first: int = 0) -> Part:
    """Images that nothing was offered to."""
    return Part(features_ND, of, k, no_candidates(len(features_ND), k), first)


def offer(block_IJ: np.ndarray, row: int, column: int, rows: Part, columns: Part) -> None:
    """Offer a block of the product of two parts, or of one with itself, from `row` and from `column` on, to the lists
    of its images, which nothing else may change meanwhile.

    A block off the diagonal stands for its mirror image too, which must not be offered again.

    Args:
        block_IJ: float32, or int16, the bits of bfloat16; it is overwritten.
    """
    (I, J), of = block_IJ.shape, rows.of  # noqa: E741
    add_shifts(of, block_IJ, slice(row, row + I), slice(column, column + J), columns.of)
    keys_IJ = block_IJ if block_IJ.dtype == np.int16 else block_IJ.view(np.int32)
    mirrored = rows is not columns or row != column
    parts = [x for part in (rows, columns) for x in (part.features_ND, *map(tuple, part.candidates))]
    _offer_tile(
        keys_IJ, row, column, rows.first - columns.first, mirrored, rows.k, of.rounding, of.share, of.offset, *parts
    )


def rank(of_all: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices (N, k + 1) int32 and squared distances float32 of the images by ascending distance, themselves first,
    and the distance (N,) float32 of the furthest."""
    features_ND, of, k, candidates, _ = of_all
    N = len(features_ND)
    index_NK, distance_NK = np.empty((N, k + 1), np.int32), np.empty((N, k + 1), np.float32)
    furthest_N = np.empty(N, np.float32)
    args = (features_ND, index_NK, distance_NK, furthest_N, of.rounding, of.share, of.offset, *map(tuple, candidates))
    in_parallel(_rank, N, *args, smallest=64)
    return index_NK, distance_NK, furthest_N


class Settled(NamedTuple):
    """What is known of N images after they met some of the others."""

    distance_NK: np.ndarray
    """float64, squared distances of the nearest, ascending; beyond the last nothing is wanted."""
    index_NK: np.ndarray
    """int32, which of all images they are; ties by index. NOBODY after the last."""
    opposite_N: np.ndarray
    """float64, 4 less the squared distance of the furthest."""


def nobody_cpu(k: int, distance_N: np.ndarray, opposite_N: np.ndarray) -> Settled:
    """Lists of nobody, for k images that are nearer than distance_N, and one that is furthest beyond opposite_N."""
    distance_NK = np.repeat(distance_N[:, None], k, axis=1)
    return Settled(distance_NK, np.full(distance_NK.shape, NOBODY, np.int32), opposite_N.copy())


def take(own: Part, other: Part, settled: Settled) -> None:
    """Settle what was offered of `other`: no more candidates are kept than may be nearer than what is settled."""
    of = own.of
    in_parallel(_take, len(own.features_ND), own.features_ND, other.features_ND, other.first, of.rounding, of.share,
                of.offset, *map(tuple, own.candidates), tuple(settled), smallest=64)  # fmt: skip


def merge(settled: Settled, others: Settled) -> None:
    """Put what is known of the same images and other ones into the first lists."""
    in_parallel(_merge, len(settled.index_NK), tuple(settled), tuple(others), smallest=256)


def finished_cpu(own: Part, settled: Settled) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is known after the images met all others, as `rank` gives it."""
    N = len(own.features_ND)
    own_N = np.empty(N, np.float32)
    in_parallel(_own_distances, N, own.features_ND, own_N, smallest=64)
    index_NK = np.column_stack([np.arange(own.first, own.first + N, dtype=np.int32), settled.index_NK])
    distance_NK = np.column_stack([own_N, settled.distance_NK.astype(np.float32)])
    return index_NK, distance_NK, (4 - settled.opposite_N).astype(np.float32)
