"""Sums over the threads of a CUDA block."""

from __future__ import annotations

from numba import cuda


@cuda.jit(device=True)
def sum_before(value, scratch_T):
    """Sum of the values of the threads before this one, and of all, in the order of threads; every thread calls it.

    scratch_T: shared memory, a place for each thread.
    """
    scratch_T[cuda.threadIdx.x] = value
    cuda.syncthreads()
    before = total = scratch_T[0] - scratch_T[0]  # 0 of the type of the values
    for thread in range(cuda.blockDim.x):
        if thread == cuda.threadIdx.x:
            before = total
        total += scratch_T[thread]
    cuda.syncthreads()
    return before, total
