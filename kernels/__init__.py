"""Numeric kernels: one file each, imported as rapids_slr.kernels.

A file holds the compiled loops of one step and one public function: plain arrays in, new arrays out. A `cpu` kernel is
compiled by Numba for one stated signature, at its first call or by `warm_up`, and kept on disk; it releases the GIL and
works on the rows [start, stop), so that `in_parallel` spreads it over threads.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import torch

_kernels: list[CpuKernel] = []


class CpuKernel:
    """A function that Numba compiles for one signature, when it is first needed."""

    def __init__(self, function: Callable, signature: str, options: dict[str, Any]) -> None:
        self.function, self.signature, self.options = function, signature, options
        self.compiled: Callable | None = None
        self.lock = threading.Lock()
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        _kernels.append(self)

    def compile(self) -> Callable:
        with self.lock:
            if self.compiled is None:
                self.compiled = numba.njit(self.signature, cache=True, nogil=True, **self.options)(self.function)
            return self.compiled

    def __call__(self, *args: Any) -> Any:
        return (self.compiled or self.compile())(*args)


def cpu(signature: str, **options: Any) -> Callable[[Callable], CpuKernel]:
    """Compile the decorated function for `signature`; `options` go to numba.njit."""
    return lambda function: CpuKernel(function, signature, options)


def warm_up(progress: Callable[[int], None] | None = None) -> None:
    """Compile every kernel, or load it from Numba's cache, so that no timed stage has to.

    The first call after an installation takes about half a minute, later ones about half a second.

    Args:
        progress: called with 1 after every kernel.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    for kernel in _kernels:
        kernel.compile()
        if progress is not None:
            progress(1)


def in_parallel(kernel: Callable, size: int, *args: Any, smallest: int = 1) -> None:
    """Run kernel(start, stop, *args) over [0, size) on as many threads as torch uses.

    Args:
        smallest: items below which a share is not worth a thread of its own.
    """
    threads = torch.get_num_threads()
    share = max(smallest, -(-size // (4 * threads)) if threads > 1 else size)
    starts = range(0, size, share)
    if len(starts) <= 1:
        kernel(0, size, *args)
        return
    for done in [_pool(threads).submit(kernel, start, min(start + share, size), *args) for start in starts]:
        done.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rapids_slr")
