"""Nearest neighbours of every image, exactly, with one blocked matrix product."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rapids_slr.arrays import Array, array_module, as_array, require_host
from rapids_slr.errors import InputError
from rapids_slr.kernels import nearest

BLOCK = 1024  # rows of a block of the product
STRIP = 4096  # columns: 16 MB of similarities, which stay in the cache
UNIT = 1e-4  # largest deviation of a squared row norm from 1


@dataclass(frozen=True)
class Neighbours:
    """The k images nearest to each of N, by ascending distance d = max(0, 2 - 2 f_i.f_j), ties by index."""

    indices_Nk: Array
    """int32; column 0 is the image itself."""
    distances_Nk: Array
    """float32, squared Euclidean distances of unit rows, 0..4; below 1e-6 they are 0."""
    furthest_N: Array
    """float32, the largest distance of each row; 0 where all images are equal."""


def check_features(features: object, name: str = "features") -> Array:
    """Features as a contiguous float32 array (N, D), shared with the caller where they already are that.

    Args:
        features: (N, D) array or tensor of any real type; rows of unit length. float16 and bfloat16, too coarse to
            hold unit rows, are normalised again.
    Raises: InputError if the shape, type or length of rows is wrong, or values are missing; rows are named.
    """
    coarse = getattr(features, "dtype", None) in (torch.bfloat16, torch.float16, np.float16)
    x_ND = as_array(features)
    xp = array_module(x_ND)
    if x_ND.ndim != 2 or x_ND.dtype.kind not in "fiu" or 0 in x_ND.shape:
        raise InputError(f"{name}: expected (N, D) real numbers, a row an image, got {tuple(x_ND.shape)} {x_ND.dtype}")
    x_ND = xp.ascontiguousarray(x_ND, dtype=xp.float32)
    if coarse:
        x_ND = x_ND / xp.maximum(xp.linalg.norm(x_ND, axis=1, keepdims=True), np.float32(1e-12))
    square_N = xp.einsum("nd,nd->n", x_ND, x_ND)
    if not bool(xp.isfinite(square_N).all()):
        raise InputError(
            f"{name}: NaN or infinite values in {_rows(~xp.isfinite(square_N))}; "
            "look at the images behind these rows and at the network that embedded them"
        )
    off_N = xp.abs(square_N - 1) > UNIT
    if bool(off_N.any()):
        low, high = float(square_N.min()) ** 0.5, float(square_N.max()) ** 0.5
        raise InputError(
            f"{name}: expected rows of unit length, got lengths {low:.4g}..{high:.4g} in {_rows(off_N)}; "
            "divide every row by its length first (torch.nn.functional.normalize, or cluster --normalise)"
        )
    return x_ND


def _rows(bad_N: Array) -> str:
    """'3 of 100 rows: 4, 17, 56'."""
    rows = [int(row) for row in bad_N.nonzero()[0]]
    shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
    return f"{len(rows)} of {bad_N.size} rows: {shown}"


def nearest_neighbours(features_ND: Array, k: int) -> Neighbours:
    """The k nearest images of each image, the image itself included and first.

    Only the upper triangle of the product is computed, block by block; each block serves its rows and its columns.
    Ranks are settled in float64 and hence the same for every block size, thread count and library of matrix products.

    Args:
        features_ND: (N, D) float32, contiguous, finite unit rows (see check_features).
        k: neighbours, 1 <= k <= N.
    Raises: InputError if there are fewer images than neighbours.
    """
    require_host(features_ND, "features")
    N = len(features_ND)
    if not 1 <= k <= N:
        raise InputError(f"features: {N} rows, but k={k} neighbours were asked for; k must lie in [1, {N}]")
    candidates = nearest.no_candidates(N, k - 1)
    for rows, columns, block_IJ in similarity_blocks(features_ND, features_ND, upper=True):
        nearest.offer(candidates, block_IJ, rows, columns, features_ND, k - 1)
    index_Nk, distance_Nk = nearest.rank(candidates, features_ND, k - 1)
    furthest_N = np.maximum(0, 2 - 2 * candidates.least_N)
    furthest_N[furthest_N < nearest.ZERO] = 0
    return Neighbours(index_Nk, distance_Nk, furthest_N)


def similarity_blocks(x_ND: np.ndarray, y_MD: np.ndarray, upper: bool = False) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (row, column, block) over the product x y^T; a block is overwritten by the next one.

    Args:
        upper: leave out what lies below the diagonal; the squares on it come first.
    """
    x, y = _tensor(x_ND), _tensor(y_MD)
    space = torch.empty(min(BLOCK, len(x)) * min(STRIP, len(y)))
    rows = range(0, len(x), BLOCK)
    diagonal = [(row, row, row + BLOCK) for row in rows] if upper else []
    strips = [(row, c, c + STRIP) for row in rows for c in range(row + BLOCK if upper else 0, len(y), STRIP)]
    for row, column, end in diagonal + strips:
        left, right = x[row : row + BLOCK], y[column:end]
        block = space[: len(left) * len(right)].view(len(left), len(right))
        torch.mm(left, right.T, out=block)
        yield row, column, block.numpy()


def _tensor(x_ND: np.ndarray) -> torch.Tensor:
    """A tensor that shares memory; torch cannot mark it as read-only, but nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(x_ND)
