"""What kernels are made with: compiling, launching, warming up. One file of kernels holds one step.

A file holds one step for the CPU and for CUDA, and one public function that picks by the array it is given: plain
arrays in, new arrays of the same library out. What happens to a single item is written once where both can run it.

- `cpu(signature)`: a loop compiled by Numba, at its first call or by `warm_up`, and kept on disk. It releases the GIL
  and works on the rows [start, stop), so that `in_parallel` spreads it over threads.
- `gpu(signature)`: a CUDA kernel. `kernel.each(size, ...)` gives every item a thread, `kernel.blocks(size, ...)` a
  block of THREADS threads. It runs on CuPy's current stream, and nothing waits for it.
- `shared`: a function of one item that both may call. `cpu_part`: one that only loops of the CPU call. Neither makes
  arrays.

What is compiled is kept beside the files or in the user's cache folder, in a folder for this state of all the files;
where neither can be written, in one that goes with the process.

Under NUMBA_ENABLE_CUDASIM=1 Numba simulates a GPU: CUDA kernels run as Python threads, on NumPy arrays.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import pkgutil
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba.core.registry import CPUDispatcher

from rapids_slr.engine.arrays import Array, array_module

vars(np).setdefault("row_stack", np.vstack)  # gone in NumPy 2.5; numba-cuda 0.30 asks for it at its first kernel

PACKAGE = __name__.rpartition(".")[0]
SIMULATED = bool(numba.config.ENABLE_CUDASIM)
THREADS = 128
"""Threads of a block, a power of 2. Tests shrink it, so that a few rows span several blocks."""
PLACES = THREADS
"""Places for the threads of a block in the shared memory of compiled kernels."""

NUMBERS = {"int32": ctypes.c_int32, "int64": ctypes.c_int64, "float32": ctypes.c_float, "float64": ctypes.c_double}
"""Types of the numbers that signatures of CUDA kernels name, as a launch takes them."""

_cpu_kernels: list[CpuKernel] = []
_cuda_kernels: list[CudaKernel] = []


def on_gpu(x: Array) -> bool:
    """Whether CUDA kernels take this array: one of CuPy, or in the simulator any."""
    return SIMULATED or array_module(x) is not np


def _folder_of_compiled() -> tuple[str, tempfile.TemporaryDirectory | None]:
    """Where Numba keeps what it compiles, and what has to live as long as that.

    Numba looks at the file of a function alone, and would go on with the helpers of other files as they were before a
    change; so every state of the files has its folder, where Numba itself would keep things.
    """
    state = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        state.update(file.name.encode() + file.read_bytes())
    try:
        place = numba.njit(cache=True)(on_gpu).stats.cache_path
    except RuntimeError:  # it finds no place of its own, and would give up
        folder = tempfile.TemporaryDirectory(prefix="rapids_slr-compiled-", ignore_cleanup_errors=True)
        return folder.name, folder
    return str(Path(place, f"rapids_slr-{state.hexdigest()[:16]}")), None


FOLDER, _keeps_folder = _folder_of_compiled()
_keeping = threading.RLock()


@contextmanager
def _kept() -> Iterator[None]:
    """Let Numba keep what is decorated and compiled here in FOLDER, and the user's own functions where they were."""
    with _keeping:
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, FOLDER
        try:
            yield
        finally:
            numba.config.CACHE_DIR = before


def shared(function: Callable) -> Callable:
    """A function that CPU and CUDA kernels call alike: scalars, and arrays that it is given; no NumPy functions."""
    return cpu_part()(function)


def cpu_part(**options: Any) -> Callable[[Callable], Callable]:
    """Make the decorated function one that CPU kernels call; `options` go to numba.njit.

    It makes no arrays and gives none back. So it need not count who holds those it is given, which takes longer than an
    inner loop: every slice and every call would be an atomic instruction.
    """

    def part(function: Callable) -> Callable:
        with _kept():
            return numba.njit(cache=True, nogil=True, _nrt=False, **options)(function)

    return part


class CpuKernel:
    """A function that Numba compiles for its signatures when it is first needed."""

    def __init__(self, function: Callable, signature: str | list[str], options: dict[str, Any]) -> None:
        self.function, self.signature, self.options = function, signature, options
        self.compiled: Callable | None = None
        self.lock = threading.Lock()
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        _cpu_kernels.append(self)

    def compile(self) -> Callable:
        with self.lock, _kept():
            if self.compiled is None:
                self.compiled = numba.njit(self.signature, cache=True, nogil=True, **self.options)(self.function)
            return self.compiled

    def __call__(self, *args: Any) -> Any:
        return (self.compiled or self.compile())(*args)


def cpu(signature: str | list[str], **options: Any) -> Callable[[Callable], CpuKernel]:
    """Compile the decorated function for `signature`, or for each of them; `options` go to numba.njit."""
    return lambda function: CpuKernel(function, signature, options)


