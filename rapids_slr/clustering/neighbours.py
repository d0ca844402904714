"""Nearest neighbours of every image, exactly, with one blocked matrix product."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from rapids_slr.clustering.tiles import multiply
from rapids_slr.engine import blocks
from rapids_slr.engine.arrays import Array, array_module, as_array
from rapids_slr.engine.memory import memory_advice, out_of_memory
from rapids_slr.errors import InputError, RunError
from rapids_slr.group import ALONE, Group
from rapids_slr.kernels import nearest, nearest_cuda
from rapids_slr.kernels.runtime import on_gpu
from rapids_slr.marks import step

SPACE = 4 * 2**30  # bytes that a block on CUDA, of whole rows, may take
FEWEST_ROWS = 16  # of a block on CUDA: with less memory the search gives up
COARSE = 3_072  # images from which on a product in bfloat16 may pay
A_PAIR = 130  # multiplications in whose time a similarity is looked at; measured, as is the next
A_NEIGHBOUR = 2_500  # products of rows of D + 256, in whose time NN-descent finds a neighbour
SPARE = 128  # places in a list of candidates beyond four times the neighbours
SAMPLE = 512  # images whose exact lists tell the recall of an approximate search
FAR_SAMPLE = 16_384  # images among which an approximate search takes the furthest, which scales all weights of a row
RECALL = 0.99  # below, it warns
CROWD = 0.1  # share of images with more candidates than a list holds from which on features may be nearly alike
ALIKE = 0.1  # mean squared distance of features from their mean below which a product in TF32 takes what they differ by
DEGREE = 64  # of the graph that an approximate search improves, at least
WITHOUT_MEMORY = "free GPU memory, use fewer images, or run with --device cpu"
UNIT = 1e-4  # largest deviation of a squared row norm from 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Neighbours:
    """The k images nearest to each of N, by ascending distance d = max(0, 2 - 2 f_i.f_j), ties by index."""

    indices_Nk: Array
    """int32; column 0 is the image itself."""
    distances_Nk: Array
    """float32, squared Euclidean distances of unit rows, 0..4; below 1e-6 they are 0."""
    furthest_N: Array
    """float32, the largest distance of each row; 0 where all images are equal."""
    recall: float | None = None
    """Share of the neighbours that an approximate search found, measured on SAMPLE images; None for an exact one."""


def check_features(features: object, name: str = "features", first: int = 0) -> Array:
    """Features as a contiguous float32 array (N, D), shared with the caller where they already are that.

    Args:
        features: (N, D) array or tensor of any real type; rows of unit length. float16 and bfloat16, too coarse to
            hold unit rows, are normalised again.
        first: the number by which messages name the first row.
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
    square_N = _squared_lengths(x_ND)
    # Negated, so that NaN is off too.
    off_N = ~(xp.abs(square_N - 1) <= UNIT)
    if not bool(off_N.any()):  # on CUDA the only wait
        return x_ND
    if not bool(xp.isfinite(square_N).all()):
        raise InputError(
            f"{name}: NaN or infinite values in {_rows(~xp.isfinite(square_N), first)}; "
            "look at the images behind these rows and at the network that embedded them"
        )
    low, high = float(square_N.min()) ** 0.5, float(square_N.max()) ** 0.5
    raise InputError(
        f"{name}: expected rows of unit length, got lengths {low:.4g}..{high:.4g} in {_rows(off_N, first)}; "
        "divide every row by its length first (torch.nn.functional.normalize, or cluster --normalise)"
    )


def _squared_lengths(x_ND: Array) -> Array:
    """Without a second array (N, D), which NumPy's norm would make."""
    xp = array_module(x_ND)
    return np.einsum("nd,nd->n", x_ND, x_ND) if xp is np else xp.square(xp.linalg.norm(x_ND, axis=1))


def _rows(bad_N: Array, first: int) -> str:
    """'3 of 100 rows: 4, 17, 56'."""
    rows = bad_N.nonzero()[0] + first
    shown = ", ".join(map(str, rows[:10].tolist())) + (", ..." if rows.size > 10 else "")
    return f"{rows.size} of {bad_N.size} rows: {shown}"


