"""Which engine a run takes, and why."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch

from rapids_slr.errors import InputError

CUDA_LIBRARIES = {"cupy": "CuPy", "numba_cuda": "numba-cuda", "cuml": "cuML", "cudf": "cuDF"}
"""What the CUDA engine needs beside torch: module and name."""


@dataclass(frozen=True)
class Backend:
    name: Literal["cpu", "cuda"]
    device: torch.device
    """Where images and networks live."""
    why: str
    """What decided, in a few words for the report."""

    @property
    def label_device(self) -> torch.device:
        """Where features are clustered and labels refined: so far on the CPU, whatever the engine."""
        return torch.device("cpu")


@dataclass(frozen=True)
class Step:
    name: str
    engine: Literal["cpu", "cuda"]
    library: str
    why: str


def choose_backend(device: str) -> Backend:
    """The engine of a run.

    Args:
        device: "cpu", "cuda", or "auto": CUDA where it works, else the CPU with the reason.
    Raises: InputError if "cuda" cannot be had; it names all that is missing and how to get it.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: expected auto, cpu or cuda, got {device}")
    if device == "cpu":
        return Backend("cpu", torch.device("cpu"), "device: cpu was asked for")
    missing = what_cuda_misses()
    if not missing:
        index = torch.cuda.current_device()
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        return Backend("cuda", torch.device("cuda", index), f"{name}, compute capability {major}.{minor}")
    if device == "cuda":
        raise InputError("device cuda: " + "; ".join(missing) + "; or run with --device cpu")
    return Backend("cpu", torch.device("cpu"), "; ".join(missing))


def steps(backend: Backend) -> list[Step]:
    """The engine that each step of a run takes at present, and why."""
    cpu_alone = backend.why if backend.name == "cpu" else "has no CUDA engine yet"
    on_device = ("images, augmentation", "networks, training", "evaluation")
    on_cpu = {
        "nearest neighbours": "torch, Numba",
        "Jaccard graph, DBSCAN": "Numba",
        "HDBSCAN on features": "scikit-learn",
        "overlap, projection, soft labels": "Numba",
        "HDBSCAN on soft labels": "Numba",
        "label tables": "pandas",
    }
    return [
        *(Step(name, backend.name, "torch", backend.why) for name in on_device),
        *(Step(name, "cpu", library, cpu_alone) for name, library in on_cpu.items()),
    ]


def what_cuda_misses() -> list[str]:
    """All that keeps the CUDA engine from working here, each with what to do; empty where it works."""
    missing = []
    if fault := gpu_fault():
        missing.append(fault)
    if absent := [name for module, name in CUDA_LIBRARIES.items() if importlib.util.find_spec(module) is None]:
        names = " and ".join(filter(None, (", ".join(absent[:-1]), absent[-1])))
        missing.append(
            f"{names} {'is' if len(absent) == 1 else 'are'} not installed (pip install 'rapids-slr[{cuda_extra()}]')"
        )
    return missing


def gpu_fault() -> str | None:
    """Why torch cannot compute on a GPU here; None where it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA (a CUDA build: https://pytorch.org/get-started)"
    try:
        torch.cuda.init()
        torch.ones(1, device="cuda").add_(1).item()
    except (RuntimeError, AssertionError) as fault:  # no driver, one too old, no device, or a device too old
        reason = str(fault).split(". ")[0].splitlines()[0]
        return f"no usable GPU: {reason} (install the NVIDIA driver; give a container its GPU with --gpus all)"
    return None


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