class CudaKernel:
    """A CUDA kernel of one signature, compiled for the current device when it is first needed."""

    def __init__(self, function: Callable, signature: str, options: dict[str, Any]) -> None:
        self.function, self.signature, self.options = function, signature, options
        self.compiled: Any = None
        self.launches = 0
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        _cuda_kernels.append(self)

    def compile(self) -> Any:
        """In the simulator what it launches, on a device what Numba has compiled for it and `_start` takes."""
        if self.compiled is None:
            from numba import cuda

            if SIMULATED:
                self.compiled = cuda.jit(self.function)
            else:
                with _kept():
                    dispatcher = cuda.jit(self.signature, cache=True, **self.options)(self.function)
                (overload,) = dispatcher.overloads.values()
                overload.bind()  # what comes from disk would wait for its first launch
                self.compiled = overload
        return self.compiled

    def each(self, size: int, *args: Any) -> None:
        """Run a thread for each of `size` items; the kernel leaves out the threads beyond."""
        self._launch(-(-size // _threads()), _threads(), args)

    def blocks(self, size: int, *args: Any, threads: int | None = None) -> None:
        """Run a block of threads for each of `size` items.

        Args:
            threads: of a block, for kernels that keep no place for each in shared memory; THREADS without.
        """
        self._launch(size, threads or _threads(), args)

    def most_at_once(self) -> int:
        """Blocks that may wait for each other (cuda.cg.this_grid().sync()): those that run at the same time."""
        if SIMULATED:  # one block after the other
            return 1
        return self.compile().max_cooperative_grid_blocks(THREADS)

    def _launch(self, blocks: int, threads: int, args: tuple) -> None:
        if not blocks:
            return
        kernel, self.launches = self.compile(), self.launches + 1  # counted: tests want every kernel launched
        if SIMULATED:
            with _as_python():
                kernel[blocks, threads](*args)
        else:
            _start(kernel, blocks, threads, args)


def _threads() -> int:
    """THREADS, which have to find a place each in what was compiled."""
    assert THREADS <= PLACES, f"{THREADS} threads a block, but kernels are compiled for {PLACES}"
    return THREADS


def gpu(signature: str, **options: Any) -> Callable[[Callable], CudaKernel]:
    """Make the decorated function a CUDA kernel for `signature`; `options` go to numba.cuda.jit."""
    return lambda function: CudaKernel(function, signature, options)


def _start(kernel: Any, blocks: int, threads: int, args: tuple) -> None:
    """Launch what Numba has compiled, on CuPy's current stream, by cuda.core as Numba does.

    Numba would look at every array through DLPack, and at the types of all arguments, which takes longer on the host
    than many a kernel on the device.
    """
    from cuda.core import LaunchConfig, launch

    config = LaunchConfig(grid=blocks, block=threads, is_cooperative=kernel.cooperative)
    code = kernel.library.get_cufunc().kernel
    launch(_stream(), config, code, *as_numba_passes(kernel.argument_types, args))


def as_numba_passes(kinds: tuple, args: tuple) -> list[Any]:
    """Arguments of a kernel the way Numba's code takes them: an array as several words, numbers in their type."""
    words: list[Any] = []
    for kind, arg in zip(kinds, args, strict=True):
        if isinstance(kind, numba.types.Array):  # no owner and no parent; its size, place and shape; strides in bytes
            words += (0, 0, arg.size, arg.itemsize, arg.data.ptr, *arg.shape, *arg.strides)
        elif isinstance(kind, numba.types.Boolean):
            words.append(bool(arg))
        else:
            words.append(NUMBERS[str(kind)](arg))
    return words


def _stream() -> Any:
    """CuPy's current stream, for cuda.core."""
    import cupy
    from cuda.core import Stream

    return Stream.from_handle(cupy.cuda.get_current_stream().ptr)


@contextmanager
def _as_python() -> Iterator[None]:
    """For the simulator, whose arrays compiled functions do not take: `shared` functions as plain Python."""
    compiled = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(PACKAGE):
            for key, value in vars(module).items():
                if isinstance(value, CPUDispatcher):
                    compiled[module, key] = value
    for (module, key), value in compiled.items():
        setattr(module, key, value.py_func)
    try:
        yield
    finally:
        for (module, key), value in compiled.items():
            setattr(module, key, value)


def warm_up(progress: Callable[[int], None] | None = None, cuda: bool = False) -> None:
    """Compile every kernel, or load it from Numba's cache and onto the device, so that no timed stage has to.

    The first call after an installation takes about half a minute, later ones about half a second.

    Args:
        progress: called with 1 after every kernel.
        cuda: the CUDA kernels too.
    """
    load_all()
    for kernel in [*_cpu_kernels, *(_cuda_kernels if cuda else [])]:
        kernel.compile()
        if progress is not None:
            progress(1)


def load_all() -> tuple[list[CpuKernel], list[CudaKernel]]:
    """Import every file of kernels; all there are, for the CPU and for CUDA."""
    for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        importlib.import_module(f"{PACKAGE}.{module.name}")
    return _cpu_kernels, _cuda_kernels


def in_parallel(kernel: Callable, items: int | range, *args: Any, smallest: int = 1) -> None:
    """Run kernel(start, stop, *args) over [0, items), or over a range with step 1, on as many threads as torch uses.

    Args:
        smallest: items below which a share is not worth a thread of its own.
    """
    first, size = (items.start, len(items)) if isinstance(items, range) else (0, items)
    threads = torch.get_num_threads()
    # Four shares a thread: rows differ in what they cost, and whoever is done early takes another.
    share = max(smallest, -(-size // (4 * threads)) if threads > 1 else size)
    end = first + size
    starts = range(first, end, share)
    if len(starts) <= 1:
        kernel(first, end, *args)
        return
    for done in [_pool(threads).submit(kernel, start, min(start + share, end), *args) for start in starts]:
        done.result()


def each_in_parallel(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield function(item), in order, on as many threads as torch uses; torch computes each on one thread.

    No more items are taken than the threads are about to need. If the caller stops early, nothing more is begun.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(function, items)
        return
    begun: deque[Future] = deque()
    try:
        for item in items:
            begun.append(_pool(threads).submit(function, item))
            if len(begun) > 2 * threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
        wait(begun)  # what runs writes into arrays of the caller


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Its threads are all there at once, and torch has no further threads for them.

    What torch is told in a thread holds for this one and for those to come that first use it: the others get back what
    they had.
    """
    everyone = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # from here on torch asks for no other number in this thread
        everyone.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="rapids_slr")
    for _ in range(threads):
        pool.submit(begin)
    everyone.wait()
    torch.set_num_threads(threads)
    return pool