@step("neighbours")
def nearest_neighbours(
    features_ND: Array,
    k: int,
    approximate: bool = False,
    progress: Callable[[int], None] | None = None,
    group: Group = ALONE,
) -> Neighbours:
    """The k nearest images of each image, the image itself included and first.

    Ranks are settled in float64 and hence the same for every block size, thread count, engine and library of matrix
    products. On the CPU only the upper triangle of the product is computed; a block serves its rows and its columns.

    Args:
        features_ND: (N, D) float32, contiguous, finite unit rows (see check_features), NumPy or CuPy.
        k: neighbours, 1 <= k <= N.
        approximate: for some 100,000 rows and more: miss some neighbours, but do without N^2 D multiplications. By
            pynndescent, on CUDA by cuVS.
        progress: called with numbers of images, N in all, as the search goes on.
        group: its processes hold the features of the CPU, each its share; they search together, exactly.
    Raises: InputError if there are fewer images than neighbours, or an approximate search is not to be had; RunError
        if GPU memory does not suffice.
    """
    N = group.total(len(features_ND))
    if not 1 <= k <= N:
        raise InputError(f"features: {N} rows, but k={k} neighbours were asked for; k must lie in [1, {N}]")
    if group.size > 1:
        from rapids_slr.clustering.shares import nearest_of_shares_cpu  # stands on this module

        return nearest_of_shares_cpu(features_ND, N, k - 1, group, progress)
    if approximate and 1 < k <= N // 4:
        if on_gpu(features_ND):
            return nearest_approximately(features_ND, k - 1)
        from rapids_slr.clustering.descent import nearest_by_descent_cpu  # stands on this module

        return nearest_by_descent_cpu(features_ND, k - 1)
    return (nearest_on_cuda if on_gpu(features_ND) else nearest_on_cpu)(features_ND, k - 1, progress)


def takes_approximate(search: str, N: int, D: int, k: int, shared: bool) -> tuple[bool, str]:
    """Whether to search approximately, and why: asked for, or for `auto` where that takes less time on this CPU.

    Args:
        k: neighbours, the image itself included.
        shared: the work is a GPU's, or that of several processes, for which `auto` is `exact`: no process then has to
            ask the others how fast they are.
    """
    if search != "auto":
        return search == "approximate", "as asked for"
    if shared:
        return False, "exact: auto has no other on CUDA and in several processes"
    float32, bfloat16 = blocks.speed()
    multiplication = bfloat16 if bfloat16 is not None and blocks.bfloat16_pays()[0] and N >= COARSE else float32
    exact = N * N / 2 * (D * multiplication + A_PAIR * float32)
    approximate = N * k * A_NEIGHBOUR * (D + 256) * float32
    shorter, longer = ("approximate", "exact") if approximate < exact else ("exact", "approximate")
    low, high = sorted([exact, approximate])
    return approximate < exact, (
        f"{shorter}: of {N:,} images it should take {low:,.0f} s on this machine, an {longer} one {high:,.0f} s"
    )


def nearest_on_cpu(features_ND: np.ndarray, k: int, progress: Callable[[int], None] | None = None) -> Neighbours:
    """Every image, then its k nearest others; from a product in bfloat16 where that pays."""
    N = len(features_ND)
    own = nearest.part(features_ND, similarities_cpu(features_ND, N, k), k)
    multiply(own, own, by_pairs(progress, N, N**2))
    return Neighbours(*nearest.rank(own))


def similarities_cpu(features_ND: np.ndarray, N: int, k: int, group: Group = ALONE) -> nearest.Similarities:
    """Rows to multiply, of N images in all, and how exact their product is."""
    of = nearest.similarities(features_ND, group=group)
    pays = N >= COARSE and group.total(int(blocks.bfloat16_pays()[0])) == group.size
    return (nearest.in_bfloat16_cpu(of, k, group) if pays else None) or of


