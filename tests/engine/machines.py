"""Machines that are only pretended: their GPU, its driver, and the libraries that draw on its memory."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from rapids_slr.engine import memory

NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"
SHARED = "one RMM pool for torch, CuPy, cuML and cuDF"


class Counted:
    """RMM's counter of what is allocated, with its stack of counters."""

    def __init__(self, upstream=None) -> None:
        self.stack = [[0, 0]]  # now, peak

    def allocate(self, size: int) -> None:
        self.stack[-1][0] += size
        self.stack[-1][1] = max(self.stack[-1])

    @property
    def allocation_counts(self):
        return SimpleNamespace(current_bytes=self.stack[-1][0], peak_bytes=self.stack[-1][1])

    def push_counters(self) -> None:
        self.stack.append([0, 0])

    def pop_counters(self) -> None:
        now, peak = self.stack.pop()
        below = self.stack[-1]
        below[1] = max(below[1], below[0] + peak)
        below[0] += now


@pytest.fixture
def pool(monkeypatch):
    """Pretend RMM and CuPy; what is done to them, in order."""
    done: list[str] = []

    class Blocks:
        def __init__(self, upstream, initial_pool_size) -> None:
            done.append(f"pool of {initial_pool_size}")

        def pool_size(self) -> int:
            return 1000

    mr = SimpleNamespace(
        CudaMemoryResource=object,
        PoolMemoryResource=Blocks,
        StatisticsResourceAdaptor=Counted,
        set_current_device_resource=lambda resource: done.append(f"rmm draws on {type(resource).__name__}"),
    )
    cupy = SimpleNamespace(
        cuda=SimpleNamespace(set_allocator=lambda allocator: done.append(f"cupy draws on {allocator}")),
        ndarray=type(None),
    )
    modules = {
        "cupy": cupy,
        "rmm": SimpleNamespace(mr=mr),
        "rmm.allocators": SimpleNamespace(),
        "rmm.allocators.cupy": SimpleNamespace(rmm_cupy_allocator="rmm"),
        "rmm.allocators.torch": SimpleNamespace(rmm_torch_allocator="rmm"),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(memory, "_pool", None)
    monkeypatch.setattr(memory, "_no_pool", "")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(
        torch.cuda.memory, "change_current_allocator", lambda allocator: done.append(f"torch draws on {allocator}")
    )
    return done


@pytest.fixture
def machine(monkeypatch, pool):
    """Pretend a machine: what is wrong with its GPU, which libraries it lacks, and the CUDA version of its torch."""

    def pretend(fault: str | None = None, lacks: tuple[str, ...] = (), cuda: str | None = "13.2") -> None:
        def init() -> None:
            if fault:
                raise RuntimeError(fault)

        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name in lacks else found("json"))
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch, "ones", lambda *_, **__: pool.append("torch computes") or torch.zeros(1) + 1)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: not fault)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (40 * 2**30, 80 * 2**30))
        facts = SimpleNamespace(name="NVIDIA H100", major=9, minor=0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)

    return pretend
