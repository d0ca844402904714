"""All pairs of rows of a sparse matrix that share a column, with a sum over the columns they share. For CUDA alone.

The matrix and its transpose lead from a row to its columns and on to the rows that share them. A block of threads adds
up one row after another in an array as long as there are rows. Marks of a bit each say which of its places are taken,
32 to a word, and marks above them which words hold any: so what a row takes grows with what it shares, not with the
number of rows, and pairs come in ascending order. Values are whole numbers, so sums do not depend on the order in which
threads add.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module, take_rows
from rapids_slr.kernels.block import sum_before
from rapids_slr.kernels.runtime import THREADS, gpu

BLOCKS = 512  # at most; four for each multiprocessor of a large GPU
SPACE = 4 * 2**30  # bytes that the sums of all blocks may take, if one row fits: enough for BLOCKS at a million rows
LANES = 32  # threads that go through a column side by side


@gpu("void(int32[::1], int64[::1])")
def _count_columns_cuda(indices, size_C):
    e = cuda.grid(1)
    if e < indices.size:
        cuda.atomic.add(size_C, indices[e], 1)


@gpu("void(int64[::1], int32[::1], int64[::1], int64[::1], int32[::1], int64[::1])")
def _transpose_cuda(indptr, indices, values, following_C, rows, column_values):
    """Put the entries of row i, a block to a row, where their columns go on; the order within a column is open."""
    i = cuda.blockIdx.x
    for e in range(indptr[i] + cuda.threadIdx.x, indptr[i + 1], cuda.blockDim.x):
        place = cuda.atomic.add(following_C, indices[e], 1)
        rows[place] = i
        column_values[place] = values[e]


@cuda.jit(device=True)
def _add_up(i, own, indptr, indices, values, column_indptr, rows, column_values, product, seen_W, some_V, sum_N):
    """Mark the rows but `own` that share a column with row i and, unless sum_N is empty, add up what they share."""
    lanes = min(LANES, cuda.blockDim.x)
    group, lane = cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
    for e in range(indptr[i] + group, indptr[i + 1], cuda.blockDim.x // lanes):
        value = values[e]
        for q in range(column_indptr[indices[e]] + lane, column_indptr[indices[e] + 1], lanes):
            j = rows[q]
            if j != own:
                before = cuda.atomic.or_(seen_W, j >> 5, np.uint32(1 << (j & 31)))
                if before == 0:  # the first of its word
                    cuda.atomic.or_(some_V, j >> 10, np.uint32(1 << ((j >> 5) & 31)))
                if sum_N.size:
                    other = column_values[q]
                    cuda.atomic.add(sum_N, j, value * other if product else min(value, other))
    cuda.syncthreads()


@cuda.jit(device=True)
def _share(words):
    """The first of the words of this thread, and the first after them: each has as many as the next, in order."""
    share = -(-words // cuda.blockDim.x)
    first = share * cuda.threadIdx.x
    return min(first, words), min(first + share, words)


@cuda.jit(device=True)
def _marked(some_V, v, first, last):
    """The words 32 v to 32 v + 31 that hold a mark, as bits, but for those outside of first to last."""
    low, high = max(first - 32 * v, 0), min(last - 32 * v, 32)
    return np.uint32(np.int64(some_V[v]) & ((1 << high) - (1 << low)))


@cuda.jit(device=True)
def _enough(seen_W, some_V, sum_N, least, first, last):
    """How many of the rows that are marked in these words have a sum of `least` or more."""
    found = 0
    for v in range(first >> 5, (last + 31) >> 5):
        marked = _marked(some_V, v, first, last)
        while marked:
            w = 32 * v + cuda.ffs(marked) - 1
            marked &= np.uint32(marked - np.uint32(1))
            seen = seen_W[w]
            while seen:
                found += sum_N[32 * w + cuda.ffs(seen) - 1] >= least
                seen &= np.uint32(seen - np.uint32(1))
    return found


@cuda.jit(device=True)
def _clear(some_V):
    """Take the upper marks away, once all threads are through with them."""
    cuda.syncthreads()
    for v in range(cuda.threadIdx.x, some_V.size, cuda.blockDim.x):
        some_V[v] = 0
    cuda.syncthreads()


@gpu("void(int32[::1], int64[::1], int32[::1], int64[::1], int64[::1], int32[::1], int64[::1], boolean, int64,"
     " uint32[:, ::1], uint32[:, ::1], int64[:, ::1], int64[::1])")  # fmt: skip
def _count_cuda(own_R, indptr, indices, values, column_indptr, rows, column_values, product, least,
                seen_BW, some_BV, sum_BN, size_R):  # fmt: skip
    """size_R: rows that share a column and, unless there are no places for sums, `least` or more."""
    seen_W, some_V, sum_N = seen_BW[cuda.blockIdx.x], some_BV[cuda.blockIdx.x], sum_BN[cuda.blockIdx.x]
    first, last = _share(seen_W.size)
    for i in range(cuda.blockIdx.x, own_R.size, cuda.gridDim.x):
        _add_up(
            i, own_R[i], indptr, indices, values, column_indptr, rows, column_values, product, seen_W, some_V, sum_N
        )
        found = 0
        for v in range(first >> 5, (last + 31) >> 5):
            marked = _marked(some_V, v, first, last)
            while marked:
                w = 32 * v + cuda.ffs(marked) - 1
                marked &= np.uint32(marked - np.uint32(1))
                seen = seen_W[w]
                seen_W[w] = 0
                if not sum_N.size:
                    found += cuda.popc(seen)
                while seen and sum_N.size:
                    j = 32 * w + cuda.ffs(seen) - 1
                    seen &= np.uint32(seen - np.uint32(1))
                    found += sum_N[j] >= least
                    sum_N[j] = 0
        cuda.atomic.add(size_R, i, found)
        _clear(some_V)


@gpu("void(int32[::1], int64[::1], int32[::1], int64[::1], int64[::1], int32[::1], int64[::1], boolean, int64,"
     " uint32[:, ::1], uint32[:, ::1], int64[:, ::1], int64[::1], int32[::1], int64[::1])")  # fmt: skip
def _fill_cuda(own_R, indptr, indices, values, column_indptr, rows, column_values, product, least,
               seen_BW, some_BV, sum_BN, out_indptr, out_indices, out_values):  # fmt: skip
    scratch = cuda.shared.array(THREADS, np.int64)
    seen_W, some_V, sum_N = seen_BW[cuda.blockIdx.x], some_BV[cuda.blockIdx.x], sum_BN[cuda.blockIdx.x]
    first, last = _share(seen_W.size)
    for i in range(cuda.blockIdx.x, own_R.size, cuda.gridDim.x):
        _add_up(
            i, own_R[i], indptr, indices, values, column_indptr, rows, column_values, product, seen_W, some_V, sum_N
        )
        before, _ = sum_before(_enough(seen_W, some_V, sum_N, least, first, last), scratch)
        place = out_indptr[i] + before
        for v in range(first >> 5, (last + 31) >> 5):
            marked = _marked(some_V, v, first, last)
            while marked:
                w = 32 * v + cuda.ffs(marked) - 1
                marked &= np.uint32(marked - np.uint32(1))
                seen = seen_W[w]
                seen_W[w] = 0
                while seen:
                    j = 32 * w + cuda.ffs(seen) - 1
                    seen &= np.uint32(seen - np.uint32(1))
                    if sum_N[j] >= least:
                        out_indices[place] = j
                        out_values[place] = sum_N[j]
                        place += 1
                    sum_N[j] = 0
        _clear(some_V)


class SharedPairs(NamedTuple):
    """Pairs of rows that share a column: CSR, columns ascending."""

    indptr: Array
    """int64."""
    indices: Array
    """int32."""
    values: Array
    """int64, sums over the shared columns."""


def pairs_sharing_columns(
    indptr: Array,
    indices: Array,
    values: Array,
    columns: int,
    combine: Literal["min", "product"],
    least: int = 0,
    row_R: Array | None = None,
) -> SharedPairs:
    """All pairs of rows that share a column, both triangles without the diagonal.

    Args: a CSR matrix of N rows, each column at most once in a row, in any order.
        indptr: int64 (N + 1,).
        indices: int32, in [0, columns).
        values: int64, none negative; sums of what is combined must stay below 2^63.
        combine: what two rows share in a column: the lesser of their values, or the product.
        least: pairs with a smaller sum are left out.
        row_R: int32, rows whose pairs are wanted, each with all other rows; None: every row.
    Returns: a row for each that is wanted. The same for every number of threads and blocks.
    """
    xp, N = array_module(indptr), indptr.size - 1
    column_indptr, rows, column_values = xp.zeros(columns + 1, xp.int64), xp.empty_like(indices), xp.empty_like(values)
    _count_columns_cuda.each(indices.size, indices, column_indptr[1:])
    column_indptr = xp.cumsum(column_indptr)
    _transpose_cuda.blocks(N, indptr, indices, values, column_indptr[:-1].copy(), rows, column_values)
    if row_R is None:
        row_R = xp.arange(N, dtype=xp.int32)
    else:
        indptr, place = take_rows(indptr, row_R)
        indices, values = indices[place], values[place]
    matrix = row_R, indptr, indices, values, column_indptr, rows, column_values, combine == "product", least

    R, words = row_R.size, -(-N // 32)
    blocks = min(R, BLOCKS, max(1, SPACE // (8 * N + 4 * words))) if R else 0
    seen_BW, some_BV = (xp.zeros((blocks, size), xp.uint32) for size in (words, -(-words // 32)))
    sum_BN = xp.zeros((blocks, N), xp.int64)
    out_indptr = xp.zeros(R + 1, xp.int64)
    # Where every sum is enough, none has to be known to count.
    counted_BN = sum_BN if least > 0 else xp.empty((max(blocks, 1), 0), xp.int64)
    _count_cuda.blocks(blocks, *matrix, seen_BW, some_BV, counted_BN, out_indptr[1:])
    out_indptr = xp.cumsum(out_indptr)
    pairs = int(out_indptr[-1])
    out_indices, out_values = xp.empty(pairs, xp.int32), xp.empty(pairs, xp.int64)
    _fill_cuda.blocks(blocks, *matrix, seen_BW, some_BV, sum_BN, out_indptr, out_indices, out_values)
    return SharedPairs(out_indptr, out_indices, out_values)
