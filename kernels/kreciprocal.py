"""k-reciprocal sets and their weights: rows of V, before query expansion.

An image's set holds the neighbours that list it among their own, and the half-sized sets of those neighbours that agree
with it; its weights exp(-D), or exp(-D^2), sum to 1.
"""

from __future__ import annotations

import math

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module, row_of_entry
from rapids_slr.errors import InputError
from rapids_slr.group import ALONE, Group, gathered_rows
from rapids_slr.kernels.block import sum_before
from rapids_slr.kernels.nearest import ZERO, squared_distance
from rapids_slr.kernels.runtime import THREADS, cpu, cpu_part, gpu, in_parallel, on_gpu, shared

NEIGHBOURS = 256  # k1 + 1 on CUDA, at most: this and the next two are places in shared memory
MEMBERS = 3072  # of an expanded set, at most
TABLE = 4096  # slots of its hash table, at most; a power of 2
FREE = np.int32(-1)
LANES = 32  # threads that add up an inner product


@shared
def _place(j, i, index_NK):
    """Where image j stands in the list of image i; K if it does not."""
    K = index_NK.shape[1]
    for p in range(K):
        if index_NK[i, p] == j:
            return p
    return K


@shared
def _scaled(distance, scale, squares):
    return (scale * distance) ** 2 if squares else scale * distance


@cpu("void(int64, int64, int32[:, ::1], int16[:, ::1])")
def _back_ranks(start, stop, index_NK, back_NK):
    K = index_NK.shape[1]
    for i in range(start, stop):
        for p in range(K):
            back_NK[i, p] = _place(i, index_NK[i, p], index_NK)


@cpu_part()
def _expanded_set(i, index_NK, back_NK, k1, half, stamp_N, members):
    """Write the expanded k-reciprocal set of image i to `members` and return its size; stamp_N needs no clearing."""
    inside, added = 2 * i + 1, 2 * i + 2  # in R(i, k1); only in the expansion
    size = 0
    for p in range(k1 + 1):
        if back_NK[i, p] <= k1:
            members[size] = index_NK[i, p]
            stamp_N[index_NK[i, p]] = inside
            size += 1
    for m in range(size):
        c = members[m]
        total, shared = 0, 0
        for p in range(half + 1):
            if back_NK[c, p] <= half:
                total += 1
                shared += stamp_N[index_NK[c, p]] == inside
        if 3 * shared > 2 * total:  # in whole numbers: two thirds exactly are not enough on any machine
            for p in range(half + 1):
                if back_NK[c, p] <= half and stamp_N[index_NK[c, p]] < inside:
                    members[size] = index_NK[c, p]
                    stamp_N[index_NK[c, p]] = added
                    size += 1
    return size


@cpu("void(int64, int64, int32[:, ::1], int16[:, ::1], int64, int64, int64[::1])")
def _count(start, stop, index_NK, back_NK, k1, half, size_N):
    stamp_N, members = np.full(index_NK.shape[0], -1, np.int64), np.empty((k1 + 1) * (half + 2), np.int32)
    for i in range(start, stop):
        size_N[i] = _expanded_set(i, index_NK, back_NK, k1, half, stamp_N, members)


@cpu("void(int64, int64, int32[:, ::1], int16[:, ::1], int64, int64, int64[::1], int32[::1])")
def _outside(start, stop, index_NK, back_NK, k1, half, far_indptr, far_indices):
    """The members of each set that are not in the image's list, in order; without room for them, how many at i + 1."""
    listed_N = np.full(index_NK.shape[0], -1, np.int32)
    stamp_N, members = np.full(index_NK.shape[0], -1, np.int64), np.empty((k1 + 1) * (half + 2), np.int32)
    for i in range(start, stop):
        for p in range(index_NK.shape[1]):
            listed_N[index_NK[i, p]] = i
        found = 0
        for m in range(_expanded_set(i, index_NK, back_NK, k1, half, stamp_N, members)):
            if listed_N[members[m]] != i:
                if far_indices.size:
                    far_indices[far_indptr[i] + found] = members[m]
                found += 1
        if not far_indices.size:
            far_indptr[i + 1] = found


@cpu("void(int64, int64, Array(float32, 2, 'C', readonly=True), int64[::1], Array(float32, 2, 'C', readonly=True),"
     " int64[::1], int64[::1], float64[::1])")  # fmt: skip
def _measure(start, stop, own_ND, row_E, other_MD, column_E, entry_E, distances):
    for e in range(start, stop):
        distances[entry_E[e]] = squared_distance(own_ND[row_E[e]], other_MD[column_E[e]])


