"""The ledger of a run: what every stage copied between host and device, from the trace that PyTorch's profiler wrote.

The profiler hears of every copy and kernel of the process, whichever library asked for it. Stages are the ranges that
`Clock.stage` leaves in the trace. As a stage ends only when the device has finished it, the work of a stage is what the
device did between its two ends.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from rapids_slr.errors import RunError
from rapids_slr.marks import RANGE

# As CUPTI calls a copy: `Memcpy HtoD (Pinned -> Device)`.
DIRECTIONS = {"HtoD": "to_device", "DtoH": "to_host"}


@dataclass
class Copies:
    """Copies in one direction."""

    count: int = 0
    bytes: int = 0
    largest: int = 0
    """Bytes of the largest single copy."""

    def add(self, size: int) -> None:
        self.count += 1
        self.bytes += size
        self.largest = max(self.largest, size)


@dataclass
class StageWork:
    """What the device did during a stage."""

    kernels: int = 0
    device_seconds: float = 0.0
    """Sum over kernels, copies and fills; more than the wall time where streams overlap."""
    to_device: Copies = field(default_factory=Copies)
    to_host: Copies = field(default_factory=Copies)


@contextmanager
def recorded() -> Iterator[Callable[[], dict[str, StageWork]]]:
    """Record the work of the device while the block runs; afterwards, call what it gives for the ledger.

    Raises: RunError if there is no CUDA device to record.
    """
    if not torch.cuda.is_available():
        raise RunError("the ledger counts copies to and from a CUDA device, and there is none here")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        yield lambda: _ledger(profiler)
        # While the profiler still listens, or what is queued would be missing.
        torch.cuda.synchronize()


def _ledger(profiler: Any) -> dict[str, StageWork]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return ledger_of(json.loads(path.read_text()))


def ledger_of(trace: Mapping[str, Any]) -> dict[str, StageWork]:
    """Work by stage of a Chrome trace of PyTorch's profiler.

    Args:
        trace: its JSON; times in microseconds.
    Returns: stages in the order of their first beginning; work outside of all stages stands under "".
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]  # those with a duration
    stages = sorted(
        (event["ts"], event["ts"] + event["dur"], event["name"].removeprefix(RANGE))
        for event in events
        if event.get("cat") == "user_annotation" and event["name"].startswith(RANGE)
    )
    ledger: dict[str, StageWork] = {name: StageWork() for _, _, name in stages}
    for event in events:
        if event.get("cat") not in ("kernel", "gpu_memcpy", "gpu_memset"):
            continue
        around = [(start, name) for start, end, name in stages if start <= event["ts"] <= end]
        work = ledger.setdefault(max(around)[1] if around else "", StageWork())  # the innermost stage
        work.device_seconds += event["dur"] / 1e6
        if event["cat"] == "kernel":
            work.kernels += 1
        for direction, name in DIRECTIONS.items():
            if event["cat"] == "gpu_memcpy" and direction in event["name"]:
                getattr(work, name).add(int(event["args"]["bytes"]))
    return ledger
