"""What a sweep has to do: a job is one command, of a run or of the pre-training that runs share. Places do jobs."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rapids_slr.errors import InputError
from rapids_slr.provenance import commit
from rapids_slr.record.folder import RunFolder
from rapids_slr.settings.spec import RunSpec
from rapids_slr.sweep.folder import SweepFolder
from rapids_slr.sweep.plan import Run

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

    @property
    def log(self) -> Path:
        """What it wrote, from start to start."""
        return self.folder.path / "run.log"

    def words(self) -> list[str]:
        """The command, behind the name of the program."""
        # --resume in any case: the folder has its spec, and what a stopped run had done counts.
        return [self.command, "--resume", "--out", str(self.folder.path), "--device", self.spec.device]

    def epochs(self) -> int:
        """Epochs done."""
        rows = self.folder.pretrain_file if self.command == "pretrain" else self.folder.metrics_file
        return len(self.folder.rows(rows))

    def all_epochs(self) -> int:
        part = self.spec.pretrain if self.command == "pretrain" else self.spec.training
        assert part is not None
        return part.epochs


class Started(Protocol):
    """A job that was started."""

    def ended(self) -> bool: ...

    def fault(self) -> str | None:
        """Why it failed, once it has ended; None if it is done."""

    def stop(self, force: bool) -> None:
        """Ask it to end as Ctrl-C would, or end it; nothing where it has ended."""


class Places(AbstractContextManager["Places"]):
    """Where jobs are done; entered before the first and left after the last of them."""

    option = ""
    """How the command line asks for it."""

    def free(self) -> bool:
        """Whether one more can be started."""
        raise NotImplementedError

    def start(self, job: Job, locks: Sequence[int]) -> Started:
        """Start a job, whose folder holds its spec.

        Args:
            locks: descriptors of what this process holds; a process that inherits them holds it as well, so that a run
                that outlives its sweep keeps others out.
        """
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Part:
    """A part of the runs of a sweep, of several that are done by processes of their own."""

    index: int
    """From 0."""
    number: int

    @classmethod
    def read(cls, text: str) -> Part:
        """Raises: InputError if a text is not I/N with I from 0 to N - 1."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not int(found[1]) < int(found[2]):
            raise InputError(f"--array: expected I/N with I from 0 to N - 1, such as 0/8, got {text}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.number}"

    def of(self, runs: Sequence[Run]) -> list[Run]:
        """Its runs: as many as any other part has, or one more. Those that share a pre-training are kept together."""
        shared = [run.name if run.pretraining is None else run.pretraining.name for run in runs]
        first = {name: place for place, name in reversed(list(enumerate(shared)))}
        together = sorted(range(len(runs)), key=lambda place: first[shared[place]])
        start, end = (len(runs) * edge // self.number for edge in (self.index, self.index + 1))
        return [runs[place] for place in sorted(together[start:end])]


def jobs_of(runs: Sequence[Run], folder: SweepFolder) -> list[Job]:
    """What is left to do of these runs, in order: a pre-training stands before the first run that needs it."""
    jobs: list[Job] = []
    makers: dict[Path, Job] = {}
    for run in runs:
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


def check_files(runs: Sequence[Run]) -> None:
    """Raises: InputError naming the data sets and checkpoints that runs need and that are not there."""
    wanted: dict[tuple[str, str], str] = {}
    for run in runs:
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


def note_start(folder: RunFolder, threads: int) -> None:
    """Write down what a run is started with."""
    start = {"commit": commit(), "threads": threads, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    folder.append(folder.path / "starts.jsonl", start)


def why_failed(code: int, log: Path, start: int) -> str:
    """Why a command failed: its error, else the signal that ended it or the last line it wrote.

    Args:
        code: its exit code; below 0 the number of a signal.
        start: bytes of the log before it was started.
    """
    # The log goes on from start to start. The command line puts `error:` before its one message.
    text = log.read_bytes()[start:].decode("utf-8", errors="replace").strip()
    errors = re.split(r"^error:", text, flags=re.MULTILINE)[1:]
    if code < 0:
        hint = ", as where memory runs out" if code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{hint}; see {log}"
    reason = errors[-1].strip() if errors else (text.splitlines() or ["nothing was written"])[-1]
    return f"exit code {code}: {reason}; see {log}"
