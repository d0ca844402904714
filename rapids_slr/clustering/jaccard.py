"""k-reciprocal Jaccard distances of all pairs of images that share a neighbour, as a sparse graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rapids_slr.clustering.neighbours import Neighbours
from rapids_slr.engine.arrays import Array, array_module, row_of_entry
from rapids_slr.engine.blocks import similarity_blocks
from rapids_slr.engine.memory import memory_advice
from rapids_slr.errors import InputError
from rapids_slr.group import ALONE, Group
from rapids_slr.kernels.jaccard import jaccard_distances
from rapids_slr.kernels.kreciprocal import kreciprocal_weights
from rapids_slr.kernels.query_expansion import expand_queries
from rapids_slr.marks import step

ADVICE = "lower clusters.k1, use fewer images, or on a GPU run with --device cpu"
"""Where memory runs out."""


@dataclass(frozen=True)
class Graph:
    """Distances of pairs, both triangles without the diagonal; a stored 0 is a distance, not a gap.

    A whole graph holds all pairs with J < 1, and one that is not stored is at distance `far + reach_N[i] + reach_N[j]`:
    1, unless a source term moved it. One of `Distances` may hold the nearest of them alone.
    """

    indptr: Array
    """int64 (N + 1,)."""
    indices: Array
    """int32, ascending within a row."""
    distances: Array
    """float32."""
    far: float = 1.0
    """Distance of a pair that is not stored, without the source term."""
    reach_N: Array | None = None
    """float32, an image's share of the source term, lambda u_i; None without one."""
    count_N: Array | None = None
    """int64, how many equal images an image stands for; None: one each."""

    @property
    def N(self) -> int:
        return self.indptr.size - 1


def graph_without_pairs(images: Array) -> Graph:
    """The graph of images, one for each entry of an array, that no distance relates."""
    xp = array_module(images)
    return Graph(xp.zeros(len(images) + 1, xp.int64), xp.empty(0, xp.int32), xp.empty(0, xp.float32))


def list_length(k1: int, k2: int, convention: str = "rerank") -> int:
    """Images that a neighbour list has to hold, the image itself included."""
    return k1 if convention == "faiss" else max(k1 + 1, k2)


def jaccard_graph(features_ND: Array, neighbours: Neighbours, k1: int, k2: int, convention: str = "rerank") -> Graph:
    """Jaccard distances of k-reciprocal neighbourhoods, exactly, wherever they are below 1: all that `Distances` has.

    Args:
        features_ND: (N, D) float32 unit rows, for distances that the neighbour lists do not hold.
        neighbours: lists of at least list_length(k1, k2, convention) images.
        k1: neighbours that must be reciprocal.
        k2: images, the image itself included, averaged by query expansion; 1 leaves it out.
        convention: as in `memberships`.
    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017.
    """
    return Graph(*jaccard_distances(*memberships(features_ND, neighbours, k1, k2, convention)))


@step("Jaccard graph")
@memory_advice("Jaccard graph", ADVICE)
def memberships(
    features_ND: Array,
    neighbours: Neighbours,
    k1: int,
    k2: int,
    convention: str = "rerank",
    squares: bool = False,
    group: Group = ALONE,
) -> tuple[Array, Array, Array]:
    """The rows whose Jaccard distance is that of the images: how much every image belongs to an image's neighbourhood.

    Args:
        convention: "rerank": lists of k1 images beside the image itself, weights exp(-d / the largest d of the row).
            "faiss": lists of k1 with the image itself, weights exp(-d), at most k1 images averaged. Half-sized sets are
            of round(k1 / 2) images beside the image itself in both.
        squares: square d / the largest d once more.
        group: its processes hold the features, each its share; rows are of all images, on every process.
    Returns: CSR (N, N) of indptr int64, indices int32, weights float32; rows sum to 1.
    """
    columns, needed = neighbours.indices_Nk.shape[1], list_length(k1, k2, convention)
    if columns < needed:
        raise InputError(f"neighbours: lists of {columns} images, but k1={k1} and k2={k2} need {needed}")
    index_Nk, half, divisor_N = neighbours.indices_Nk, round(k1 / 2), neighbours.furthest_N
    if convention == "faiss":
        k1, k2, divisor_N = k1 - 1, min(k1, k2), array_module(index_Nk).ones_like(divisor_N)
    weights = kreciprocal_weights(features_ND, divisor_N, index_Nk, neighbours.distances_Nk, k1, half, squares, group)
    return expand_queries(*weights, index_Nk, k2, group)


@step("Jaccard graph")
def source_reach(features_ND: Array, source_MD: Array, group: Group = ALONE) -> Array:
    """How far each image is from the source domain: u_i = min_j (1 - exp(-d(f_i, source_j))), scaled to 1 at most.

    Args:
        group: its processes hold the features, each its share, and all of the source.
    Returns: float32 (N,), in [0, 1]; all 0 where every image has an equal in the source.
    """
    if features_ND.shape[1] != source_MD.shape[1]:
        raise InputError(
            f"source: expected features of {features_ND.shape[1]} dimensions like the target's, "
            f"got {source_MD.shape[1]}"
        )
    xp = array_module(features_ND)
    nearest_N = xp.full(len(features_ND), -np.inf, xp.float32)
    for row, _, block_IJ in similarity_blocks(features_ND, source_MD):
        part = nearest_N[row : row + len(block_IJ)]
        xp.maximum(part, block_IJ.max(axis=1), out=part)
    distance_N = 2 - 2 * group.gather(nearest_N).astype(xp.float64)
    # As between images: below that, equal rows whose product was rounded. expm1 keeps the digits of small distances.
    reach_N = xp.where(distance_N < 1e-6, 0, -xp.expm1(-distance_N))
    furthest = reach_N.max()
    # Not an `if`, for which the host would wait.
    return (reach_N / xp.where(furthest > 0, furthest, 1)).astype(xp.float32)


@step("Jaccard graph")
def add_source_term(graph: Graph, reach_N: Array, weight: float) -> Graph:
    """distance = (1 - weight) J + weight (u_i + u_j), for stored pairs; `far` and `reach_N` say the rest.

    Args:
        reach_N: u, from source_reach.
        weight: lambda, in [0, 1).
    """
    reach_N = (weight * reach_N).astype(np.float32)
    distances = np.float32(1 - weight) * graph.distances + of_rows(reach_N, graph) + reach_N[graph.indices]
    return replace(graph, distances=distances, far=1 - weight, reach_N=reach_N)


def of_rows(value_N: Array, graph: Graph) -> Array:
    """For every entry of the graph the value of its row."""
    if array_module(value_N) is np:
        return np.repeat(value_N, np.diff(graph.indptr))
    return value_N[row_of_entry(graph.indptr, graph.indices.size)]  # CuPy repeats by lists of the host only
