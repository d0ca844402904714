"""Clusters numbered by their first image."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.runtime import cpu, gpu, on_gpu


@cpu("void(int32[::1], int32[::1], int32[::1], int32[::1])")
def _renumber(group_N, label_G, number_L, out_N):
    numbers = 0
    for i in range(group_N.size):
        label = label_G[group_N[i]]
        if label < 0:
            out_N[i] = -1
            continue
        if number_L[label] < 0:
            number_L[label] = numbers
            numbers += 1
        out_N[i] = number_L[label]


@gpu("void(int32[::1], int32[::1], int32[::1])")
def _first_image_cuda(group_N, label_G, first_L):
    i = cuda.grid(1)
    if i < group_N.size and label_G[group_N[i]] >= 0:
        cuda.atomic.min(first_L, label_G[group_N[i]], i)


def renumber_cuda(group_N: Array, label_G: Array) -> Array:
    """`renumber` on the device: the first image of a label by atomic minimum, then its rank among them."""
    xp = array_module(group_N)
    L = int(label_G.max()) + 1 if label_G.size else 0
    if not L:
        return xp.full(group_N.size, -1, xp.int32)
    first_L, number_L = xp.full(L, 2**31 - 1, xp.int32), xp.full(L + 1, -1, xp.int32)
    _first_image_cuda.each(group_N.size, group_N, label_G, first_L)
    # Labels without an image come last: they have no number that anyone reads.
    number_L[xp.argsort(first_L)] = xp.arange(L, dtype=xp.int32)
    return number_L[label_G[group_N]]  # label -1 is the last of these


def renumber_cpu(group_N: Array, label_G: Array) -> Array:
    out_N = np.empty(group_N.size, np.int32)
    number_L = np.full(int(label_G.max(initial=-1)) + 1, -1, np.int32)
    _renumber(group_N, label_G, number_L, out_N)
    return out_N


def renumber(group_N: Array, label_G: Array) -> Array:
    """Labels int32 (N,) of images whose group has a label, numbered 0, 1, ... in the order of their first images.

    Args:
        group_N: int32 group of an image, in [0, G).
        label_G: int32 label of a group; -1 is kept.
    """
    return (renumber_cuda if on_gpu(group_N) else renumber_cpu)(group_N, label_G)
