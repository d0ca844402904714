"""Which refined cluster took over most of a raw one."""

from __future__ import annotations

import numpy as np
from numba import cuda

from rapids_slr.engine.arrays import Array, array_module
from rapids_slr.kernels.runtime import cpu, gpu, on_gpu, shared


@shared
def _heir(k, indptr_K, labels, counts, size_L):
    heir, most, largest, torn = -1, 0, 0, False
    for e in range(indptr_K[k], indptr_K[k + 1]):
        held, size = counts[e], size_L[labels[e]]
        if held > most or (held == most and size > largest):
            heir, most, largest, torn = labels[e], held, size, False
        elif held == most and size == largest:
            torn = True  # choosing one by its number would let the numbering decide
    return size_L.size + k if torn or heir < 0 else heir


@cpu("void(int64[::1], int32[::1], int64[::1], int64[::1], int32[::1])")
def _heirs(indptr_K, labels, counts, size_L, heir_K):
    for k in range(heir_K.size):
        heir_K[k] = _heir(k, indptr_K, labels, counts, size_L)


@gpu("void(int64[::1], int32[::1], int64[::1], int64[::1], int32[::1])")
def _heirs_cuda(indptr_K, labels, counts, size_L, heir_K):
    k = cuda.grid(1)
    if k < heir_K.size:
        heir_K[k] = _heir(k, indptr_K, labels, counts, size_L)


def heirs_cuda(indptr_K: Array, labels: Array, counts: Array, size_L: Array) -> Array:
    """`heirs` on the device, a thread to a raw cluster."""
    xp = array_module(counts)
    heir_K = xp.empty(indptr_K.size - 1, xp.int32)
    _heirs_cuda.each(heir_K.size, indptr_K, labels, counts, size_L, heir_K)
    return heir_K


def heirs_cpu(indptr_K: Array, labels: Array, counts: Array, size_L: Array) -> Array:
    heir_K = np.empty(indptr_K.size - 1, np.int32)
    _heirs(indptr_K, labels, counts, size_L, heir_K)
    return heir_K


def heirs(indptr_K: Array, labels: Array, counts: Array, size_L: Array) -> Array:
    """The refined cluster that holds most images of a raw one, int32 (K,); among equals the largest.

    Where none holds any, or the largest are equal as well, the raw cluster k gets a new number, L + k.

    Args:
        indptr_K, labels, counts: images that raw and refined clusters share, CSR of int64, int32 and positive int64.
        size_L: int64 images of each refined cluster.
    """
    return (heirs_cuda if on_gpu(counts) else heirs_cpu)(indptr_K, labels, counts, size_L)