@cpu("void(int64, int64, Array(float32, 2, 'C', readonly=True), float32[::1], int32[:, ::1], int16[:, ::1], int64,"
     " int64, boolean, float32[:, ::1], int64[::1], float64[::1], int64[::1], int32[::1], float32[::1])")  # fmt: skip
def _fill(start, stop, features_ND, furthest_N, index_NK, back_NK, k1, half, squares, distance_NK,
          far_indptr, far_distances, indptr, indices, weights):  # fmt: skip
    listed_N, place_N = np.full(index_NK.shape[0], -1, np.int32), np.empty(index_NK.shape[0], np.int16)
    stamp_N, members = np.full(index_NK.shape[0], -1, np.int64), np.empty((k1 + 1) * (half + 2), np.int32)
    weight = np.empty(members.size)
    for i in range(start, stop):
        size = _expanded_set(i, index_NK, back_NK, k1, half, stamp_N, members)
        scale = 1.0 / furthest_N[i] if furthest_N[i] > 0 else 0.0
        for p in range(index_NK.shape[1]):
            listed_N[index_NK[i, p]], place_N[index_NK[i, p]] = i, p
        total, found = 0.0, 0
        for m in range(size):
            j = members[m]
            if listed_N[j] == i:
                distance = np.float64(distance_NK[i, place_N[j]])
            elif far_indptr.size:  # measured before
                distance = far_distances[far_indptr[i] + found]
                found += 1
            else:
                distance = squared_distance(features_ND[i], features_ND[j])
            weight[m] = np.exp(-_scaled(distance, scale, squares))
            total += weight[m]
        for m in range(size):
            indices[indptr[i] + m] = members[m]
            weights[indptr[i] + m] = weight[m] / total


@gpu("void(int32[:, ::1], int16[:, ::1])")
def _back_ranks_cuda(index_NK, back_NK):
    e = cuda.grid(1)
    if e < index_NK.size:
        i, p = e // index_NK.shape[1], e % index_NK.shape[1]
        back_NK[i, p] = _place(i, index_NK[i, p], index_NK)


@cuda.jit(device=True)
def _slot(j, table):
    return (np.int64(j) * 2654435761 >> 16) & (table.size - 1)  # Knuth's multiplier, 2^32 over the golden ratio


@cuda.jit(device=True)
def _insert(j, table):
    """Put j into the hash table; whether it is new."""
    slot = _slot(j, table)
    while True:
        found = cuda.atomic.cas(table, slot, FREE, j)
        if found == FREE:
            return True
        if found == j:
            return False
        slot = (slot + 1) & (table.size - 1)


@cuda.jit(device=True)
def _holds(j, table):
    slot = _slot(j, table)
    while table[slot] != FREE and table[slot] != j:
        slot = (slot + 1) & (table.size - 1)
    return table[slot] == j


@cuda.jit(device=True)
def _expanded_set_cuda(i, index_NK, back_NK, k1, half, table, members, total, agree, size):
    """`_expanded_set` by a block, members in any order.

    Args, all in shared memory: the slots of a hash table; two counts for each member of R(i, k1); a place for the size.
    """
    for slot in range(cuda.threadIdx.x, table.size, cuda.blockDim.x):
        table[slot] = FREE
    for m in range(cuda.threadIdx.x, k1 + 1, cuda.blockDim.x):
        total[m] = agree[m] = 0
    if cuda.threadIdx.x == 0:
        size[0] = 0
    cuda.syncthreads()
    for p in range(cuda.threadIdx.x, k1 + 1, cuda.blockDim.x):
        if back_NK[i, p] <= k1:
            _insert(index_NK[i, p], table)
            members[cuda.atomic.add(size, 0, 1)] = index_NK[i, p]
    cuda.syncthreads()
    pairs = size[0] * (half + 1)  # of a member of R(i, k1) and a place in its list
    for e in range(cuda.threadIdx.x, pairs, cuda.blockDim.x):
        m, p = e // (half + 1), e % (half + 1)
        if back_NK[members[m], p] <= half:
            cuda.atomic.add(total, m, 1)
            if _holds(index_NK[members[m], p], table):
                cuda.atomic.add(agree, m, 1)
    cuda.syncthreads()
    for e in range(cuda.threadIdx.x, pairs, cuda.blockDim.x):
        m, p = e // (half + 1), e % (half + 1)
        if 3 * agree[m] > 2 * total[m] and back_NK[members[m], p] <= half:
            j = index_NK[members[m], p]
            if _insert(j, table):
                members[cuda.atomic.add(size, 0, 1)] = j
    cuda.syncthreads()
    return size[0]


