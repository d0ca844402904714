"""DBSCAN by cuML on the matrix of all distances, filled from the sparse graph on the device."""

from __future__ import annotations

import numpy as np
import torch

from rapids_slr.clustering.jaccard import Graph
from rapids_slr.engine.arrays import Array, array_module, row_of_entry
from rapids_slr.engine.memory import device_memory, memory_advice
from rapids_slr.engine.rapids import import_rapids
from rapids_slr.errors import InputError

NO_PAIR = 3.0  # beyond any distance; infinity is refused


def takes_cuml(graph: Graph, solver: str) -> bool:
    """Whether DBSCAN of a graph is cuML's work: where it is asked for by name, and the graph is on a GPU.

    cuML reads N x N distances, most of which the graph knows to be far; own kernels read the graph.
    """
    return solver == "cuml" and array_module(graph.indptr) is not np


@memory_advice("DBSCAN by cuML", "set clusters.solver: graph")
def dbscan_cuml(graph: Graph, eps: float, min_samples: int) -> Array:
    """DBSCAN of a graph on the device, by cuML.

    Args:
        eps: largest distance of neighbours, below that of the pairs that the graph does not hold; compared as float32.
        min_samples: points within eps, the point itself included, that make a core point.
    Returns: int32 (N,), -1 = outlier; clusters are numbered by their first core point, and a border point joins the
        lowest of the clusters it touches, as all rows come in one batch.
    Raises: InputError if the distances do not fit into the device's free memory, or cuML is not installed; RunError if
        memory runs out all the same.
    """
    import cupy

    cluster = import_rapids("cuml.cluster", "set clusters.solver: graph (or auto)")
    N, needed = graph.N, 6 * graph.N**2  # float32, and half as much for cuML
    if needed > (free := _free_memory(graph)):
        raise InputError(
            f"clusters: cuML needs {needed / 2**30:.1f} GiB for the distances of {N} images and "
            f"{free / 2**30:.1f} GiB are free; set clusters.solver: graph (or auto)"
        )
    distance_NN = dense_distances(graph)
    megabytes = 2 * N**2 // 10**6 + 64  # one batch: a byte a pair, and int64 neighbours for a tenth of the pairs
    solver = cluster.DBSCAN(
        eps=float(np.float32(eps)),
        min_samples=min_samples,
        metric="precomputed",
        max_mbytes_per_batch=megabytes,
        calc_core_sample_indices=False,
    )
    cupy.cuda.get_current_stream().synchronize()  # cuML has a stream of its own
    labels_N = solver.fit_predict(distance_NN, out_dtype="int32")
    return cupy.ascontiguousarray(labels_N, dtype=cupy.int32)


def dense_distances(graph: Graph) -> Array:
    """The distances of a graph as a matrix (N, N) float32: 0 on the diagonal, NO_PAIR where it holds none."""
    xp, N = array_module(graph.indptr), graph.N
    distance_NN = xp.full((N, N), NO_PAIR, xp.float32)
    distance_NN[row_of_entry(graph.indptr, graph.indices.size), graph.indices] = graph.distances
    distance_NN.ravel()[:: N + 1] = 0  # the diagonal, through a view
    return distance_NN


def _free_memory(graph: Graph) -> int:
    return device_memory(torch.device("cuda", graph.indptr.device.id)).free
