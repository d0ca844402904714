"""Which engine a run takes, and why."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from rapids_slr.engine.memory import in_short, pool_in_words, share_pool
from rapids_slr.engine.rapids import cuda_extra, installed, lacks
from rapids_slr.errors import InputError

CUDA_LIBRARIES = {"cupy": "CuPy", "numba_cuda": "numba-cuda"}
"""What the CUDA engine needs beside torch: module and name. Without cuML and cuDF, `steps` says what takes over."""


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


def choose_backend(device: str, memory_pool: str = "rmm", cuml_for: Mapping[str, str] | None = None) -> Backend:
    """The engine of a run.

    Args:
        device: "cpu", "cuda", or "auto": CUDA where it works, else the CPU with the reason.
        memory_pool: on CUDA, "rmm" makes torch, CuPy, cuML and cuDF draw on one pool, which only works before torch
            has used the GPU; "torch" leaves each library its own.
        cuml_for: settings that on CUDA only cuML serves, each with what to set in its place.
    Raises: InputError if "cuda" cannot be had, or on CUDA a setting asks for cuML and it is not installed; it names all
        that is missing and how to get it.
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
        if cuml_for and not installed("cuml"):
            raise InputError("; ".join(f"{key} {lacks('cuml')}; or set {other}" for key, other in cuml_for.items()))
        index = torch.cuda.current_device()
        major, minor = torch.cuda.get_device_capability(index)
        why = f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"
        return Backend("cuda", torch.device("cuda", index), why, pool_in_words(memory_pool))
    if device == "cuda":
        raise InputError("device cuda: " + "; ".join(missing) + "; or run with --device cpu")
    return Backend("cpu", torch.device("cpu"), "; ".join(missing))


def steps(backend: Backend) -> list[Step]:
    """The engine that each step of a run takes, and why."""
    on_cpu = {
        "images, augmentation": "torch",
        "networks, training": "torch",
        "nearest neighbours": "torch, Numba",
        "Jaccard graph": "Numba",
        "DBSCAN": "Numba",
        "HDBSCAN on features": "scikit-learn",
        "overlap, projection, soft labels": "Numba",
        "HDBSCAN on soft labels": "Numba",
        "evaluation": "torch",
        "label tables": "pandas",
        "map of a report": "umap-learn",
    }
    if backend.name == "cpu":
        return [Step(name, "cpu", library, backend.why) for name, library in on_cpu.items()]
    ours = ("Jaccard graph", "overlap, projection, soft labels", "HDBSCAN on soft labels")
    on_cuda = {
        name: Step(name, "cuda", "CuPy, Numba" if name in ours else on_cpu[name], backend.why) for name in on_cpu
    }
    on_cuda |= {step.name: step for step in _steps_of_rapids(backend.why)}
    return list(on_cuda.values())


def _steps_of_rapids(why: str) -> list[Step]:
    """The steps of the CUDA engine that cuML and cuDF take, or what takes their place."""
    dbscan = Step("DBSCAN", "cuda", "CuPy, Numba", "own kernels on the sparse graph")
    if installed("cuml"):
        found = [
            dbscan,
            Step("HDBSCAN on features", "cuda", "cuML", why),
            Step("map of a report", "cuda", "cuML", why),
        ]
    else:
        found = [
            dbscan,
            Step("HDBSCAN on features", "cuda", "none", f"{lacks('cuml')}; DBSCAN does without"),
            Step("map of a report", "cpu", "umap-learn", "cuML is not installed"),
        ]
    tables = Step("label tables", "cpu", "pandas", "cuDF is not installed: columns come to the host")
    return [*found, Step("label tables", "cuda", "cuDF", why) if installed("cudf") else tables]


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
    return f"no usable GPU: {in_short(fault)} (install the NVIDIA driver; give a container its GPU with --gpus all)"


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in it: a GPU of compute capability 8.0 or above, a CPU with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))


def takes_bfloat16(device: torch.device) -> bool:
    """Whether `model.precision: auto` is bfloat16 on this device: a GPU that has it."""
    return device.type == "cuda" and has_bfloat16(device)
