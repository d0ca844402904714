"""The pool that all libraries share, what it holds, and what is made of running out of it, on pretended machines."""

from __future__ import annotations

import sys

import pytest
import torch

from rapids_slr.engine import memory
from rapids_slr.engine.backend import choose_backend
from rapids_slr.engine.memory import device_memory, memory_advice, out_of_memory, reset_peak
from rapids_slr.errors import InputError, RunError
from tests.engine.machines import NO_DRIVER, SHARED


def test_the_pool_is_shared_before_torch_computes(machine, pool):
    machine()
    assert choose_backend("auto").memory == SHARED
    assert pool == [
        "pool of 1073741824",
        "torch draws on rmm",
        "rmm draws on Counted",
        "cupy draws on rmm",
        "torch computes",
    ]
    pool.clear()
    assert choose_backend("cuda").memory == SHARED  # the second run of a process has it already
    assert pool == ["torch computes"]


def test_the_pool_can_be_switched_off(machine, pool):
    machine()
    chosen = choose_backend("cuda", memory_pool="torch")
    assert chosen.memory == "a pool for each library, because memory_pool: torch was asked for"
    assert pool == ["torch computes"]
    with pytest.raises(InputError, match="memory_pool: expected rmm or torch, got cuda"):
        choose_backend("cuda", memory_pool="cuda")


def test_after_torch_has_used_the_gpu_there_is_no_shared_pool(machine, pool, monkeypatch):
    machine()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    chosen = choose_backend("cuda")
    assert chosen.name == "cuda"
    assert chosen.memory == ("a pool for each library, because torch had used the GPU before the pool was asked for")
    assert pool == ["torch computes"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (MemoryError("std::bad_alloc: out_of_memory"), "RMM's could not be set up (std::bad_alloc: out_of_memory)"),
        (ImportError("librmm.so: cannot open shared object file\n"), "(librmm.so: cannot open shared object file)"),
        (MemoryError(), "RMM's could not be set up (MemoryError)"),
    ],
)
def test_a_pool_that_fails_is_no_reason_to_stop(machine, pool, monkeypatch, fault, reason):
    machine()

    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(sys.modules["rmm"].mr, "PoolMemoryResource", fail)
    chosen = choose_backend("cuda")
    assert chosen.name == "cuda"
    assert reason in chosen.memory
    assert pool == ["torch computes"]  # torch and CuPy keep what they had


def test_without_rmm_each_library_has_its_pool(machine, pool, monkeypatch):
    machine(lacks=("cuml", "cudf"))
    monkeypatch.setitem(sys.modules, "rmm", None)
    assert "each library, because RMM's could not be set up (import of rmm halted" in choose_backend("cuda").memory
    assert pool == ["torch computes"]


def test_torch_may_refuse_another_allocator(machine, pool, monkeypatch):
    machine()

    def fail(allocator):
        raise RuntimeError("Can't swap an already initialized allocator")

    monkeypatch.setattr(torch.cuda.memory, "change_current_allocator", fail)
    assert "(Can't swap an already initialized allocator)" in choose_backend("cuda").memory
    assert pool == ["pool of 1073741824", "torch computes"]


@pytest.mark.parametrize("trouble", [{"fault": NO_DRIVER}, {"lacks": ("numba_cuda",)}, {"cuda": None}])
def test_no_pool_is_made_for_the_cpu(machine, pool, trouble):
    machine(**trouble)
    assert choose_backend("auto").memory == "host memory"
    assert not any(step.startswith("pool") for step in pool)


def test_memory_in_use_and_its_peak(machine):
    machine()
    device = choose_backend("cuda").device
    counted = memory._pool.counted
    counted.allocate(300)
    counted.allocate(-100)
    assert (device_memory(device).used, device_memory(device).peak) == (200, 300)
    assert device_memory(device).free == 40 * 2**30 + 1000 - 200
    for _ in range(2):
        reset_peak(device)
        assert (device_memory(device).used, device_memory(device).peak) == (200, 200)
        counted.allocate(50)
        counted.allocate(-50)
        assert (device_memory(device).used, device_memory(device).peak) == (200, 250)
    counted.allocate(-150)
    reset_peak(device)
    assert (device_memory(device).used, device_memory(device).peak) == (50, 50)


def test_how_libraries_say_that_memory_has_run_out():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(MemoryError("std::bad_alloc: out_of_memory: CUDA error"))
    assert out_of_memory(RuntimeError("std::bad_alloc: out_of_memory: CUDA error (failed to allocate 8 bytes)"))
    assert not out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not out_of_memory(ValueError("bad_alloc"))
    assert not out_of_memory(RunError("embedding (std::bad_alloc): lower it")), "it has its advice"


def test_running_out_of_memory_ends_in_advice():
    with (
        pytest.raises(RunError, match="embedding: memory has run out; lower it"),
        memory_advice("embedding", "lower it"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_errors_pass_the_advice():
    with pytest.raises(RuntimeError, match="an illegal memory access"), memory_advice("one", "do two"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
