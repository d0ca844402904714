"""What `rapids-slr doctor` finds out about this machine; it chooses an engine as a run would, and leaves it at that."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from rapids_slr import __version__
from rapids_slr.engine.backend import choose_backend, steps, what_cuda_misses
from rapids_slr.engine.blocks import bfloat16_pays
from rapids_slr.errors import InputError
from rapids_slr.provenance import IN_DOCTOR, version_of

GiB = 2**30
NVIDIA_SMI_SECONDS = 5


def examine(device: str = "auto") -> dict[str, Any]:
    """All findings, ready for JSON.

    Args:
        device: as in a run spec. A device that cannot be had is a finding, not an error.
    """
    try:
        backend = choose_backend(device)
        engine: dict[str, Any] = {"asked": device, "takes": backend.name, "why": backend.why, "fault": None}
        engine["memory"] = backend.memory
        engine["steps"] = [asdict(step) for step in steps(backend)]
    except InputError as fault:
        engine = {"asked": device, "takes": None, "why": None, "fault": str(fault), "memory": None, "steps": []}
    memory = psutil.virtual_memory()
    return {
        "rapids_slr": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "gpus": gpus(),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "cuda_missing": what_cuda_misses(),
        "cpu": {"cores": usable_cores(), "threads_of_torch": torch.get_num_threads(), "bfloat16": bfloat16_pays()[1]},
        "memory": {"total_gib": round(memory.total / GiB, 1), "available_gib": round(memory.available / GiB, 1)},
        "disk": {"folder": str(Path.cwd()), "free_gib": round(shutil.disk_usage(Path.cwd()).free / GiB, 1)},
        "libraries": {name: version_of(name) for name in IN_DOCTOR},
        "engine": engine,
    }


def gpus() -> list[dict[str, Any]]:
    """The GPUs that torch can use."""
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)  # of all processes, as the driver counts
        found.append(
            {
                "name": facts.name,
                "compute_capability": f"{facts.major}.{facts.minor}",
                "memory_gib": round(total / GiB, 1),
                "free_gib": round(free / GiB, 1),
            }
        )
    return found


def driver() -> str | None:
    """Version of the NVIDIA driver by nvidia-smi; None where there is none that answers."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(answer.stdout.split()), None)


def usable_cores() -> int:
    """Cores this process may use, which a container or a batch system may have made fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def show(findings: Mapping[str, Any], console: Console | None = None) -> None:
    """The findings as tables."""
    # Paths may hold brackets, which are no markup.
    console = console or Console(markup=False, highlight=False)
    cpu, memory, disk = findings["cpu"], findings["memory"], findings["disk"]
    machine = Table(title="This machine", title_justify="left", show_header=False)
    for gpu in findings["gpus"] or [None]:
        machine.add_row("GPU", _gpu_line(gpu) if gpu else "none that torch can use")
    machine.add_row("NVIDIA driver", findings["driver"] or "none that answers")
    machine.add_row("CUDA of torch", findings["cuda"] or "none: a CPU build")
    machine.add_row("CUDA engine", "; ".join(findings["cuda_missing"]) or "ready")
    machine.add_row("CPU", f"{cpu['cores']} cores, {cpu['threads_of_torch']} threads of torch")
    machine.add_row("products", cpu["bfloat16"])
    machine.add_row("memory", f"{memory['available_gib']} of {memory['total_gib']} GiB available")
    machine.add_row("disk", f"{disk['free_gib']} GiB free in {disk['folder']}")
    console.print(machine)

    versions = Table(title="Versions", title_justify="left", show_header=False)
    versions.add_row("rapids_slr", findings["rapids_slr"])
    versions.add_row("python", findings["python"])
    for name, version in findings["libraries"].items():
        versions.add_row(name, version or "not installed")
    console.print(versions)

    engine = findings["engine"]
    if engine["fault"]:
        console.print(engine["fault"])
        return
    console.print(f"A run with device {engine['asked']} takes {engine['takes']}: {engine['why']}")
    console.print(f"Arrays are allocated from {engine['memory']}", soft_wrap=True)
    table = Table("step", "engine", "library", "why")
    for step in engine["steps"]:
        why = "as the run" if step["why"] == engine["why"] else step["why"]
        table.add_row(step["name"], step["engine"], step["library"], why)
    console.print(table)


def _gpu_line(gpu: Mapping[str, Any]) -> str:
    memory = f"{gpu['free_gib']} of {gpu['memory_gib']} GiB free"
    return f"{gpu['name']}, compute capability {gpu['compute_capability']}, {memory}"
