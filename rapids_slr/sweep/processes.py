"""Jobs of a sweep as processes of this machine: one a GPU, or some that share its cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rapids_slr.sweep.jobs import Job, Places, note_start, why_failed
from rapids_slr.sweep.plan import Sweep

PROGRAM = (sys.executable, "-m", "rapids_slr")


@dataclass(frozen=True)
class Lane:
    """Where one process at a time runs."""

    threads: int
    """CPU threads of torch."""
    gpu: str | None = None
    """What CUDA_VISIBLE_DEVICES is set to."""
    share: bool = False
    """Other lanes work beside this one."""

    def environment(self) -> dict[str, str]:
        # Numba takes all cores whatever OMP_NUM_THREADS says; a process alone may have them.
        found = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        if self.share:
            found.setdefault("NUMBA_NUM_THREADS", str(self.threads))
        return found | ({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})


def lanes(sweep: Sweep, jobs: int | None = None) -> list[Lane]:
    """GPUs in turn, and an equal part of the CPU's threads for each process unless OMP_NUM_THREADS is set.

    Args:
        jobs: processes at a time; None takes one a visible GPU, or one on the CPU.
    """
    gpus = visible_gpus() if any(run.spec.device != "cpu" for run in sweep.runs) else []
    number = max(1, len(gpus)) if jobs is None else jobs
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, threads // number)
    return [Lane(threads, gpus[i % len(gpus)] if gpus else None, number > 1) for i in range(number)]


def visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return (named.split(",") if named else [str(index) for index in range(count)])[:count]


@dataclass
class Child:
    """A job that is a process."""

    job: Job
    process: subprocess.Popen[bytes]
    start: int
    """Bytes of its log before this start."""

    def ended(self) -> bool:
        return self.process.poll() is not None

    def fault(self) -> str | None:
        # An exit code alone is no result.
        if self.process.returncode == 0 and self.job.result.exists():
            return None
        return why_failed(self.process.returncode, self.job.log, self.start)

    def stop(self, force: bool) -> None:
        if force:
            self.process.kill()
        else:
            self.process.terminate()


class Processes(Places):
    """Processes of this machine, one at a time in each lane."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes
        self._running: dict[int, Child] = {}

    def free(self) -> bool:
        return self._free_lane() is not None

    def _free_lane(self) -> int | None:
        numbers = range(len(self.lanes))
        return next((number for number in numbers if self._is_free(number)), None)

    def _is_free(self, number: int) -> bool:
        return number not in self._running or self._running[number].ended()

    def start(self, job: Job, locks: Sequence[int]) -> Child:
        number = self._free_lane()
        assert number is not None
        lane = self.lanes[number]
        note_start(job.folder, lane.threads)
        with open(job.log, "ab") as file:
            process = subprocess.Popen(
                [*PROGRAM, *job.words()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=lane.environment(),
                pass_fds=locks,
            )
            self._running[number] = Child(job, process, file.tell())
        return self._running[number]
