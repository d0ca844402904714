"""What `doctor` finds, on this machine and on pretended ones, and how it shows it."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
import torch
from rich.console import Console

from rapids_slr import doctor
from tests.engine.machines import NO_DRIVER, SHARED


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
    monkeypatch.setattr(doctor, "version_of", lambda library: None if library == "cuml" else "1.0")
    findings = doctor.examine("cuda")
    assert findings["engine"]["takes"] is None
    assert findings["libraries"]["cuml"] is None
    text = shown(findings)
    assert "not installed" in text
    assert "pip install 'rapids-slr[cuda13]'" in text  # brackets are not taken for markup


def test_doctor_with_a_gpu_and_without_rapids(machine):
    machine(lacks=("cuml", "cudf"))
    findings = doctor.examine()
    assert findings["cuda_missing"] == []
    text = shown(findings)
    assert "takes cuda: NVIDIA H100" in text
    assert "own kernels on the sparse graph" in text
    assert "cuDF is not installed: columns come to the host" in text


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
    assert {step["library"] for step in findings["engine"]["steps"]} >= {"cuML", "cuDF"}


@pytest.mark.parametrize(
    "fault",
    [FileNotFoundError("nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 5), PermissionError("nvidia-smi")],
)
def test_a_driver_that_does_not_answer_is_none(monkeypatch, fault):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(subprocess, "run", fail)
    assert doctor.driver() is None
