"""Arrays of any library in, the same library out: NumPy, CuPy and torch, bridged without a copy.

The engine follows the array. Public functions turn what they are given into NumPy (CPU) or CuPy (CUDA) with `as_array`
and hand results back with `like`. Host memory stays in host memory and device memory on its device.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

Array = Any
"""numpy.ndarray or cupy.ndarray."""


def array_module(x: Array) -> ModuleType:
    """numpy or cupy, whichever `x` belongs to."""
    cupy = sys.modules.get("cupy")  # a CuPy array exists only where CuPy has been imported
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np


def as_array(x: Any) -> Array:
    """`x` as a NumPy or CuPy array on its own device; the memory is shared where the type exists in both libraries.

    bfloat16, unknown to NumPy and CuPy, becomes float32.
    """
    if isinstance(x, torch.Tensor):
        x = x.detach()
        if x.dtype == torch.bfloat16:
            x = x.float()
        if x.device.type == "cpu":
            return x.numpy()
        import cupy

        return cupy.from_dlpack(x)
    return x if array_module(x) is not np else np.asarray(x)


def to_host(x: Array) -> np.ndarray:
    """`x` in host memory, which on CUDA waits for the device: for what is far smaller than the images."""
    return x if array_module(x) is np else x.get()


def like(result: Array, original: Any) -> Any:
    """`result` in the library of `original`: a torch tensor where that is one, sharing the memory."""
    if not isinstance(original, torch.Tensor):
        return result
    return torch.from_dlpack(result) if array_module(result) is not np else torch.from_numpy(result)


def labels_like(labels_N: Array, original: Any) -> Any:
    """Labels as `like` gives them; in torch int64, which its losses and `one_hot` ask for."""
    found = like(labels_N, original)
    return found.long() if isinstance(found, torch.Tensor) else found


@contextmanager
def on_torch_stream(where: Any) -> Iterator[None]:
    """Run CuPy, and the kernels that follow it, on torch's current stream: after what torch was told before.

    Args:
        where: a torch device, or something that lies on one. Nothing is done for the CPU and for arrays of other
            libraries, which stay on the stream their caller chose.
    """
    device = where.device if isinstance(where, torch.Tensor) else where
    if not isinstance(device, torch.device) or device.type != "cuda":
        yield
        return
    import cupy

    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream  # 0, the default stream of both, unless someone chose another
        with cupy.cuda.Stream.from_external(SimpleNamespace(__cuda_stream__=lambda: (0, stream))):
            yield


def csr_like(indptr: Array, indices: Array, data: Array, shape: tuple[int, int], original: Any) -> Any:
    """A CSR matrix of the library of `original`, scipy, cupyx.scipy or torch (sparse_csr), sharing the memory."""
    if isinstance(original, torch.Tensor):
        if indptr.dtype != indices.dtype:  # torch wants one type for both
            indptr, indices = indptr.astype(np.int64), indices.astype(np.int64)
        rows, columns, values = (like(part, original) for part in (indptr, indices, data))
        with warnings.catch_warnings():
            for known in ("Sparse CSR tensor support is in beta", "Sparse invariant checks are implicitly disabled"):
                warnings.filterwarnings("ignore", known)
            return torch.sparse_csr_tensor(rows, columns, values, size=shape, check_invariants=False)
    library = "scipy.sparse" if array_module(data) is np else "cupyx.scipy.sparse"
    return import_module(library).csr_matrix((data, indices, indptr), shape=shape)


def csr_product(
    first: tuple[Array, Array, Array], second: tuple[Array, Array, Array], shape: tuple[int, int, int]
) -> tuple[Array, Array, Array]:
    """Product of two CSR matrices of shape[:2] and shape[1:], each as indptr, indices, data, by scipy or cupyx.

    Returns: indptr int64, indices int32 ascending within a row, data float64.
    """
    rows, inner, columns = shape
    left = csr_like(*first, (rows, inner), first[2])
    product = left @ csr_like(*second, (inner, columns), second[2])
    product.sort_indices()
    return product.indptr.astype(np.int64), product.indices.astype(np.int32), product.data.astype(np.float64)


def row_of_entry(indptr: Array, size: int) -> Array:
    """Row of each of the `size` entries of a CSR matrix, int64."""
    xp = array_module(indptr)
    if xp is np:
        return np.repeat(np.arange(indptr.size - 1), np.diff(indptr))
    return xp.searchsorted(indptr, xp.arange(size), side="right") - 1  # CuPy repeats by lists of the host only


def take_rows(indptr: Array, rows: Array) -> tuple[Array, Array]:
    """Rows of a CSR matrix, in any order and repeated: their indptr int64, and for each entry where it stood, int64."""
    xp = array_module(indptr)
    length = xp.diff(indptr)[rows]
    taken = xp.concatenate((xp.zeros(1, xp.int64), xp.cumsum(length)))
    # The entries of a row are in sequence from where it begins.
    size = int(taken[-1])
    return taken, xp.arange(size) + (indptr[:-1][rows] - taken[:-1])[row_of_entry(taken, size)]
