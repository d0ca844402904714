"""The work of a sweep: one process a run, several at a time where there are GPUs or --jobs for them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from rapids_slr.errors import InputError, RunError
from rapids_slr.files import make_folder, write_text
from rapids_slr.lock import held
from rapids_slr.progress import Progress, Task
from rapids_slr.provenance import commit
from rapids_slr.record.folder import RunFolder
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.tables import task_of
from rapids_slr.sweep.folder import Results, SweepFolder, record_of, results_of
from rapids_slr.sweep.plan import Run, Sweep
from rapids_slr.sweep.table import markdown

PROGRAM = (sys.executable, "-m", "rapids_slr")
POLL_SECONDS = 0.2
"""Time between two looks at the processes."""
PATIENCE_SECONDS = 20.0
"""Time that stopped processes have to end."""
COMES_DOWNLOADED = "omniglot-"
"""Layouts whose folder need not be there."""


@dataclass(frozen=True)
class Job:
    """One process: a run, or the pre-training that runs share."""

    name: str
    command: str
    """`adapt` or `pretrain`."""
    spec: RunSpec
    folder: RunFolder
    result: Path
    """The file that is there once the job is done."""
    needs: Job | None = None
    """The pre-training that has to be done before."""

    def epochs(self) -> int:
        """Epochs done."""
        rows = self.folder.pretrain_file if self.command == "pretrain" else self.folder.metrics_file
        return len(self.folder.rows(rows))

    def all_epochs(self) -> int:
        part = self.spec.pretrain if self.command == "pretrain" else self.spec.training
        assert part is not None
        return part.epochs


def jobs_of(sweep: Sweep, folder: SweepFolder) -> list[Job]:
    """What is left to do, in order: a pre-training stands before the first run that needs it."""
    jobs: list[Job] = []
    makers: dict[Path, Job] = {}
    for run in sweep.runs:
        where = folder.of_run(run)
        if where.summary_file.exists():
            continue
        needs = None
        # A run that has begun has a copy of its pre-training.
        if run.pretraining is not None and not where.pretrained_file.exists():
            shared = folder.of_pretraining(run.pretraining)
            file = shared.pretrained_file
            if not file.exists() and file not in makers:
                makers[file] = Job(f"pre-training for {run.name}", "pretrain", run.pretraining, shared, file)
                jobs.append(makers[file])
            needs = makers.get(file)
        jobs.append(Job(run.name, "adapt", folder.linked(run), where, where.summary_file, needs))
    return jobs


def run_sweep(sweep: Sweep, out: Path, resume: bool = False, jobs: int | None = None) -> Results:
    """Do what is left of a sweep. Runs that fail cost themselves alone; they are named in the results.

    Args:
        jobs: processes at a time; None takes one a visible GPU, or one on the CPU.
    Raises: InputError if the folder holds something else or data is missing; RunError where a file cannot be written.
    """
    folder = SweepFolder(out)
    folder.may_use(sweep, resume)
    check_files(sweep)
    make_folder(out)
    with held(out) as lock, Progress() as progress:
        folder.may_use(sweep, resume)  # again: another process may have had it
        folder.write_sweep(sweep)
        work = Work(sweep, folder, lanes(sweep, jobs), lock, progress)
        try:
            work.do(jobs_of(sweep, folder))
        except KeyboardInterrupt:
            done = sum(record["state"] == "done" for record in work.results()["runs"])
            progress.say(
                f"stopped; {done} of {len(sweep.runs)} runs are finished. "
                f"Go on with: rapids-slr sweep --resume --out {shlex.quote(str(out))}"
            )
            raise
        return work.results()


def check_files(sweep: Sweep) -> None:
    """Raises: InputError naming the data sets and checkpoints that runs need and that are not there."""
    wanted: dict[tuple[str, str], str] = {}
    for run in sweep.runs:
        spec = run.spec
        for role, domain in (*(("source", source) for source in spec.data.sources), ("target", spec.data.target)):
            if domain.path and not domain.layout.startswith(COMES_DOWNLOADED):
                wanted.setdefault((f"data.{role}.path", domain.path), run.name)
        if spec.checkpoint is not None:
            wanted.setdefault(("pretrain.checkpoint", spec.checkpoint), run.name)
    faults = [
        f"{name}: {key}: {path} does not exist; give one with --set {key}=..."
        for (key, path), name in wanted.items()
        if not Path(path).exists()
    ]
    if faults:
        raise InputError("\n".join(faults))


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


def lanes(sweep: Sweep, jobs: int | None) -> list[Lane]:
    """GPUs in turn, and an equal part of the CPU's threads for each process unless OMP_NUM_THREADS is set."""
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
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    start: int
    """Bytes of the log before this start."""
    bar: Task
    seen: int
    """Epochs that the bar has counted, or that were there before."""

    def message(self) -> str:
        """Why it failed: its error, else the signal that ended it or the last line it wrote."""
        # The log goes on from start to start. The command line puts `error:` before its one message.
        text = self.log.read_bytes()[self.start :].decode("utf-8", errors="replace").strip()
        errors = re.split(r"^error:", text, flags=re.MULTILINE)[1:]
        code = self.process.returncode
        if code < 0:
            hint = ", as where memory runs out" if code == -signal.SIGKILL else ""
            return f"ended by {signal.Signals(-code).name}{hint}; see {self.log}"
        reason = errors[-1].strip() if errors else (text.splitlines() or ["nothing was written"])[-1]
        return f"exit code {code}: {reason}; see {self.log}"


