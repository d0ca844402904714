"""The work of a sweep: jobs are started as places are free and what they need is there, and their results gathered."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapids_slr.errors import InputError, RunError
from rapids_slr.files import make_folder, write_text
from rapids_slr.lock import held, in_turn
from rapids_slr.progress import Progress, Task
from rapids_slr.settings.tables import task_of
from rapids_slr.sweep.folder import Results, SweepFolder, faults_in, record_of, results_of
from rapids_slr.sweep.jobs import Job, Part, Places, Started, check_files, jobs_of
from rapids_slr.sweep.plan import Run, Sweep
from rapids_slr.sweep.plot import draw
from rapids_slr.sweep.processes import Processes, lanes
from rapids_slr.sweep.table import markdown

POLL_SECONDS = 0.2
"""Time between two looks at what was started."""
PATIENCE_SECONDS = 20.0
"""Time that stopped jobs have to end."""


def run_sweep(
    sweep: Sweep, out: Path, resume: bool = False, places: Places | None = None, part: Part | None = None
) -> Results:
    """Do what is left of a sweep. Runs that fail cost themselves alone; they are named in the results.

    Args:
        places: where the runs are done; None takes a process of this machine for each visible GPU, or one on the CPU.
        part: of the runs, to do them alone, while other processes do other parts in the same folder; it starts the
            sweep or goes on with it. The results are those of all.
    Raises: InputError if the folder holds something else or data is missing; RunError where a file cannot be written.
    """
    folder, runs = SweepFolder(out), part.of(sweep.runs) if part else sweep.runs
    check_files(runs)
    mine = whole(folder, sweep, resume) if part is None else beside_others(folder, sweep, part)
    with mine as lock, Progress() as progress, places or Processes(lanes(sweep)) as open_places:
        work = Work(sweep, runs, folder, open_places, lock, progress, alone=part is None)
        try:
            work.do(jobs_of(runs, folder))
        except KeyboardInterrupt:
            done = sum(record["state"] == "done" for record in work.results()["runs"])
            again = ["rapids-slr sweep --resume --out", shlex.quote(str(out)), open_places.option]
            again += [f"--array {part}"] if part else []
            progress.say(
                f"stopped; {done} of {len(sweep.runs)} runs are finished. Go on with: {' '.join(filter(None, again))}"
            )
            raise
        return work.results()


@contextmanager
def whole(folder: SweepFolder, sweep: Sweep, resume: bool) -> Iterator[int]:
    """The folder for one process that does all runs; gives the descriptor of its lock."""
    folder.may_use(sweep, sweep.runs, resume)
    make_folder(folder.path)
    with held(folder.path) as lock:
        for other in folder.locks():
            with held(other):  # or a part of an array is being done
                pass
        folder.may_use(sweep, sweep.runs, resume)  # again: another process may have had it
        folder.write_sweep(sweep)
        yield lock


@contextmanager
def beside_others(folder: SweepFolder, sweep: Sweep, part: Part) -> Iterator[int]:
    """A part of an array for one process; gives the descriptor of its lock. The folder itself is held by turns."""
    make_folder(folder.path)
    with ExitStack() as stack:
        with in_turn(folder.path):
            folder.may_use(sweep, part.of(sweep.runs), resume=folder.sweep_file.exists())
            folder.write_sweep(sweep)
            lock = stack.enter_context(_lock(folder.of_lock(f"part-{part.index}-of-{part.number}")))
        yield lock


def _lock(path: Path) -> AbstractContextManager[int]:
    make_folder(path)
    return held(path)


@dataclass
class Running:
    """A job that is being done."""

    job: Job
    started: Started
    start: int
    """Bytes of its log before it was started."""
    seen: int
    """Epochs that the bar has counted, or that were there before."""
    bar: Task | None = None
    """None until it writes something: a queue may have it."""


@dataclass
class Work:
    """The jobs of a sweep and what came of them."""

    sweep: Sweep
    runs: Sequence[Run]
    """Those that this process does."""
    folder: SweepFolder
    places: Places
    lock: int
    progress: Progress
    alone: bool = True
    """No other process does other runs."""
    failed: dict[str, str] = field(default_factory=dict)
    """What failed, by name, with the reason."""
    running: list[Running] = field(default_factory=list)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the runs that are done."""
    turns: dict[str, tuple[ExitStack, int]] = field(default_factory=dict)
    """Locks of the pre-trainings that this part of an array makes, by the name of the job."""
    waited: set[str] = field(default_factory=set)
    """Pre-trainings that another part has been found to make."""

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
            if job.result.exists():  # another part of an array has made it
                waiting.remove(job)
            elif job.needs is None or job.needs.result.exists():
                if self.may_do(job):
                    waiting.remove(job)
                    return job
            elif job.needs.name in self.failed:
                waiting.remove(job)
                self.fail(job, f"its pre-training failed, {self.failed[job.needs.name]}", bar)
        return None

    def may_do(self, job: Job) -> bool:
        """Whether no other part of an array is making this pre-training; now none will until this one has."""
        if self.alone or job.command == "adapt":
            return True
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(_lock(self.folder.of_lock(job.spec.name)))
            except InputError:
                if job.name not in self.waited:
                    self.waited.add(job.name)
                    self.progress.say(f"{job.name}: another part of the array makes it")
                return False
            self.turns[job.name] = stack.pop_all(), lock
        return True

    def start(self, job: Job) -> Running:
        where = job.folder
        if not where.pretrained_file.exists():  # nothing was started from it, and the sweep may have moved
            where.write_spec(job.spec)
        start = job.log.stat().st_size if job.log.exists() else 0
        locks = [self.lock, *(lock for name, (_, lock) in self.turns.items() if name == job.name)]
        return Running(job, self.places.start(job, locks), start, job.epochs())

    def look_at(self, child: Running, bar: Task) -> None:
        """Count the epochs of a job, and take leave of it where it has ended."""
        # Asked before the epochs are counted, so that none of the last moment is missed.
        ended = child.started.ended()
        self.count(child)
        if not ended:
            return
        self.running.remove(child)
        self.leave(child)
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

    def count(self, child: Running) -> None:
        job, done = child.job, child.job.epochs()
        if child.bar is None and job.log.exists() and job.log.stat().st_size > child.start:
            child.bar = self.progress.task(job.name, job.all_epochs() - child.seen, "epochs")
        if child.bar is not None and done > child.seen:
            child.bar.advance(done - child.seen)
            child.seen = done

    def leave(self, child: Running) -> None:
        if child.bar is not None:
            child.bar.close()
        if child.job.name in self.turns:
            turn, _ = self.turns.pop(child.job.name)
            turn.close()

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
            self.leave(child)
        self.running.clear()

    def results(self) -> Results:
        """Of all runs, those of other parts as they stand in their folders."""
        mine = {run.name for run in self.runs}
        before = {} if self.alone else self.folder.faults()
        faults = {name: why for name, why in before.items() if name not in mine} | self.failed
        return results_of(self.sweep, [self.record(run, faults.get(run.name)) for run in self.sweep.runs])

    def record(self, run: Run, fault: str | None) -> dict[str, Any]:
        # What is done does not change: its files are read once.
        if run.name not in self.records:
            record = record_of(run, self.folder.of_run(run), fault)
            if record["state"] != "done":
                return record
            self.records[run.name] = record
        return self.records[run.name]

    def save(self) -> None:
        # Read and written in one turn, or the last to write might not be the last that read.
        with nullcontext() if self.alone else in_turn(self.folder.path):
            results = self.results()
            self.folder.write_results(results)
            write_shown(self.folder, results)


def write_shown(folder: SweepFolder, results: Results) -> None:
    """The table and the plot of results."""
    write_text(folder.table_file, markdown(results))
    draw(results, folder.plot_file)


def failures(sweep: Sweep, results: Results, part: Part | None = None) -> RunError | None:
    """What to raise at the end of a sweep, or a part of it, in which runs failed."""
    mine = {run.name for run in (part.of(sweep.runs) if part else sweep.runs)}
    lines = [f"{name}: {why}" for name, why in faults_in(results).items() if name in mine]
    if not lines:
        return None
    return RunError("\n".join([f"{len(lines)} of {len(mine)} runs failed; try them again with --resume", *lines]))
