"""The choice of an engine, with the reasons it gives, on machines that are only pretended."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from rapids_slr import doctor
from rapids_slr.backend import choose_backend, steps
from rapids_slr.errors import InputError

NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine: what is wrong with its GPU, which libraries it lacks, and the CUDA version of its torch."""

    def pretend(fault: str | None = None, lacks: tuple[str, ...] = (), cuda: str | None = "13.2") -> None:
        def init() -> None:
            if fault:
                raise RuntimeError(fault)

        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name in lacks else found("json"))
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1) + 1)
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


def test_steps_say_what_has_no_cuda_engine_yet(machine):
    machine()
    engines = {step.name: step for step in steps(choose_backend("cuda"))}
    assert engines["networks, training"].engine == "cuda"
    assert engines["Jaccard graph, DBSCAN"].engine == "cpu"
    assert engines["Jaccard graph, DBSCAN"].why == "has no CUDA engine yet"
    assert {step.engine for step in steps(choose_backend("cpu"))} == {"cpu"}


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
    assert {step["name"] for step in findings["engine"]["steps"]} >= {"images, augmentation", "Jaccard graph, DBSCAN"}
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
    assert "has no CUDA engine yet" in text


@pytest.mark.parametrize(
    "fault",
    [FileNotFoundError("nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 5), PermissionError("nvidia-smi")],
)
def test_a_driver_that_does_not_answer_is_none(monkeypatch, fault):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(subprocess, "run", fail)
    assert doctor.driver() is None
