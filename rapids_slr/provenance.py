"""Where figures come from: commit, versions of libraries, device, threads and date; all that is written asks here.

torch is imported only by who asks for its threads: an import of this module costs nothing.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

IN_SUMMARIES = ("rapids-slr", "torch", "torchvision", "numpy", "numba", "scikit-learn", "cupy-cuda13x", "cuml-cu13")
"""In summary.json, by the names of distributions."""
IN_BENCHMARKS = ("rapids-slr", "torch", "numpy", "numba", "scipy", "scikit-learn")
"""In the results of benchmarks, of profiles too, installed or not."""
IN_CUDA_BENCHMARKS = ("cupy", "numba-cuda", "cuml")
"""There as well, where they are installed."""
IN_DOCTOR = (
    *("torch", "torchvision", "cupy", "cuml", "cudf", "rmm"),
    *("numba", "numba-cuda", "scikit-learn", "numpy", "pandas"),
)
"""On the screen of `rapids-slr doctor`, installed or not."""
DISTRIBUTIONS = {
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "cuml": ("cuml-cu13", "cuml-cu12", "cuml"),
    "cudf": ("cudf-cu13", "cudf-cu12", "cudf"),
    "rmm": ("rmm-cu13", "rmm-cu12", "rmm"),
}
"""Libraries that come under several names: one for each version of CUDA, and conda's. Others have one name."""


def version_of(library: str) -> str | None:
    """Version of an installed library; None where there is none."""
    for name in DISTRIBUTIONS.get(library, (library,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def versions() -> dict[str, str]:
    """Python, and what of IN_SUMMARIES is installed."""
    found = {name: version_of(name) for name in IN_SUMMARIES}
    return {"python": platform.python_version()} | {name: version for name, version in found.items() if version}


def environment(device: str | None = None) -> dict[str, str | int]:
    """What figures depend on: device, threads, versions, commit; and when they were taken.

    Args:
        device: its name; None takes that of the CPU.
    """
    import torch

    on_cuda = {name: version_of(name) for name in IN_CUDA_BENCHMARKS}
    return {
        "device": device or cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version_of(name) or "not installed" for name in IN_BENCHMARKS},
        **{name: version for name, version in on_cuda.items() if version},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of this checkout, with -dirty if the package differs from it; `unknown` where there is none."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():  # installed: a checkout further up is somebody else's
        return "unknown"
    try:
        name = _git(folder, "describe", "--always")
        # Of what runs: changed documents change no figure.
        return name + ("-dirty" if _git(folder, "status", "--porcelain", "rapids_slr", "kernels") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
