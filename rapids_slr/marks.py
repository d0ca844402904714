"""Wall time by stage; on a GPU a stage ends when the device has finished it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import record_function

RANGE = "stage: "
"""Prefix of a stage's name in the profiler's trace."""


class Clock:
    """Seconds of the stages of one epoch, and of the whole since the clock was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._started = self._now()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with record_function(RANGE + name):
            started = self._now()
            try:
                yield
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - started

    def row(self) -> dict[str, float]:
        """Columns `seconds/<stage>` and `seconds/epoch`."""
        total = self._now() - self._started
        return {f"seconds/{name}": round(value, 6) for name, value in (self._seconds | {"epoch": total}).items()}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
