from __future__ import annotations

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from rapids_slr.errors import RunError
from rapids_slr.marks import Clock
from rapids_slr.profiling import Copies, StageWork, ledger_of, recorded


def stage(name: str, start: float, seconds: float) -> dict:
    return {"ph": "X", "cat": "user_annotation", "name": f"stage: {name}", "ts": start, "dur": seconds, "args": {}}


def copy(kind: str, start: float, size: int) -> dict:
    name = f"Memcpy {kind} (Device -> Pageable)"
    return {"ph": "X", "cat": "gpu_memcpy", "name": name, "ts": start, "dur": 2.0, "args": {"bytes": size}}


def kernel(start: float, duration: float) -> dict:
    return {"ph": "X", "cat": "kernel", "name": "_label_cuda", "ts": start, "dur": duration, "args": {}}


def test_copies_belong_to_the_stage_in_which_the_device_made_them():
    trace = {
        "traceEvents": [
            copy("DtoH", 5.0, 8),  # before all stages
            stage("clusters", 10.0, 100.0),
            copy("HtoD", 20.0, 400),
            copy("DtoH", 30.0, 4),
            copy("DtoH", 40.0, 60),
            copy("DtoD", 45.0, 10**6),  # stays on the device
            kernel(50.0, 7.0),
            stage("refinement", 120.0, 50.0),
            kernel(130.0, 1.0),
            {"ph": "i", "name": "no duration", "ts": 131.0},
            {"ph": "X", "cat": "cpu_op", "name": "Memcpy DtoH", "ts": 132.0, "dur": 1.0, "args": {"bytes": 99}},
        ]
    }
    ledger = ledger_of(trace)
    assert list(ledger) == ["clusters", "refinement", ""]
    clusters = ledger["clusters"]
    assert clusters.to_device == Copies(count=1, bytes=400, largest=400)
    assert clusters.to_host == Copies(count=2, bytes=64, largest=60)
    assert clusters.kernels == 1
    assert clusters.device_seconds == pytest.approx(15e-6)
    assert ledger["refinement"] == StageWork(kernels=1, device_seconds=pytest.approx(1e-6))
    assert ledger[""].to_host.bytes == 8


def test_a_stage_within_a_stage_takes_what_happens_in_it():
    trace = {"traceEvents": [stage("outer", 0.0, 100.0), stage("inner", 10.0, 20.0), copy("DtoH", 15.0, 3)]}
    ledger = ledger_of(trace)
    assert ledger["inner"].to_host.bytes == 3
    assert ledger["outer"] == StageWork()


def test_stages_of_a_clock_are_found_in_a_real_trace(tmp_path):
    clock = Clock(torch.device("cpu"))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for name in ("features", "clusters"):
            with clock.stage(name):
                torch.ones(10).sum()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    ledger = ledger_of(json.loads((tmp_path / "trace.json").read_text()))
    assert ledger == {"features": StageWork(), "clusters": StageWork()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_there_is_nothing_to_record():
    with pytest.raises(RunError, match="none here"), recorded():
        pass
