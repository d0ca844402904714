"""Connected components on CUDA: a forest in which every item points to a smaller one, its root to itself.

Threads join items at the same time. A root is only ever hung below a smaller root, by compare-and-swap, so whatever the
order in which threads come, the root of a component ends as its least item.
"""

from __future__ import annotations

from numba import cuda

from rapids_slr.kernels.runtime import shared


@shared
def root_of(parent_N, i):
    """The least item of the component of i; the path to it is left as it is."""
    while parent_N[i] != i:
        i = parent_N[i]
    return i


@shared
def find(parent_N, i):
    """The root of i in a forest of any shape; halves the path to it, for one thread alone."""
    while parent_N[i] != i:
        parent_N[i] = parent_N[parent_N[i]]
        i = parent_N[i]
    return i


@cuda.jit(device=True)
def join(parent_N, i, j):
    """Make the components of i and j one, and shorten the paths walked to their roots."""
    while True:
        # Others may write the same place at the same time. What any of them writes lies above, and only roots are hung
        # below others, so nothing is lost.
        while parent_N[i] != i:
            above = parent_N[parent_N[i]]
            parent_N[i] = above
            i = above
        while parent_N[j] != j:
            above = parent_N[parent_N[j]]
            parent_N[j] = above
            j = above
        if i == j:
            return
        if i < j:
            i, j = j, i
        above = cuda.atomic.cas(parent_N, i, i, j)
        if above == i:  # it was still a root
            return
        i = above  # what it was hung below meanwhile: to read it again may find what a cache holds, and never end
