"""What a user sees of long work: live bars on a terminal, a line now and then where there is none. All on stderr.

with Progress() as progress:
    with progress.task("epoch 3/50", total=400) as task:
        task.advance(1, images=64, ce=0.71)
    progress.say("epoch 3: mAP 70.1")
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TextIO

import rich.progress
from rich.console import Console

LIVE_SECONDS = 0.2
"""Least time between two changes of a bar."""
LINE_SECONDS = 10.0
"""Least time between two lines about the same task."""
BRIEF_SECONDS = 1.0
"""A task that ends sooner gets no line."""


class Progress(AbstractContextManager["Progress"]):
    """The tasks of one command.

    Args:
        stream: where to write; None takes stderr. A terminal gets live bars.
        now: the clock, in seconds.
    """

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(file=stream, stderr=stream is None)
        self.now = now
        self._live: rich.progress.Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.BarColumn(bar_width=24),
                rich.progress.TextColumn("{task.fields[state]}", markup=False),
                console=self._console,
                refresh_per_second=1 / LIVE_SECONDS,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # results that go to a file stay out of it
            )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def task(self, description: str, total: int | None, unit: str = "it") -> Task:
        """A new task of `total` steps, None where nobody knows; its bar stays until it is closed."""
        return Task(self, description, total, unit)

    def say(self, message: str) -> None:
        """Write a message, above the bars where there are any."""
        if self._live is not None:
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)
        else:
            print(message, file=self._console.file, flush=True)  # rich would break lines at 80 columns


class Task(AbstractContextManager["Task"]):
    """One stretch of work; made by Progress.task. Advancing costs about a microsecond but when it is shown."""

    def __init__(self, progress: Progress, description: str, total: int | None, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self.images = 0
        self.values: dict[str, float] = {}
        self.closed = False
        self._progress, self._live = progress, progress._live
        self._started = progress.now()
        self._every = LINE_SECONDS if self._live is None else LIVE_SECONDS
        self._next = self._started + self._every
        self._bar: rich.progress.TaskID | None = None
        if self._live is not None:
            self._bar = self._live.add_task(description, total=total, state=self.state(self._started))

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, steps: int = 1, images: int = 0, **values: float) -> None:
        """Count steps and the images they took; `values`, plain numbers, stay beside the bar until they change."""
        self.done += steps
        self.images += images
        if values:
            self.values |= values
        now = self._progress.now()
        if now >= self._next:
            self._next = now + self._every
            self._show(now)

    def close(self) -> None:
        """Take the bar away, or write the last line about a task that took a while."""
        if self.closed:
            return
        self.closed = True
        if self._live is not None and self._bar is not None:
            self._live.remove_task(self._bar)
        elif (now := self._progress.now()) - self._started >= BRIEF_SECONDS:
            self._show(now)

    def state(self, now: float) -> str:
        """Steps, speed, values, and the time left or, of a finished or closed task, taken."""
        # A clock may not have moved yet.
        seconds = max(now - self._started, 1e-9)
        parts = [f"{self.done}" if self.total is None else f"{self.done}/{self.total}"]
        if self.done:
            amount, unit = (self.images, "images") if self.images else (self.done, self.unit)
            parts.append(f"{_short(amount / seconds)} {unit}/s")
        parts += [f"{name} {_short(value)}" for name, value in self.values.items()]
        if self.closed or (self.total is not None and self.done >= self.total):
            parts.append(f"in {_duration(seconds)}")
        elif self.done and self.total is not None:
            parts.append(f"{_duration(seconds / self.done * (self.total - self.done))} left")
        return "  ".join(parts)

    def _show(self, now: float) -> None:
        if self._live is not None and self._bar is not None:
            self._live.update(self._bar, completed=self.done, state=self.state(now))
        else:
            self._progress.say(f"{self.description}  {self.state(now)}")


def _short(value: float) -> str:
    """Three digits that matter, without exponent where there is no need of one."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d} h" if hours else f"{minutes}:{seconds:02d} min"
