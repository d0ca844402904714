"""The sum of the smallest positive values of a large array, without sorting or copying it."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.block import sum_before
from rapids_slr.kernels.runtime import THREADS, cpu, gpu, on_gpu

BINS = 2**15  # by the upper half of a float's bits, which orders positive floats
LOWEST, USUAL_BINS = (127 - 21) << 7, 24 << 7  # bins from 2^-21, of distances from 1e-6 up to 4: 128 to a power of 2
BLOCKS, SHARE = 512, 1024  # blocks at most, and values of a block at least, on CUDA


@cpu("void(int32[::1], int64[::1])")
def _histogram(bits, count_B):
    for e in range(bits.size):
        count_B[bits[e] >> 16] += 1


@cpu("float64(float32[::1], int32[::1], int64, float32[::1])")
def _split(values, bits, border, at_border):
    """Sum of the values in bins 1 .. border - 1; those in bin `border` are copied."""
    total, found = 0.0, 0
    for e in range(bits.size):
        b = bits[e] >> 16
        if 0 < b < border:
            total += values[e]
        elif b == border:
            at_border[found] = values[e]
            found += 1
    return total


@gpu("void(int32[::1], int64[::1])")
def _histogram_cuda(bits, count_B):
    """Values above 0; nearly all fall into the same few bins, which a block counts for itself before it adds to all."""
    count_S = cuda.shared.array(USUAL_BINS, np.int32)
    for b in range(cuda.threadIdx.x, USUAL_BINS, cuda.blockDim.x):
        count_S[b] = 0
    cuda.syncthreads()
    for e in range(cuda.grid(1), bits.size, cuda.gridsize(1)):
        b = bits[e] >> 16
        if LOWEST <= b < LOWEST + USUAL_BINS:
            cuda.atomic.add(count_S, b - LOWEST, 1)
        elif b > 0:
            cuda.atomic.add(count_B, b, 1)
    cuda.syncthreads()
    for b in range(cuda.threadIdx.x, USUAL_BINS, cuda.blockDim.x):
        if count_S[b] > 0:
            cuda.atomic.add(count_B, LOWEST + b, count_S[b])


@gpu("void(float32[::1], int32[::1], int64[::1], float64[::1], int64[::1])")
def _split_cuda(values, bits, border, part_G, count_L):
    """Sums, one a block, of the values in bins 1 .. border - 1; those at the border are counted by their lower half."""
    scratch = cuda.shared.array(THREADS, np.float64)
    part = 0.0
    for e in range(cuda.grid(1), bits.size, cuda.gridsize(1)):
        b = bits[e] >> 16
        if 0 < b < border[0]:
            part += np.float64(values[e])
        elif b == border[0]:
            cuda.atomic.add(count_L, bits[e] & 0xFFFF, 1)
    _, total = sum_before(part, scratch)
    if cuda.threadIdx.x == 0:
        part_G[cuda.blockIdx.x] = total


def sum_of_smallest_cuda(values: Array, count: int) -> float:
    """`sum_of_smallest` on the device, in a fixed order; the one thing that is waited for is the result."""
    xp, bits = array_module(values), values.view(np.int32)
    blocks = min(BLOCKS, -(-bits.size // SHARE))
    count_B, count_L = xp.zeros(BINS, xp.int64), xp.zeros(2**16, xp.int64)
    _histogram_cuda.blocks(blocks, bits, count_B)
    before_B, part_G = xp.cumsum(count_B), xp.empty(blocks, xp.float64)
    border = xp.sum(before_B < count, keepdims=True)
    _split_cuda.blocks(blocks, values, bits, border, part_G, count_L)
    wanted = count - before_B[border] + count_B[border]
    taken_L = xp.minimum(xp.maximum(wanted - xp.cumsum(count_L) + count_L, 0), count_L)
    value_L = (border * 2**16 + xp.arange(2**16)).astype(xp.int32).view(xp.float32)
    return float(part_G.sum() + (taken_L * value_L.astype(xp.float64)).sum())


def sum_of_smallest_cpu(values: Array, count: int) -> float:
    bits, count_B = values.view(np.int32), np.zeros(BINS, np.int64)
    _histogram(bits, count_B)
    count_B[0] = 0
    before_B = np.cumsum(count_B)
    border = int(np.searchsorted(before_B, count))
    at_border = np.empty(count_B[border], np.float32)
    total = _split(values, bits, border, at_border)
    at_border.sort()
    return total + float(at_border[: count - (before_B[border] - count_B[border])].sum(dtype=np.float64))


def sum_of_smallest(values: Array, count: int) -> float:
    """Sum in float64 of the `count` smallest positive values.

    Args:
        values: float32, none negative, those above 0 at least 1e-30.
        count: at most the number of values above 0.
    """
    return (sum_of_smallest_cuda if on_gpu(values) else sum_of_smallest_cpu)(values, count)
