"""Which engine a run takes, and why; and the memory of its GPU, which all libraries share."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rapids_slr.errors import InputError

CUDA_LIBRARIES = {"cupy": "CuPy", "numba_cuda": "numba-cuda", "cuml": "cuML", "cudf": "cuDF"}
"""What the CUDA engine needs beside torch: module and name."""
FIRST_POOL = 2**30
"""Bytes that the shared pool takes at first; it doubles as it runs out."""


@dataclass(frozen=True)
class Backend:
    name: Literal["cpu", "cuda"]
    device: torch.device
    """Where images and networks live, features are clustered and labels refined."""
    why: str
    """What decided, in a few words for the report."""
    memory: str = "host memory"
    """What arrays are allocated from, in a few words for the report."""


@dataclass(frozen=True)
class Step:
    name: str
    engine: Literal["cpu", "cuda"]
    library: str
    why: str


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a GPU's memory."""

    used: int
    """Held by arrays of this process."""
    peak: int
    """The most that was held since reset_peak, or since the process began."""
    free: int
    """Left for new arrays; with the shared pool also what it holds without using it."""


def choose_backend(device: str, memory_pool: str = "rmm") -> Backend:
    """The engine of a run.

    Args:
        device: "cpu", "cuda", or "auto": CUDA where it works, else the CPU with the reason.
        memory_pool: on CUDA, "rmm" makes torch, CuPy, cuML and cuDF draw on one pool, which only works before torch
            has used the GPU; "torch" leaves each library its own.
    Raises: InputError if "cuda" cannot be had; it names all that is missing and how to get it.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: expected auto, cpu or cuda, got {device}")
    if memory_pool not in ("rmm", "torch"):
        raise InputError(f"memory_pool: expected rmm or torch, got {memory_pool}")
    if device == "cpu":
        return Backend("cpu", torch.device("cpu"), "device: cpu was asked for")
    if memory_pool == "rmm" and gpu_fault() is None and not absent_libraries():
        share_pool()
    missing = what_cuda_misses()
    if not missing:
        index = torch.cuda.current_device()
        major, minor = torch.cuda.get_device_capability(index)
        why = f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"
        if _pool is not None:
            memory = "one RMM pool for torch, CuPy, cuML and cuDF"
        else:
            reason = "memory_pool: torch was asked for" if memory_pool == "torch" else _no_pool
            memory = f"a pool for each library, because {reason}"
        return Backend("cuda", torch.device("cuda", index), why, memory)
    if device == "cuda":
        raise InputError("device cuda: " + "; ".join(missing) + "; or run with --device cpu")
    return Backend("cpu", torch.device("cpu"), "; ".join(missing))


def steps(backend: Backend) -> list[Step]:
    """The engine that each step of a run takes, and why."""
    on_cuda = {
        "images, augmentation": "torch",
        "networks, training": "torch",
        "nearest neighbours": "torch, Numba",
        "Jaccard graph": "CuPy, Numba",
        "DBSCAN": "cuML, Numba",
        "HDBSCAN on features": "cuML",
        "overlap, projection, soft labels": "CuPy, Numba",
        "HDBSCAN on soft labels": "CuPy, Numba",
        "evaluation": "torch",
        "label tables": "cuDF",
    }
    on_cpu = on_cuda | {
        "Jaccard graph": "Numba",
        "DBSCAN": "Numba",
        "HDBSCAN on features": "scikit-learn",
        "overlap, projection, soft labels": "Numba",
        "HDBSCAN on soft labels": "Numba",
        "label tables": "pandas",
    }
    why = {"DBSCAN": "cuML while N x N distances take a quarter of the free memory, own kernels beyond"}
    if backend.name == "cpu":
        return [Step(name, "cpu", library, backend.why) for name, library in on_cpu.items()]
    return [Step(name, "cuda", library, why.get(name, backend.why)) for name, library in on_cuda.items()]


def what_cuda_misses() -> list[str]:
    """All that keeps the CUDA engine from working here, each with what to do; empty where it works."""
    missing = []
    if fault := gpu_fault() or compute_fault():
        missing.append(fault)
    if absent := absent_libraries():
        names = " and ".join(filter(None, (", ".join(absent[:-1]), absent[-1])))
        missing.append(
            f"{names} {'is' if len(absent) == 1 else 'are'} not installed (pip install 'rapids-slr[{cuda_extra()}]')"
        )
    return missing


def absent_libraries() -> list[str]:
    """Names of the libraries of the CUDA engine that are not installed."""
    return [name for module, name in CUDA_LIBRARIES.items() if importlib.util.find_spec(module) is None]


def gpu_fault() -> str | None:
    """Why torch finds no GPU here; None where it does. Where it does, torch is left as it was: nothing is allocated."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA (a CUDA build: https://pytorch.org/get-started)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says what init is going to say
        found = torch.cuda.is_available()
    try:
        if not found:
            torch.cuda.init()
            raise RuntimeError("torch sees no device")
    except (RuntimeError, AssertionError) as fault:  # no driver, one too old, or no device
        return _no_gpu(fault)
    return None


def compute_fault() -> str | None:
    """Why torch cannot compute on the GPU it found; None where it can."""
    try:
        torch.ones(1, device="cuda").add_(1).item()
    except (RuntimeError, AssertionError, MemoryError) as fault:  # a device that torch has no code for, or a full one
        return _no_gpu(fault)
    return None


def _no_gpu(fault: BaseException) -> str:
    return f"no usable GPU: {_in_short(fault)} (install the NVIDIA driver; give a container its GPU with --gpus all)"


def _in_short(fault: BaseException) -> str:
    return (str(fault) or type(fault).__name__).split(". ")[0].splitlines()[0]


def cuda_extra() -> str:
    """The extra of this package that fits the CUDA version of torch."""
    return "cuda12" if (torch.version.cuda or "").startswith("12.") else "cuda13"


def version_of(*distributions: str) -> str | None:
    """Version of the first of these distributions that is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


# Memory of the GPU ----------------------------------------------------------------------------------------------------


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
        _no_pool = f"RMM's could not be set up ({_in_short(fault)})"
        return False
    rmm.mr.set_current_device_resource(counted)
    cupy.cuda.set_allocator(rmm_cupy_allocator)
    torch.backends.cudnn.benchmark = False
    _pool = _Pool(blocks, counted)
    return True


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
    _pool.before = _pool.counted.allocation_counts.current_bytes
    _pool.counted.push_counters()


def out_of_memory(fault: BaseException) -> bool:
    """Whether this is how torch, CuPy, cuML or cuDF say that the GPU's memory has run out."""
    return isinstance(fault, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(fault, RuntimeError) and "bad_alloc" in str(fault)  # torch, where it draws on RMM
    )
