"""Memory of the GPU: the pool that all libraries share, what is held of it, and what to do where it runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rapids_slr.errors import RunError

FIRST_POOL = 2**30
"""Bytes that the shared pool takes at first; it doubles as it runs out."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a GPU's memory."""

    used: int
    """Held by arrays of this process."""
    peak: int
    """The most that was held since reset_peak, or since the process began."""
    free: int
    """Left for new arrays; with the shared pool also what it holds without using it."""


@dataclass
class _Pool:
    blocks: Any
    """rmm.mr.PoolMemoryResource."""
    counted: Any
    """rmm.mr.StatisticsResourceAdaptor around it, which every library draws on."""
    before: int | None = None
    """Bytes in use when the peak was reset; None before the first time."""


_pool: _Pool | None = None
_no_pool = "it has not been set up"


def share_pool() -> bool:
    """Make torch, CuPy, cuML and cuDF draw on one RMM pool on the current device.

    torch takes another allocator only before it has initialised CUDA, in this process; it then knows no statistics of
    memory (use device_memory), raises RuntimeError where memory runs out (use out_of_memory), cannot try algorithms of
    cuDNN (cudnn.benchmark raises), and its record_stream does nothing.

    Returns: whether they share one; if not, each library goes on with a pool of its own.
    """
    global _pool, _no_pool
    if _pool is not None:
        return True
    if torch.cuda.is_initialized():
        _no_pool = "torch had used the GPU before the pool was asked for"
        return False
    try:
        import cupy
        import rmm
        from rmm.allocators.cupy import rmm_cupy_allocator
        from rmm.allocators.torch import rmm_torch_allocator

        if rmm_torch_allocator is None:
            raise RuntimeError("RMM was imported before there was a GPU")
        blocks = rmm.mr.PoolMemoryResource(rmm.mr.CudaMemoryResource(), initial_pool_size=FIRST_POOL)
        counted = rmm.mr.StatisticsResourceAdaptor(blocks)
        torch.cuda.memory.change_current_allocator(rmm_torch_allocator)
    except (ImportError, OSError, RuntimeError, MemoryError) as fault:
        _no_pool = f"RMM's could not be set up ({in_short(fault)})"
        return False
    # Only once torch has taken it: whatever fails before leaves all libraries as they were.
    rmm.mr.set_current_device_resource(counted)
    cupy.cuda.set_allocator(rmm_cupy_allocator)
    torch.backends.cudnn.benchmark = False  # it asks for the largest free block, of which RMM tells torch nothing
    _pool = _Pool(blocks, counted)
    return True


def pool_in_words(asked: str) -> str:
    """What arrays on the GPU are allocated from; `asked` is the `memory_pool` of the run."""
    if _pool is not None:
        return "one RMM pool for torch, CuPy, cuML and cuDF"
    reason = "memory_pool: torch was asked for" if asked == "torch" else _no_pool
    return f"a pool for each library, because {reason}"


def device_memory(device: torch.device) -> DeviceMemory:
    """Memory of a GPU. Without the shared pool, `used` and `peak` leave out what CuPy, cuML and cuDF hold."""
    free = torch.cuda.mem_get_info(device)[0]
    if _pool is not None:
        count, before = _pool.counted.allocation_counts, _pool.before or 0
        used = before + count.current_bytes
        return DeviceMemory(used, before + count.peak_bytes, free + _pool.blocks.pool_size() - used)
    return DeviceMemory(torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device), free)


def reset_peak(device: torch.device) -> None:
    """Let `device_memory(device).peak` start anew from what is in use."""
    if _pool is None:
        torch.cuda.reset_peak_memory_stats(device)
        return
    if _pool.before is not None:
        _pool.counted.pop_counters()
    # RMM's peak cannot be reset, but counters that are pushed begin at 0; what was in use before is added to them.
    _pool.before = _pool.counted.allocation_counts.current_bytes
    _pool.counted.push_counters()


def out_of_memory(fault: BaseException) -> bool:
    """Whether this is how torch, CuPy, cuML or cuDF say that the GPU's memory has run out. A RunError, which may quote
    them, has its advice already.
    """
    if isinstance(fault, RunError):
        return False
    return isinstance(fault, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(fault, RuntimeError) and "bad_alloc" in str(fault)  # torch, where it draws on RMM
    )


@contextmanager
def memory_advice(what: str, advice: str) -> Iterator[None]:
    """Let a block that runs out of memory end in a RunError that says what to do; other errors pass as they are."""
    try:
        yield
    except (RuntimeError, MemoryError) as fault:
        if not out_of_memory(fault):
            raise
        raise RunError(f"{what}: memory has run out; {advice}") from fault


def in_short(fault: BaseException) -> str:
    """The first sentence of an error, or its kind where it has none."""
    return (str(fault) or type(fault).__name__).split(". ")[0].splitlines()[0]
