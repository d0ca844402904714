"""Clusters numbered by their first image."""

from __future__ import annotations

import numpy as np

from rapids_slr.kernels import cpu


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


def renumber(group_N: np.ndarray, label_G: np.ndarray) -> np.ndarray:
    """Labels int32 (N,) of images whose group has a label, numbered 0, 1, ... in the order of their first images.

    Args:
        group_N: int32 group of an image, in [0, G).
        label_G: int32 label of a group; -1 is kept.
    """
    out_N = np.empty(group_N.size, np.int32)
    number_L = np.full(int(label_G.max(initial=-1)) + 1, -1, np.int32)
    _renumber(group_N, label_G, number_L, out_N)
    return out_N