def by_pairs(progress: Callable[[int], None] | None, N: int, pairs: int) -> Callable[[int], None]:
    """Tells `progress` of N images in all as numbers of pairs come in, `pairs` in all."""
    seen = 0

    def tell(more: int) -> None:
        nonlocal seen
        told, seen = seen * N // pairs, seen + more
        if progress is not None:
            progress(seen * N // pairs - told)

    return tell


@memory_advice("nearest neighbours", WITHOUT_MEMORY)
def nearest_on_cuda(features_ND: Array, k: int, progress: Callable[[int], None] | None = None) -> Neighbours:
    """`nearest_on_cpu` on the device, from a product in TF32, of 10 bits, into short lists of candidates.

    Images with more candidates than a list holds, many equal or all much alike, have theirs from a product in float32
    into lists of any length, and of the furthest only the one that this product finds, as on the CPU. Beyond features
    and results it takes SPACE at most.
    """
    found = nearest_cuda.no_results(features_ND, k)
    _settle(features_ND, array_module(features_ND).arange(len(features_ND)), k, found, progress)
    return Neighbours(found.index_NK, found.distance_NK, found.furthest_N)


@memory_advice("approximate neighbours", WITHOUT_MEMORY)
def nearest_approximately(features_ND: Array, k: int) -> Neighbours:
    """`nearest_on_cuda` among the images that NN-descent (cuVS) finds near; distances and their order are exact.

    furthest_N is an image's largest distance to FAR_SAMPLE others, and hence may be a little low. SAMPLE images are
    searched exactly, as are those for which NN-descent finds too few.
    """
    xp, N = array_module(features_ND), len(features_ND)
    found = nearest_cuda.no_results(features_ND, k)
    near_NC = _descend(features_ND, min(max(2 * k, DEGREE), N - 1))
    for first in range(0, N, blocks.BLOCK):
        image_I = xp.arange(first, min(first + blocks.BLOCK, N))
        nearest_cuda.settle(features_ND, image_I, _lists(image_I, near_NC[first : first + blocks.BLOCK], N, k), found)
    # Evenly spread and not drawn: the same features have the same recall.
    sample = xp.arange(SAMPLE) * N // SAMPLE
    furthest_of_sample(features_ND, found.furthest_N)
    few, before, exact_S = xp.flatnonzero(found.unsettled_N), found.distance_NK[sample, 1:], found.unsettled_N[sample]
    found.unsettled_N[:] = False
    _settle(features_ND, xp.concatenate([sample, few]), k, found)
    # By distance, as an image that ties with the last is no miss. Who has no list yet has no distances either, and gets
    # exact ones.
    recall = float(((before <= found.distance_NK[sample, -1:]) | exact_S[:, None]).mean())
    log.log(
        logging.INFO if recall >= RECALL else logging.WARNING,
        "nearest neighbours: the approximate search found %.2f %% of those of %d images",
        100 * recall,
        SAMPLE,
    )
    furthest_N = xp.maximum(found.furthest_N, found.distance_NK[:, -1])
    return Neighbours(found.index_NK, found.distance_NK, xp.where(furthest_N < nearest.ZERO, 0, furthest_N), recall)


def furthest_of_sample(features_ND: Array, furthest_N: Array) -> None:
    """Raise furthest_N to the largest distances to FAR_SAMPLE images, evenly spread: the same for the same features."""
    xp, N = array_module(features_ND), len(features_ND)
    some = min(FAR_SAMPLE, N)
    sample_SD = features_ND[xp.arange(some) * N // some] if some < N else features_ND
    for row, _, block_IJ in blocks.similarity_blocks(features_ND, sample_SD):
        part = furthest_N[row : row + len(block_IJ)]
        xp.maximum(part, 2 - 2 * block_IJ.min(axis=1), out=part)


def _descend(features_ND: Array, degree: int) -> Array:
    """Numbers int64 (N, degree) of near images, in any order; itself, gaps and repetitions may be among them."""
    try:
        from cuvs.common import Resources
        from cuvs.neighbors import all_neighbors, nn_descent
    except ImportError as fault:
        raise InputError(
            f"approximate: needs cuVS ({fault}); pip install cuvs-cu13, or cuvs-cu12 for CUDA 12, or search exactly"
        ) from fault
    import cupy

    descent = nn_descent.IndexParams(metric="sqeuclidean", graph_degree=degree, intermediate_graph_degree=2 * degree)
    params = all_neighbors.AllNeighborsParams(algo="nn_descent", metric="sqeuclidean", nn_descent_params=descent)
    near_NC = array_module(features_ND).empty((len(features_ND), degree), np.int64)
    resources = Resources(stream=cupy.cuda.get_current_stream().ptr)
    all_neighbors.build(features_ND, degree, params, indices=near_NC, resources=resources)
    resources.sync()
    return near_NC


def _lists(image_I: Array, near_IC: Array, N: int, k: int) -> nearest_cuda.Lists:
    """Lists of the distinct other images; one of fewer than k counts as one that does not fit."""
    xp, (rows, C) = array_module(near_IC), near_IC.shape
    # Gaps become N, which sorts to the end. Sorted once, repetitions lie side by side; they become N too, and a second
    # time puts them behind the rest.
    gap_IC = (near_IC < 0) | (near_IC == image_I[:, None])
    near_IC = xp.sort(xp.where(gap_IC, N, near_IC), axis=1)
    again_IC = xp.concatenate([xp.zeros((rows, 1), xp.bool_), near_IC[:, 1:] == near_IC[:, :-1]], axis=1)
    near_IC = xp.sort(xp.where(again_IC, N, near_IC), axis=1)
    near_I = (near_IC < N).sum(axis=1)
    index_IC = xp.concatenate([near_IC, image_I[:, None]], axis=1).astype(xp.int32)
    index_IC[xp.arange(rows), near_I] = image_I
    # Longer than a list can be: found unsettled, and searched exactly.
    near_I = xp.where(near_I < k, C + 1, near_I).astype(xp.int32)
    return nearest_cuda.Lists(index_IC, xp.empty((rows, C + 1), xp.float64), near_I, xp.zeros(rows, xp.int32))


def _settle(
    features_ND: Array,
    image_I: Array,
    k: int,
    found: nearest_cuda.Nearest,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Find the neighbours of images int64 (I,) exactly."""
    xp, (N, D) = array_module(features_ND), features_ND.shape
    room, rounding = min(4 * k + SPARE, 2 * N), 2 * nearest.rounding(D)  # tensor cores cut off where others round
    plain = nearest.Similarities(features_ND, None, 0.0, 1.0, nearest.rounding(D))
    # Of both factors, of length 1 at most, TF32 loses 2^-10.
    _search(features_ND, image_I, k, room, 2.01 * 2.0**-10 + rounding, "tf32", found, plain, progress)
    crowded = xp.flatnonzero(found.unsettled_N)  # the only wait
    if crowded.size > CROWD * N and (of := nearest.similarities(features_ND, ALIKE, wide=True)).shift_N is not None:
        found.unsettled_N[crowded] = False
        # What is nearer than ZERO is equal, however far the scale parts it.
        apart = 2.01 * 2.0**-10 + 2 * of.rounding + of.scale * nearest.ZERO
        _search(features_ND, crowded, k, room, apart, "tf32", found, of)
        crowded = xp.flatnonzero(found.unsettled_N)
    _search(features_ND, crowded, k, N + 2, rounding, "ieee", found, plain)


def _search(
    features_ND: Array,
    image_I: Array,
    k: int,
    room: int,
    rounding: float,
    precision: str,
    found: nearest_cuda.Nearest,
    of: nearest.Similarities,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Settle images int64 (I,) block by block, in smaller blocks when memory runs out."""
    xp, N, x = array_module(features_ND), len(features_ND), blocks.as_tensor(of.x_ND)
    rows = max(FEWEST_ROWS, min(blocks.BLOCK, SPACE // nearest_cuda.bytes_of_a_row(N, room)))
    done = 0
    while done < image_I.size:
        try:
            block_RN, lists = xp.empty((rows, N), xp.float32), nearest_cuda.no_lists(xp, rows, room)
            while done < image_I.size:
                images = image_I[done : done + rows]
                block_IN = block_RN[: images.size]
                blocks.product(blocks.as_tensor(of.x_ND[images]), x, blocks.as_tensor(block_IN), precision)
                nearest.add_shifts(of, block_IN, images, slice(None))
                nearest_cuda.pick(block_IN, images, k, rounding, lists, one_far=precision == "ieee")
                nearest_cuda.settle(features_ND, images, lists, found)
                done += images.size
                if progress is not None:
                    progress(images.size)
        except (RuntimeError, MemoryError) as fault:
            if not out_of_memory(fault):
                raise
            # Let go, or smaller ones find no more room. What is done stays done.
            block_RN = block_IN = lists = None
            rows //= 2
            if rows < FEWEST_ROWS:
                raise RunError(
                    f"nearest neighbours of {N} images: GPU memory does not hold {2 * rows} rows of similarities "
                    f"beside the features ({fault}); {WITHOUT_MEMORY}"
                ) from fault
            log.warning("nearest neighbours: GPU memory ran out; going on with blocks of %d rows", rows)