@gpu("void(int32[:, ::1], int16[:, ::1], int64, int64, int64, int64[::1])")
def _count_cuda(index_NK, back_NK, k1, half, slots, size_N):
    table = cuda.shared.array(TABLE, np.int32)
    members = cuda.shared.array(MEMBERS, np.int32)
    total = cuda.shared.array(NEIGHBOURS, np.int32)
    agree = cuda.shared.array(NEIGHBOURS, np.int32)
    size = cuda.shared.array(1, np.int32)
    i = cuda.blockIdx.x
    found = _expanded_set_cuda(i, index_NK, back_NK, k1, half, table[:slots], members, total, agree, size)
    if cuda.threadIdx.x == 0:
        size_N[i] = found


@gpu("void(float32[:, ::1], float32[::1], int32[:, ::1], int16[:, ::1], int64, int64, boolean, int64,"
     " float32[:, ::1], int64[::1], int32[::1], float32[::1])")  # fmt: skip
def _fill_cuda(features_ND, furthest_N, index_NK, back_NK, k1, half, squares, slots, distance_NK,
               indptr, indices, weights):  # fmt: skip
    table = cuda.shared.array(TABLE, np.int32)
    members = cuda.shared.array(MEMBERS, np.int32)
    total = cuda.shared.array(NEIGHBOURS, np.int32)
    agree = cuda.shared.array(NEIGHBOURS, np.int32)
    size = cuda.shared.array(1, np.int32)
    scratch = cuda.shared.array(THREADS, np.float64)
    i, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    found = _expanded_set_cuda(i, index_NK, back_NK, k1, half, table[:slots], members, total, agree, size)
    start = indptr[i]
    for m in range(thread, found, threads):  # in ascending order, so that sums do not depend on who came first
        place = start
        for other in range(found):
            place += members[other] < members[m]
        indices[place] = members[m]
    cuda.syncthreads()

    lanes = min(LANES, threads)
    group, lane = thread // lanes, thread % lanes
    for first in range(start, start + found, threads // lanes):  # weights hold distances at first
        e, part, p = first + group, 0.0, 0
        if e < start + found:
            j = indices[e]
            p = _place(j, i, index_NK)
            if p == index_NK.shape[1]:
                for d in range(lane, features_ND.shape[1], lanes):
                    part += np.float64(features_ND[i, d]) * np.float64(features_ND[j, d])
        scratch[thread] = part
        cuda.syncthreads()
        if e < start + found and lane == 0:
            if p < index_NK.shape[1]:
                weights[e] = distance_NK[i, p]
            else:
                for other in range(thread + 1, thread + lanes):
                    part += scratch[other]
                weights[e] = 2 - 2 * part if 2 - 2 * part >= ZERO else 0
        cuda.syncthreads()

    scale, part = 1 / np.float64(furthest_N[i]) if furthest_N[i] > 0 else 0.0, 0.0
    for e in range(start + thread, start + found, threads):
        part += math.exp(-_scaled(weights[e], scale, squares))
    _, whole = sum_before(part, scratch)
    for e in range(start + thread, start + found, threads):
        weights[e] = math.exp(-_scaled(weights[e], scale, squares)) / whole


def kreciprocal_weights_cuda(
    features_ND: Array, furthest_N: Array, index_NK: Array, distance_NK: Array, k1: int, half: int | None = None,
    squares: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """`kreciprocal_weights` on the device, a block to an image; rows are ascending.

    Raises: InputError for a k1 whose sets could outgrow a block's shared memory.
    """
    xp, half = array_module(index_NK), round(k1 / 2) if half is None else half
    most = largest_set(k1, half)
    if most > MEMBERS:
        fits = next(k for k in range(k1, 0, -1) if largest_set(k) <= MEMBERS)
        raise InputError(
            f"k1={k1}: sets of up to {most} images, but a GPU takes {MEMBERS}; lower k1 to {fits} or less, "
            "or cluster on the CPU"
        )
    slots = min(TABLE, 2 ** (2 * most - 1).bit_length())
    (N, K), back_NK = index_NK.shape, xp.empty(index_NK.shape, xp.int16)
    _back_ranks_cuda.each(N * K, index_NK, back_NK)
    indptr = xp.zeros(N + 1, xp.int64)
    _count_cuda.blocks(N, index_NK, back_NK, k1, half, slots, indptr[1:])
    indptr = xp.cumsum(indptr)
    entries = int(indptr[-1])
    indices, weights = xp.empty(entries, xp.int32), xp.empty(entries, xp.float32)
    _fill_cuda.blocks(N, features_ND, furthest_N, index_NK, back_NK, k1, half, squares, slots, distance_NK,
                      indptr, indices, weights)  # fmt: skip
    return indptr, indices, weights


def largest_set(k1: int, half: int | None = None) -> int:
    """Bound on the size of an expanded set: a member of R(i, k1) adds less than a third of its half-sized set."""
    return (k1 + 1) * (1 + (round(k1 / 2) if half is None else half) // 3)


def kreciprocal_weights_cpu(
    features_ND: np.ndarray, furthest_N: np.ndarray, index_NK: np.ndarray, distance_NK: np.ndarray, k1: int,
    half: int | None = None, squares: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    N, K = index_NK.shape
    half = round(k1 / 2) if half is None else half  # half to even
    back_NK, indptr = np.empty((N, K), np.int16), np.zeros(N + 1, np.int64)
    in_parallel(_back_ranks, N, index_NK, back_NK, smallest=64)
    in_parallel(_count, N, index_NK, back_NK, k1, half, indptr[1:], smallest=256)
    np.cumsum(indptr, out=indptr)
    indices, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    measured = np.empty(0, np.int64), np.empty(0)
    in_parallel(_fill, N, features_ND, furthest_N, index_NK, back_NK, k1, half, squares, distance_NK,
                *measured, indptr, indices, weights, smallest=256)  # fmt: skip
    return indptr, indices, weights


def kreciprocal_weights_of_share_cpu(
    features_ND: np.ndarray, furthest_N: np.ndarray, index_NK: np.ndarray, distance_NK: np.ndarray, k1: int,
    half: int, squares: bool, group: Group,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """`kreciprocal_weights` of the images of this process alone, as CSR of N rows of which the others are empty.

    Args:
        features_ND: of its images alone; all else is of all N.
    """
    N, K = index_NK.shape
    share = group.share(N)
    back_NK = np.empty((N, K), np.int16)
    in_parallel(_back_ranks, share, index_NK, back_NK, smallest=64)
    back_NK = group.gather(back_NK[share.start : share.stop])
    far_indptr, none = np.zeros(N + 1, np.int64), np.empty(0, np.int32)
    in_parallel(_outside, share, index_NK, back_NK, k1, half, far_indptr, none, smallest=256)
    np.cumsum(far_indptr, out=far_indptr)
    far_indices, far_distances = np.empty(far_indptr[-1], np.int32), np.empty(far_indptr[-1])
    if far_indices.size:
        in_parallel(_outside, share, index_NK, back_NK, k1, half, far_indptr, far_indices, smallest=256)
    row_E = row_of_entry(far_indptr, far_indices.size) - share.start
    order = np.argsort(far_indices, kind="stable")
    column_E = far_indices[order].astype(np.int64)
    for _, first, block_ND in group.blocks(features_ND, N):
        low, high = np.searchsorted(column_E, [first, first + len(block_ND)])
        entry_E = order[low:high]
        in_parallel(_measure, high - low, features_ND, row_E[entry_E], block_ND, column_E[low:high] - first, entry_E,
                    far_distances, smallest=256)  # fmt: skip
    indptr = np.zeros(N + 1, np.int64)
    in_parallel(_count, share, index_NK, back_NK, k1, half, indptr[1:], smallest=256)
    np.cumsum(indptr, out=indptr)
    indices, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    in_parallel(_fill, share, features_ND, furthest_N, index_NK, back_NK, k1, half, squares, distance_NK,
                far_indptr, far_distances, indptr, indices, weights, smallest=256)  # fmt: skip
    return indptr, indices, weights


def kreciprocal_weights(
    features_ND: Array, furthest_N: Array, index_NK: Array, distance_NK: Array, k1: int, half: int | None = None,
    squares: bool = False, group: Group = ALONE,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Rows of V as CSR (indptr int64, indices int32, weights float32); every row holds its own image and sums to 1.

    Args:
        features_ND: (N, D) float32, unit rows.
        furthest_N: (N,) float32, what the distances of a row are divided by: its largest squared distance, 0 where all
            images are equal.
        index_NK: (N, K >= max(k1, half) + 1) int32, images by ascending distance, the image itself first.
        distance_NK: float32, their squared distances.
        k1: images beside the image itself whose lists must hold each other.
        half: the same for half-sized sets; None: round(k1 / 2).
        squares: whether D, the distance over that of furthest_N, is squared again.
        group: its processes hold the features, each its share, and give each other its rows.
    """
    if group.size > 1:
        half = round(k1 / 2) if half is None else half
        own = features_ND, furthest_N, index_NK, distance_NK, k1, half, squares
        return gathered_rows(kreciprocal_weights_of_share_cpu(*own, group), group)
    weights = kreciprocal_weights_cuda if on_gpu(index_NK) else kreciprocal_weights_cpu
    return weights(features_ND, furthest_N, index_NK, distance_NK, k1, half, squares)
