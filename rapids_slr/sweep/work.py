"""The work of a sweep: jobs are started as places are free and what they need is there, and their results gathered."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapids_slr.errors import RunError
from rapids_slr.files import make_folder, write_text
from rapids_slr.lock import held
from rapids_slr.progress import Progress, Task
from rapids_slr.settings.tables import task_of
from rapids_slr.sweep.folder import Results, SweepFolder, record_of, results_of
from rapids_slr.sweep.jobs import Job, Places, Started, check_files, jobs_of
from rapids_slr.sweep.plan import Run, Sweep
from rapids_slr.sweep.processes import Processes, lanes
from rapids_slr.sweep.table import markdown

POLL_SECONDS = 0.2
"""Time between two looks at what was started."""
PATIENCE_SECONDS = 20.0
"""Time that stopped jobs have to end."""


def run_sweep(sweep: Sweep, out: Path, resume: bool = False, places: Places | None = None) -> Results:
    """Do what is left of a sweep. Runs that fail cost themselves alone; they are named in the results.

    Args:
        places: where the runs are done; None takes a process of this machine for each visible GPU, or one on the CPU.
    Raises: InputError if the folder holds something else or data is missing; RunError where a file cannot be written.
    """
    folder = SweepFolder(out)
    folder.may_use(sweep, resume)
    check_files(sweep.runs)
    make_folder(out)
    with held(out) as lock, Progress() as progress, places or Processes(lanes(sweep)) as open_places:
        folder.may_use(sweep, resume)  # again: another process may have had it
        folder.write_sweep(sweep)
        work = Work(sweep, folder, open_places, lock, progress)
        try:
            work.do(jobs_of(sweep.runs, folder))
        except KeyboardInterrupt:
            done = sum(record["state"] == "done" for record in work.results()["runs"])
            progress.say(
                f"stopped; {done} of {len(sweep.runs)} runs are finished. "
                f"Go on with: rapids-slr sweep --resume --out {shlex.quote(str(out))}"
            )
            raise
        return work.results()


@dataclass
class Running:
    """A job that is being done."""

    job: Job
    started: Started
    bar: Task
    seen: int
    """Epochs that the bar has counted, or that were there before."""


@dataclass
class Work:
    """The jobs of a sweep and what came of them."""

    sweep: Sweep
    folder: SweepFolder
    places: Places
    lock: int
    progress: Progress
    failed: dict[str, str] = field(default_factory=dict)
    """What failed, by name, with the reason."""
    running: list[Running] = field(default_factory=list)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the runs that are done."""

    def do(self, jobs: Sequence[Job]) -> None:
        waiting = list(jobs)
        total = sum(job.command == "adapt" for job in jobs)
        self.save()
        with self.progress.task(f"sweep {self.sweep.name}", total, "runs") as bar:
            try:
                while waiting or self.running:
                    while self.places.free() and (job := self.next_of(waiting, bar)):
                        self.running.append(self.start(job))
                    time.sleep(POLL_SECONDS)
                    for child in list(self.running):
                        self.look_at(child, bar)
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

    def start(self, job: Job) -> Running:
        where = job.folder
        if not where.pretrained_file.exists():  # nothing was started from it, and the sweep may have moved
            where.write_spec(job.spec)
        done = job.epochs()
        bar = self.progress.task(job.name, job.all_epochs() - done, "epochs")
        return Running(job, self.places.start(job, [self.lock]), bar, done)

    def look_at(self, child: Running, bar: Task) -> None:
        """Count the epochs of a job, and take leave of it where it has ended."""
        # Asked before the epochs are counted, so that none of the last moment is missed.
        ended = child.started.ended()
        done = child.job.epochs()
        if done > child.seen:
            child.bar.advance(done - child.seen)
            child.seen = done
        if not ended:
            return
        self.running.remove(child)
        child.bar.close()
        job = child.job
        if fault := child.started.fault():
            self.fail(job, fault, bar)
        elif job.command == "adapt":
            bar.advance()
            self.save()
            record, scores = self.records[job.name], task_of(self.sweep.base).shown()
            ends = record["scores"][record["result"]]
            shown = [f"{column.name} {column.text(ends[column.key])}" for column in scores if column.key in ends]
            self.progress.say(f"{job.name}: {'  '.join(shown) or 'done, without scores'}")

    def fail(self, job: Job, why: str, bar: Task) -> None:
        self.failed[job.name] = why
        self.progress.say(f"{job.name} failed: {why}")
        if job.command == "adapt":
            bar.advance()
            self.save()

    def stop(self) -> None:
        """End all jobs as Ctrl-C would, by force if need be; they can be resumed."""
        # To all of them before any is waited for, so that they end side by side within one time.
        for force in (False, True):
            for child in self.running:
                child.started.stop(force)
            end = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < end and not all(child.started.ended() for child in self.running):
                time.sleep(POLL_SECONDS / 4)
        for child in self.running:
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