@dataclass
class Work:
    """The processes of a sweep and what came of them."""

    sweep: Sweep
    folder: SweepFolder
    lanes: Sequence[Lane]
    lock: int
    progress: Progress
    failed: dict[str, str] = field(default_factory=dict)
    """What failed, by name, with the reason."""
    running: dict[int, Child] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the runs that are done."""

    def do(self, jobs: Sequence[Job]) -> None:
        waiting = list(jobs)
        total = sum(job.command == "adapt" for job in jobs)
        self.save()
        with self.progress.task(f"sweep {self.sweep.name}", total, "runs") as bar:
            try:
                while waiting or self.running:
                    for number, lane in enumerate(self.lanes):
                        if number not in self.running and (job := self.next_of(waiting, bar)):
                            self.running[number] = self.start(job, lane)
                    time.sleep(POLL_SECONDS)
                    for number in list(self.running):
                        self.look_at(number, bar)
            finally:
                self.stop()
                self.save()

    def next_of(self, waiting: list[Job], bar: Task) -> Job | None:
        """Take the first job whose pre-training is there; runs whose pre-training failed have failed."""
        # A copy, as jobs are taken out on the way.
        for job in list(waiting):
            if job.needs is None or job.needs.result.exists():
                waiting.remove(job)
                return job
            if job.needs.name in self.failed:
                waiting.remove(job)
                self.fail(job, f"its pre-training failed, {self.failed[job.needs.name]}", bar)
        return None

    def start(self, job: Job, lane: Lane) -> Child:
        where = job.folder
        if not where.pretrained_file.exists():  # nothing was started from it, and the sweep may have moved
            where.write_spec(job.spec)
        start = {"commit": commit(), "threads": lane.threads, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        where.append(where.path / "starts.jsonl", start)
        log = where.path / "run.log"
        done = job.epochs()
        bar = self.progress.task(job.name, job.all_epochs() - done, "epochs")
        # --resume in any case: the folder has its spec, and what a stopped run had done counts.
        words = [job.command, "--resume", "--out", str(where.path), "--device", job.spec.device]
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [*PROGRAM, *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=lane.environment(),
                # The lock is held as long as any process has it: a run that outlives its sweep keeps others out.
                pass_fds=[self.lock],
            )
            return Child(job, process, log, file.tell(), bar, done)

    def look_at(self, number: int, bar: Task) -> None:
        """Count the epochs of a process, and take leave of it where it has ended."""
        child = self.running[number]
        # Asked before the epochs are counted, so that none of the last moment is missed.
        ended = child.process.poll() is not None
        done = child.job.epochs()
        if done > child.seen:
            child.bar.advance(done - child.seen)
            child.seen = done
        if not ended:
            return
        del self.running[number]
        child.bar.close()
        job = child.job
        # An exit code alone is no result.
        if child.process.returncode == 0 and job.result.exists():
            if job.command == "adapt":
                bar.advance()
                self.save()
                record, scores = self.records[job.name], task_of(self.sweep.base).shown()
                ends = record["scores"][record["result"]]
                shown = [f"{column.name} {column.text(ends[column.key])}" for column in scores if column.key in ends]
                self.progress.say(f"{job.name}: {'  '.join(shown) or 'done, without scores'}")
        else:
            self.fail(job, child.message(), bar)

    def fail(self, job: Job, why: str, bar: Task) -> None:
        self.failed[job.name] = why
        self.progress.say(f"{job.name} failed: {why}")
        if job.command == "adapt":
            bar.advance()
            self.save()

    def stop(self) -> None:
        """End all processes as Ctrl-C would, by force if need be; they can be resumed."""
        # To all of them before any is waited for, so that they end side by side within one time.
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in self.running.values():
                child.process.send_signal(number)  # which does nothing to one that has ended
            end = time.monotonic() + PATIENCE_SECONDS
            for child in self.running.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.0, end - time.monotonic()))
        for child in self.running.values():
            child.bar.close()
        self.running.clear()

    def results(self) -> Results:
        return results_of(self.sweep, [self.record(run) for run in self.sweep.runs])

    def record(self, run: Run) -> dict[str, Any]:
        # What is done does not change: its files are read once.
        if run.name not in self.records:
            record = record_of(run, self.folder.of_run(run), self.failed.get(run.name))
            if record["state"] != "done":
                return record
            self.records[run.name] = record
        return self.records[run.name]

    def save(self) -> None:
        results = self.results()
        self.folder.write_results(results)
        write_text(self.folder.table_file, markdown(results))


def failures(results: Results) -> RunError | None:
    """What to raise at the end of a sweep in which runs failed."""
    failed = [run for run in results["runs"] if run["state"] == "failed"]
    if not failed:
        return None
    lines = [f"{run['pair']}/{run['method']}/seed-{run['seed']}: {run['fault']}" for run in failed]
    head = f"{len(failed)} of {len(results['runs'])} runs failed; try them again with --resume"
    return RunError("\n".join([head, *lines]))
