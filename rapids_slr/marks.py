"""Stages of an epoch, marked where they happen, and the clock that reads them.

`with stage("features"):` marks a stretch of the epoch, `@step("neighbours")` a function that does one step within it.
Whoever measures listens: `heard_by(listener)`. Where nobody does, a mark costs less than a microsecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch.profiler import record_function

Given = ParamSpec("Given")
Result = TypeVar("Result")

RANGE = "stage: "
"""Prefix of a stage's name in the profiler's trace."""


class Listener(Protocol):
    """One who measures what is marked."""

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Opened around a stretch of the epoch."""

    def step(
        self, name: str, function: Callable[..., Result], args: tuple[Any, ...], options: dict[str, Any]
    ) -> Result:
        """Called in place of a marked function; it has to call it, and gives what that gives."""


# A thread begins with a context of its own, in which nobody listens.
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_NOTHING = nullcontext()


def stage(name: str) -> AbstractContextManager[Any]:
    """Mark a stretch of the epoch."""
    listener = _listener.get()
    return _NOTHING if listener is None else listener.stage(name)


def step(name: str) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Mark a function as one step of a stage; several functions may be parts of one step."""

    def marked(function: Callable[Given, Result]) -> Callable[Given, Result]:
        @wraps(function)
        def heard(*args: Given.args, **options: Given.kwargs) -> Result:
            listener = _listener.get()
            if listener is None:
                return function(*args, **options)
            return listener.step(name, function, args, options)

        return heard

    return marked


@contextmanager
def heard_by(listener: Listener | None) -> Iterator[None]:
    """Let `listener` hear all marks of this thread while the block runs; None lets nobody hear them."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


class Clock:
    """Seconds of the stages of one epoch, and of the whole since the clock was made.

    On a GPU a stage ends when the device has finished it. A stage within another one is counted to itself alone, and
    steps are not looked at.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._inner: list[float] = []
        self._started = self._now()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with record_function(RANGE + name):
            started = self._now()
            self._inner.append(0.0)  # seconds of the stages within this one
            try:
                yield
            finally:
                seconds = self._now() - started
                self._seconds[name] = self._seconds.get(name, 0.0) + seconds - self._inner.pop()
                if self._inner:
                    self._inner[-1] += seconds

    def step(
        self, name: str, function: Callable[..., Result], args: tuple[Any, ...], options: dict[str, Any]
    ) -> Result:
        return function(*args, **options)

    def row(self) -> dict[str, float]:
        """Columns `seconds/<stage>` and `seconds/epoch`."""
        total = self._now() - self._started
        return {f"seconds/{name}": round(value, 6) for name, value in (self._seconds | {"epoch": total}).items()}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
