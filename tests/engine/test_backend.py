"""The choice of an engine, with the reasons it gives, on machines that are only pretended."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from rapids_slr import doctor
from rapids_slr.engine import backend
from rapids_slr.engine.arrays import on_torch_stream
from rapids_slr.engine.backend import choose_backend, device_memory, out_of_memory, reset_peak, steps
from rapids_slr.errors import InputError

NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"


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
    monkeypatch.setattr(backend, "_pool", None)
    monkeypatch.setattr(backend, "_no_pool", "")
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


def refusal() -> str:
    with pytest.raises(InputError) as raised:
        choose_backend("cuda")
    return str(raised.value)


def test_the_cpu_is_had_for_the_asking():
    chosen = choose_backend("cpu")
    assert (chosen.name, chosen.device) == ("cpu", torch.device("cpu"))
    assert chosen.why


def test_cuda_is_taken_where_it_works(machine):
    machine()
    for device in ("auto", "cuda"):
        chosen = choose_backend(device)
        assert (chosen.name, chosen.device) == ("cuda", torch.device("cuda", 0))
        assert chosen.why == "NVIDIA H100, compute capability 9.0"


def test_without_a_driver_cuda_is_refused_and_auto_says_why(machine):
    machine(fault=NO_DRIVER)
    assert refusal() == (
        "device cuda: no usable GPU: Found no NVIDIA driver on your system "
        "(install the NVIDIA driver; give a container its GPU with --gpus all); or run with --device cpu"
    )
    chosen = choose_backend("auto")
    assert chosen.name == "cpu"
    assert chosen.why.startswith("no usable GPU: Found no NVIDIA driver on your system")


@pytest.mark.parametrize(
    ("lacks", "cuda", "text"),
    [
        (("cuml",), "13.2", "cuML is not installed (pip install 'rapids-slr[cuda13]')"),
        (("cupy", "cuml", "cudf"), "12.9", "CuPy, cuML and cuDF are not installed (pip install 'rapids-slr[cuda12]')"),
        (("numba_cuda",), "13.2", "numba-cuda is not installed"),
    ],
)
def test_missing_libraries_are_named_with_the_command_that_brings_them(machine, lacks, cuda, text):
    machine(lacks=lacks, cuda=cuda)
    assert text in refusal()
    assert text in choose_backend("auto").why


def test_all_that_is_missing_is_named_at_once(machine):
    machine(fault=NO_DRIVER, lacks=("cupy", "numba_cuda", "cuml", "cudf"))
    assert "no usable GPU" in refusal()
    assert "CuPy, numba-cuda, cuML and cuDF are not installed" in refusal()


def test_a_torch_without_cuda_is_named(machine):
    machine(cuda=None)
    assert "is built without CUDA" in refusal()


def test_a_gpu_that_torch_has_no_code_for_is_found_out(machine, monkeypatch):
    machine()

    def fail(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch, "ones", fail)
    assert "no kernel image is available for execution on the device (" in refusal()


def test_an_unknown_device_is_refused():
    with pytest.raises(InputError, match="expected auto, cpu or cuda, got gpu"):
        choose_backend("gpu")


def test_steps_name_engine_and_library(machine):
    machine()
    on_cuda = {step.name: step for step in steps(choose_backend("cuda"))}
    on_cpu = {step.name: step for step in steps(choose_backend("cpu"))}
    assert on_cuda.keys() == on_cpu.keys()
    assert {step.engine for step in on_cuda.values()} == {"cuda"}
    assert {step.engine for step in on_cpu.values()} == {"cpu"}
    assert (on_cuda["label tables"].library, on_cpu["label tables"].library) == ("cuDF", "pandas")
    assert "quarter of the free memory" in on_cuda["DBSCAN"].why
    assert on_cuda["label tables"].why == "NVIDIA H100, compute capability 9.0"
    assert on_cpu["DBSCAN"].why == "device: cpu was asked for"


# The shared pool -----------------------------------------------------------------------------------------------------

SHARED = "one RMM pool for torch, CuPy, cuML and cuDF"


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


def test_torch_may_refuse_another_allocator(machine, pool, monkeypatch):
    machine()

    def fail(allocator):
        raise RuntimeError("Can't swap an already initialized allocator")

    monkeypatch.setattr(torch.cuda.memory, "change_current_allocator", fail)
    assert "(Can't swap an already initialized allocator)" in choose_backend("cuda").memory
    assert pool == ["pool of 1073741824", "torch computes"]


@pytest.mark.parametrize("trouble", [{"fault": NO_DRIVER}, {"lacks": ("cuml",)}, {"cuda": None}])
def test_no_pool_is_made_for_the_cpu(machine, pool, trouble):
    machine(**trouble)
    assert choose_backend("auto").memory == "host memory"
    assert not any(step.startswith("pool") for step in pool)


def test_memory_in_use_and_its_peak(machine):
    machine()
    device = choose_backend("cuda").device
    counted = backend._pool.counted
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


def test_on_the_cpu_there_is_no_stream_to_change():
    with on_torch_stream(torch.zeros(2)), on_torch_stream(torch.device("cpu")), on_torch_stream([1.0]):
        pass


# doctor --------------------------------------------------------------------------------------------------------------


def shown(findings) -> str:
    console = Console(width=400, markup=False, highlight=False)
    with console.capture() as capture:
        doctor.show(findings, console)
    return capture.get()


def test_doctor_on_this_machine_is_quick_and_whole():
    started = time.monotonic()
    findings = doctor.examine()
    assert time.monotonic() - started < 10
    assert json.loads(json.dumps(findings)) == findings
    assert (
        findings["libraries"]["torch"] == torch.__version__.partition("+")[0] or "+" in findings["libraries"]["torch"]
    )
    assert findings["cpu"]["cores"] >= 1
    assert findings["memory"]["total_gib"] > 0
    assert {step["name"] for step in findings["engine"]["steps"]} >= {"images, augmentation", "DBSCAN"}
    assert findings["engine"]["why"] in shown(findings)


def test_doctor_without_gpu_and_without_rapids(machine, monkeypatch):
    machine(fault=NO_DRIVER, lacks=("cupy", "numba_cuda", "cuml", "cudf"))
    monkeypatch.setattr(doctor, "version_of", lambda *names: None if "cuml" in names[-1] else "1.0")
    findings = doctor.examine("cuda")
    assert findings["engine"]["takes"] is None
    assert findings["libraries"]["cuml"] is None
    text = shown(findings)
    assert "not installed" in text
    assert "pip install 'rapids-slr[cuda13]'" in text  # brackets are not taken for markup


def test_doctor_with_a_gpu(machine, monkeypatch):
    machine()
    answer = subprocess.CompletedProcess([], 0, stdout="580.65.06\n580.65.06\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    findings = doctor.examine()
    assert findings["driver"] == "580.65.06"
    assert findings["gpus"] == [
        {"name": "NVIDIA H100", "compute_capability": "9.0", "memory_gib": 80.0, "free_gib": 40.0}
    ]
    text = shown(findings)
    assert "takes cuda: NVIDIA H100, compute capability 9.0" in text
    assert f"Arrays are allocated from {SHARED}" in text
    assert {step["library"] for step in findings["engine"]["steps"]} >= {"cuML, Numba", "cuDF"}


@pytest.mark.parametrize(
    "fault",
    [FileNotFoundError("nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 5), PermissionError("nvidia-smi")],
)
def test_a_driver_that_does_not_answer_is_none(monkeypatch, fault):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(subprocess, "run", fail)
    assert doctor.driver() is None
