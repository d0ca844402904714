"""Jobs of a sweep as tasks of Ray: on this machine, or on those of a cluster, which share the folder of the sweep.

A task is the command itself, in a worker process of its own. Ray starts a task again whose worker was killed, on any
machine; the command goes on from the last checkpoint of its run folder.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from rapids_slr.errors import InputError
from rapids_slr.sweep.jobs import Job, Places, note_start, why_failed

LOCAL = "local"
"""The address of a Ray that is started here and ends with the sweep."""
RETRIES = 2
"""Times that a job is started again whose worker was killed."""
CONNECT_SECONDS = 5.0
SEEN_SECONDS = 60.0
"""Time that shared storage has to show here what was written on another machine."""
SHARED = "the folder of a sweep, and where it is started, have to lie on storage that all machines share"


class Cluster(Places):
    """The machines of a Ray.

    Args:
        address: `local` starts one on this machine; `auto` takes the one that runs here, HOST:PORT that of its head. A
            Ray that this program has joined already is taken whatever the address is.
    Raises: InputError if Ray is not installed; on entering, if none is found there.
    """

    def __init__(self, address: str = LOCAL) -> None:
        try:
            import ray
        except ImportError as fault:
            raise InputError(f"--ray: Ray is not installed ({fault}); pip install 'rapids-slr[cluster]'") from fault
        self.ray: Any = ray
        self.address = address
        self.option = f"--ray {address}"
        self._joined = ExitStack()

    def __enter__(self) -> Cluster:
        with ExitStack() as joining:
            if not self.ray.is_initialized():
                self._join()
                joining.callback(self.ray.shutdown)
            joining.enter_context(redirect_stdout(sys.stderr))  # what Ray says is no result
            self._joined = joining.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._joined.close()

    def _join(self) -> None:
        local = {"include_dashboard": False} if self.address == LOCAL else {}
        # It would report its use to its makers, and say at length what it will do some day where there is no GPU.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        on_stop = signal.getsignal(signal.SIGTERM)  # Ray puts its own in place
        try:
            _check_reached(self.address)
            self.ray.init(self.address, log_to_driver=False, logging_level="ERROR", **local)
        except Exception as fault:  # of a dozen kinds
            advice = "start one with `ray start --head`, or leave ADDRESS out for one of this machine"
            raise InputError(f"--ray {self.address}: no Ray was found there ({fault}); {advice}") from fault
        finally:
            signal.signal(signal.SIGTERM, on_stop)

    def free(self) -> bool:
        return True  # Ray has the queue, by which a cluster that grows knows what is wanted

    def start(self, job: Job, locks: Sequence[int]) -> Task:
        has_gpus = self.ray.cluster_resources().get("GPU", 0) > 0
        gpu = job.spec.device == "cuda" or (job.spec.device == "auto" and has_gpus)
        threads = str(self._threads(gpu))
        settings = {
            "num_cpus": 1,
            "num_gpus": int(gpu),
            "max_retries": RETRIES,
            "max_calls": 1,  # a process for every job: memory, of the GPU too, is free when it ends
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}},
        }
        task = self.ray.remote(**settings)(run_here).remote(job, os.getcwd())
        return Task(self.ray, task, job)

    def _threads(self, gpu: bool) -> int:
        """Threads of a task: one, and with a GPU its share of the machine's; OMP_NUM_THREADS in place of both."""
        if "OMP_NUM_THREADS" in os.environ:
            return torch.get_num_threads()
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
        return max(1, min((int(found["CPU"] / found["GPU"]) for found in machines), default=1)) if gpu else 1


def _check_reached(address: str) -> None:
    """Ray itself tries for two minutes, and then ends the program."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


class Task:
    """A job that is a task of Ray."""

    def __init__(self, ray: Any, task: Any, job: Job) -> None:
        self.ray, self.task, self.job = ray, task, job
        self._ended: float | None = None
        self._fault: str | None = None

    def ended(self) -> bool:
        if self._ended is None and self.ray.wait([self.task], timeout=0)[0]:
            self._ended = time.monotonic()
            try:
                self._fault = self.ray.get(self.task)
            except Exception as fault:  # of Ray, or of a task that could not begin
                reason = ": ".join([type(fault).__name__, *str(fault).strip().splitlines()[-1:]])
                self._fault = f"{reason}; see {self.job.log}"
        if self._ended is None:
            return False
        return bool(self._fault) or self.job.result.exists() or time.monotonic() - self._ended > SEEN_SECONDS

    def fault(self) -> str | None:
        if self._fault is None and not self.job.result.exists():
            return f"it was done, but {self.job.result} is not to be seen on {platform.node()}; {SHARED}"
        return self._fault

    def stop(self, force: bool) -> None:
        if not self.ended():
            self.ray.cancel(self.task, force=force)


def run_here(job: Job, folder: str) -> str | None:
    """Do a job, in a worker of Ray.

    Args:
        folder: where the sweep was started: relative paths count from there.
    Returns: why it failed; None if it is done.
    """
    from rapids_slr.cli import main

    for path in (Path(folder), Path(folder, job.folder.spec_file)):
        if not path.exists():
            return f"{path} is not to be seen on {platform.node()}; {SHARED}"
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by which Ray stops a task; ignored below some shells
    note_start(job.folder, torch.get_num_threads())
    with written_to(job.log) as start:
        code = main(job.words())
    return None if code == 0 and job.result.exists() else why_failed(code, job.log, start)


@contextmanager
def written_to(log: Path) -> Iterator[int]:
    """What this process writes goes to the end of a file; gives its length before."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with open(log, "ab") as file:
        try:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            yield file.tell()
        finally:
            for stream, before in zip((1, 2), kept, strict=True):
                os.dup2(before, stream)
                os.close(before)
