"""The nearest rows on CUDA: candidates from blocks of an inexact product, settled in float64.

A block of the product holds the similarities of some images with all N. Of these, a histogram keeps for every image
what may be among its k nearest or be its furthest once the product's rounding is allowed for. Only these few are
measured again, in float64, so that ranks depend neither on the product's precision nor on its blocks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.nearest import distance_of
from rapids_slr.kernels.runtime import THREADS, gpu, shared

BINS = 4096  # of a histogram over similarities from -1 to 1
GROUPS = 64  # of bins, counted together to find one fast
BINS_OF_A_GROUP = BINS // GROUPS
ONE, BINS_OF_ONE = np.float32(1), np.float32(BINS / 2)
FAR = 2**63 - 1  # no column
TOGETHER = 8  # inner products that a block sums at the same time
MOST_THREADS = THREADS
PICK_THREADS: int | None = None
"""Threads a block of `_pick_cuda`, which reads all similarities; None for as many as other kernels have."""


class Lists(NamedTuple):
    """Candidates of I images, C places each: from the front the near ones and the image itself, from the back the far.

    An image whose near and far ones would meet has no list.
    """

    index_IC: Array  # int32
    distance_IC: Array  # float64
    near_I: Array  # int32: how many there are, also where they do not fit
    far_I: Array


class Nearest(NamedTuple):
    """Results of N images, as `nearest.rank` gives them, and the images whose candidates did not fit."""

    index_NK: Array  # int32
    distance_NK: Array  # float32
    furthest_N: Array  # float32
    unsettled_N: Array  # bool


def bytes_of_a_row(N: int, room: int) -> int:
    """Memory that a row of a block needs: its similarities and its list."""
    return 4 * N + 12 * room + 8


def no_lists(xp, rows: int, room: int) -> Lists:
    """Lists with `room` places for each row of a block."""
    return Lists(
        xp.empty((rows, room), xp.int32),
        xp.empty((rows, room), xp.float64),
        xp.empty(rows, xp.int32),
        xp.empty(rows, xp.int32),
    )


@shared
def _bin_of(similarity):
    return min(max(np.int32((similarity + ONE) * BINS_OF_ONE), 0), BINS - 1)


@cuda.jit(device=True)
def _least_first(similarity, j):
    """A number that orders pairs by similarity, to 2^-28, and then by column, of which there are up to 2^32."""
    return np.int64((np.float64(similarity) + 2) * 2.0**28) << 32 | j


@cuda.jit(device=True)
def _limits(count_B, count_G, k):
    """The bin of the k-th largest similarity and that of the smallest; count_G: what the groups of bins hold."""
    g, wanted = GROUPS - 1, k
    while g > 0 and count_G[g] < wanted:
        wanted -= count_G[g]
        g -= 1
    lowest = (g + 1) * BINS_OF_A_GROUP - 1
    while lowest > 0 and count_B[lowest] < wanted:
        wanted -= count_B[lowest]
        lowest -= 1
    g = 0
    while g < GROUPS - 1 and count_G[g] == 0:
        g += 1
    highest = g * BINS_OF_A_GROUP
    while highest < BINS - 1 and count_B[highest] == 0:
        highest += 1
    return lowest, highest


@gpu("void(float32[:, ::1], int64[::1], int64, int64, boolean, int32[:, ::1], int32[::1], int32[::1])")
def _pick_cuda(similarity_IN, image_I, k, reach, one_far, index_IC, near_I, far_I):
    """A block to an image: list the columns within `reach` bins of the k-th largest and of the smallest.

    one_far: of the latter list the one that is least.
    """
    r, t = cuda.blockIdx.x, cuda.threadIdx.x
    i, N, C = image_I[r], similarity_IN.shape[1], index_IC.shape[1]
    count_B = cuda.shared.array(BINS, np.int32)
    count_G = cuda.shared.array(GROUPS, np.int32)
    limits = cuda.shared.array(2, np.int32)  # lowest bin of the near, highest of the far
    found = cuda.shared.array(2, np.int32)
    furthest = cuda.shared.array(1, np.int64)
    for b in range(t, BINS, cuda.blockDim.x):
        count_B[b] = 0
    if t == 0:
        furthest[0] = FAR
    cuda.syncthreads()
    least = np.int64(FAR)
    for j in range(t, N, cuda.blockDim.x):
        if j != i:
            cuda.atomic.add(count_B, _bin_of(similarity_IN[r, j]), 1)
            if one_far:
                least = min(least, _least_first(similarity_IN[r, j], j))
    if least < FAR:
        cuda.atomic.min(furthest, 0, least)
    cuda.syncthreads()
    for g in range(t, GROUPS, cuda.blockDim.x):
        total = 0
        for b in range(g * BINS_OF_A_GROUP, (g + 1) * BINS_OF_A_GROUP):
            total += count_B[b]
        count_G[g] = total
    cuda.syncthreads()
    if t == 0:
        lowest, highest = _limits(count_B, count_G, k)
        limits[0] = lowest - reach if k > 0 else BINS
        limits[1] = -1 if one_far else highest + reach
        found[0] = found[1] = 0
        if furthest[0] < FAR:
            index_IC[r, C - 1] = furthest[0] & 0xFFFFFFFF
            found[1] = 1
    cuda.syncthreads()
    lowest, highest = limits[0], limits[1]
    for j in range(t, N, cuda.blockDim.x):
        b = _bin_of(similarity_IN[r, j])
        if b >= lowest and j != i:
            place = cuda.atomic.add(found, 0, 1)
            if place < C:
                index_IC[r, place] = j
        if b <= highest and j != i:
            place = cuda.atomic.add(found, 1, 1)
            if place < C:
                index_IC[r, C - 1 - place] = j
    cuda.syncthreads()
    if t == 0:
        near_I[r], far_I[r] = found[0], found[1]
        if found[0] + found[1] < C:
            index_IC[r, found[0]] = i


@cuda.jit(device=True)
def _place(r, c, near, k, index_IC, distance_IC):
    """Place of candidate c among the near ones of image r by (distance, index), from 1; k + 1 for all beyond k."""
    place, e = 1, 0
    while e < near and place <= k:
        nearer = distance_IC[r, e] < distance_IC[r, c]
        if nearer or (distance_IC[r, e] == distance_IC[r, c] and index_IC[r, e] < index_IC[r, c]):
            place += 1
        e += 1
    return place


@gpu(
    "void(float32[:, ::1], int64[::1], int32[:, ::1], float64[:, ::1], int32[::1], int32[::1],"
    " int32[:, ::1], float32[:, ::1], float32[::1], boolean[::1])"
)
def _settle_cuda(features_ND, image_I, index_IC, distance_IC, near_I, far_I,
                 index_NK, distance_NK, furthest_N, unsettled_N):  # fmt: skip
    """A block to an image: measure its candidates, and write the nearest by (distance, index)."""
    r, t = cuda.blockIdx.x, cuda.threadIdx.x
    i, D, C, k = image_I[r], features_ND.shape[1], index_IC.shape[1], index_NK.shape[1] - 1
    near, far = near_I[r], far_I[r]
    if near + far >= C:
        if t == 0:
            unsettled_N[i] = True
        return
    sums = cuda.shared.array((TOGETHER, MOST_THREADS), np.float64)
    place_T = cuda.local.array(TOGETHER, np.int32)
    other_T = cuda.local.array(TOGETHER, np.int32)
    sum_T = cuda.local.array(TOGETHER, np.float64)
    entries = near + 1 + far
    for first in range(0, entries, TOGETHER):
        for g in range(TOGETHER):
            e = min(first + g, entries - 1)
            place_T[g] = e if e <= near else C - entries + e
            other_T[g] = index_IC[r, place_T[g]]
            sum_T[g] = 0.0
        for d in range(t, D, cuda.blockDim.x):
            x = np.float64(features_ND[i, d])
            for g in range(TOGETHER):
                sum_T[g] += x * np.float64(features_ND[other_T[g], d])
        for g in range(TOGETHER):
            sums[g, t] = sum_T[g]
        cuda.syncthreads()
        half = cuda.blockDim.x // 2
        while half > 0:
            if t < half:
                for g in range(TOGETHER):
                    sums[g, t] += sums[g, t + half]
            cuda.syncthreads()
            half //= 2
        if t == 0:
            for g in range(TOGETHER):
                distance_IC[r, place_T[g]] = distance_of(sums[g, 0])
        cuda.syncthreads()

    for c in range(t, near, cuda.blockDim.x):
        place = _place(r, c, near, k, index_IC, distance_IC)
        if place <= k:
            index_NK[i, place] = index_IC[r, c]
            distance_NK[i, place] = distance_IC[r, c]
    furthest = distance_IC[r, near]
    for c in range(C - far + t, C, cuda.blockDim.x):
        furthest = max(furthest, distance_IC[r, c])
    sums[0, t] = furthest
    cuda.syncthreads()
    if t == 0:
        for other in range(cuda.blockDim.x):
            furthest = max(furthest, sums[0, other])
        furthest_N[i] = furthest
        index_NK[i, 0] = i
        distance_NK[i, 0] = distance_IC[r, near]


def pick(similarity_IN: Array, image_I: Array, k: int, rounding: float, lists: Lists, one_far: bool = False) -> None:
    """Fill the lists of images int64 (I,), each a row of similarities with all N, itself included.

    Args:
        k: nearest others that are wanted.
        rounding: bound on |similarity_IN - exact inner product|.
        one_far: list the one that is furthest by the product, however many are as far within its rounding.
    """
    reach = math.ceil(rounding * BINS) + 1  # twice the rounding in bins; 1 for the rounding of a bin
    index_IC, _, near_I, far_I = lists
    _pick_cuda.blocks(
        image_I.size, similarity_IN, image_I, k, reach, one_far, index_IC, near_I, far_I, threads=PICK_THREADS
    )


def settle(features_ND: Array, image_I: Array, lists: Lists, nearest: Nearest) -> None:
    """Write the results of the images that have lists; mark the others in `unsettled_N`."""
    _settle_cuda.blocks(image_I.size, features_ND, image_I, *lists, *nearest)


def no_results(features_ND: Array, k: int) -> Nearest:
    """Room for the results of all images, none of which is unsettled yet."""
    xp, N = array_module(features_ND), len(features_ND)
    return Nearest(
        xp.empty((N, k + 1), xp.int32), xp.empty((N, k + 1), xp.float32), xp.empty(N, xp.float32), xp.zeros(N, xp.bool_)
    )
