"""A campaign of faults: runs that are killed, disks that fail, and inputs that are spoilt, drawn from a seed.

    python benchmarks/faults.py                              # all parts; goes on where an earlier call has stopped
    python benchmarks/faults.py --parts kills --cases 100    # a few of one part
    python benchmarks/faults.py --from specs                 # this part and those after it anew
    python benchmarks/faults.py --repeat labels 17           # one case once more, with all that it printed

    kills      SIGKILL at a random moment, or in the middle of a call of the disk; the run goes on with --resume and
               has to end like one that nobody stopped, bit for bit
    hosts      the same with the other hosts, in turn
    disk       ENOSPC, EIO and EROFS at every call of rapids_slr/disk.py, once or from there on: exit code 1 with a
               message, old files untouched; after that the same command again, which has to do its work
    processes  SIGKILL for one of two processes that work on a run, or for what watches them, at a random moment: it
               ends like one that nobody stopped, by itself or with --resume; in one process its next labels do
    specs, archives, labels
               spoilt files: an error (exit code 1 or 2), or success with what a plain reader finds in the file

Every case is a child of one process that has imported everything. Tracebacks, crashes, hangs and wrong data are faults:
they stand in the results, and what led to them is kept in build/faults/.
"""

from __future__ import annotations

import argparse
import errno
import filecmp
import importlib
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mutants
import numpy as np
import pandas as pd
import psutil
import torch
import yaml

from rapids_slr import disk
from rapids_slr.cli import main as rapids_slr
from rapids_slr.data.drawn.synth import synth_domain, write_domain
from rapids_slr.data.read import read_domain
from rapids_slr.data.store import load_images
from rapids_slr.errors import InputError
from rapids_slr.files import write_text
from rapids_slr.kernels import runtime
from rapids_slr.progress import Progress
from rapids_slr.provenance import commit, environment
from rapids_slr.settings.spec import DomainSpec, StoredSpec, SynthSpec
from rapids_slr.warmup import warm_up

ROOT = Path(__file__).parents[1]
OUT, KEPT = ROOT / "benchmarks/results/faults.json", ROOT / "build/faults"
LIMIT = 120.0
"""Seconds after which a case counts as hung."""
MENDED_IN = 60.0
"""Seconds that a kill may add to a run of several processes."""
ORPHANS_END_IN = 30.0
"""Seconds in which processes have to end that nobody watches any more."""
SAVED_EVERY = 20
"""Cases after which the results are written."""
CALLS = ("make_folders", "make_new_folder", "fill", "reserve", "settle", "rename", "append", "pour")
"""Calls of the disk."""
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
PLANNED = {"kills": 1000, "hosts": 90, "disk": None, "processes": 30, "specs": 1000, "archives": 1000, "labels": 1000}
"""Cases of every part; None takes all there are."""
SIZE = {"identities": 6, "images": 8, "height": 32, "width": 16}
TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "device": "cpu",
    "data": {
        "source": {"synth": {"style": "source", **SIZE}},
        "target": {"synth": {"style": "target", **SIZE}},
        "height": 32,
        "width": 16,
    },
    "augment": {"pad": 2},
    "model": {"backbone": "narrow", "widths": [4, 8, 8]},
    "pretrain": {"epochs": 2, "iterations": 2, "identities": 4, "milestones": [1], "warmup_epochs": 0},
    "clusters": {"k1": 6, "k2": 3, "pairs_per_image": 3},
    "refine": {"min_cluster_size": 3},
    "training": {"epochs": 3, "iterations": 2, "identities": 4},
}
"""The run that is stopped."""


# Children -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a child has ended."""

    code: int | None
    """Exit code, the negative number of the signal that ended it, None for one that had to be stopped."""
    said: str
    found: Any
    """What its work gave, as JSON has it."""
    seconds: float

    def faults(self) -> list[str]:
        """What no command may do, whatever its input."""
        if self.code is None:
            return [f"did not end within {LIMIT:.0f} s"]
        if self.code < 0:
            return [f"died of {signal.Signals(-self.code).name}"]
        if "Traceback (most recent call last)" in self.said or "This was not foreseen" in self.said:
            raised = re.findall(r"(?m)^(?:error: )?([\w.]*(?:Error|Exception)\b.*)", self.said)
            return ["traceback: " + "".join(raised[-1:])[:200]]
        if self.code not in (0, 1, 2):
            return [f"exit code {self.code}"]
        if self.code and not re.search(r"(?i)error", self.said):
            return [f"exit code {self.code} without an error"]
        return []


def in_child(work: Callable[[], Any], folder: Path, stop_after: float | None = None) -> Outcome:
    """Do some work in a fork of this process, whose working directory is `folder`.

    Args:
        work: gives an exit code, or an exit code and something to keep.
        stop_after: seconds until SIGKILL; one that has ended by then is left alone.
    """
    log, found = folder / ".log", folder / ".found"
    found.unlink(missing_ok=True)
    log.write_bytes(b"")  # a child may be killed before it opens it
    start = time.perf_counter()
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        _be_child(work, folder, log, found)
    descriptor = os.pidfd_open(child)
    limit = LIMIT if stop_after is None else stop_after
    ended = bool(select.select([descriptor], [], [], limit)[0])
    os.close(descriptor)
    if not ended:
        os.kill(child, signal.SIGKILL)
    code: int | None = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not ended and stop_after is None:
        code = None
    kept = json.loads(found.read_text()) if found.exists() else None
    return Outcome(code, log.read_text(errors="replace"), kept, time.perf_counter() - start)


def _be_child(work: Callable[[], Any], folder: Path, log: Path, found: Path) -> None:
    code = 99
    try:
        os.chdir(folder)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        result = work()
        code, kept = result if isinstance(result, tuple) else (result, None)
        found.write_text(json.dumps(kept))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def warm() -> None:
    """Load in this process what every child needs. No backward pass: torch's would not run in a fork after it."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warm_up(lambda *_: None, cuda=False)
    runtime._pool.cache_clear()  # its threads do not live on in a fork
    os.environ["COLUMNS"] = "200"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "spec.yaml").write_text(yaml.safe_dump(TINY))
        # Most of a run's time would go into modules that are imported when they are first needed.
        loaded = in_child(lambda: (rapids_slr(train_words(folder)), sorted(sys.modules)), folder)
    for module in ["rapids_slr.labelfiles", "rapids_slr.refinement", *(loaded.found or [])]:
        with suppress(Exception):
            importlib.import_module(module)


# The disk -------------------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """Stands before the calls of the disk: counts them, and does something at one of them.

    Args:
        at: number of the call, from 1; None counts alone.
        act: what to do there; it may raise, or end this process.
        half: a call that writes has then written half of it.
        lasting: from there on every call.
    """

    at: int | None = None
    act: Callable[[], None] = lambda: None
    half: bool = False
    after: bool = False
    lasting: bool = False
    calls: int = field(default=0, init=False)

    def __enter__(self) -> Disk:
        self._real = {name: getattr(disk, name) for name in CALLS}
        for name, real in self._real.items():
            setattr(disk, name, self._standing_before(name, real))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(disk, name, real)

    def _standing_before(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, *words: Any) -> None:
            self.calls += 1
            meant = self.at is not None and (self.calls == self.at or (self.lasting and self.calls > self.at))
            if not meant:
                return real(path, *words)
            if self.half and name == "append":
                with open(path, "ab") as file:
                    file.write(words[0][: len(words[0]) // 2])
            elif self.half and name == "fill":
                real(path, *words)
                os.truncate(path, path.stat().st_size // 2)
            elif self.after:
                real(path, *words)
            return self.act()

        return call


def kill_this() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def files_of(folder: Path, leave_out: Sequence[str] = ("tensorboard", "lock", ".log", ".found")) -> dict[str, Path]:
    """Files by name, without the logs of TensorBoard, the lock, and those of the campaign itself."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(name): folder / name
        for name in (path.relative_to(folder) for path in paths)
        if not set(name.parts) & set(leave_out)
    }


# Runs -----------------------------------------------------------------------------------------------------------------


def unlike_run(whole: Path, folder: Path) -> list[str]:
    """What parts a run from one that nobody stopped: files, rows and labels and weights, but no times."""
    mine, other = files_of(whole), files_of(folder)
    found = [f"{name} is missing" for name in mine.keys() - other.keys()]
    found += [f"{name} is left over" for name in other.keys() - mine.keys()]
    for name in sorted(mine.keys() & other.keys()):
        try:
            same = _same_file(mine[name], other[name])
        except Exception as fault:  # readers of damaged files raise nearly every kind
            found.append(f"{name} cannot be read ({type(fault).__name__})")
            continue
        found += [] if same else [f"{name} differs"]
    return found


def _same_file(one: Path, other: Path) -> bool:
    match one.suffix:
        case ".jsonl":
            return _rows(one) == _rows(other)
        case ".json":
            return _without_times(json.loads(one.read_text())) == _without_times(json.loads(other.read_text()))
        case ".parquet":
            return pd.read_parquet(one).equals(pd.read_parquet(other))
        case ".pt":
            return _equal(*(torch.load(path, map_location="cpu", weights_only=True) for path in (one, other)))
    return filecmp.cmp(one, other, shallow=False)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [_without_times(json.loads(line)) for line in path.read_text().splitlines()]


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if "seconds" not in key}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def train_words(folder: Path) -> list[str]:
    """The command a user gives to begin a run in `folder`/run, or to go on with it."""
    resume = ["--resume"] if (folder / "run/spec.yaml").exists() else []
    return ["train", str(folder / "spec.yaml"), "--out", "run", "--no-report", *resume]


# Parts ----------------------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """How a case has come out, in a word or two, and what was wrong."""

    outcome: str
    faults: list[str]
    said: str = ""


@dataclass(frozen=True)
class Whole:
    """A run that nobody stops."""

    folder: Path
    calls: int
    """Of the disk."""
    seconds: float


class Kills:
    """Runs that are killed once, of four one more often, and go on."""

    HOSTS: Sequence[str] = ("abmt",)

    def __init__(self, work: Path, rng_of: Callable[[int], np.random.Generator]) -> None:
        self.rng_of, self.wholes = rng_of, [self._whole(host, work / f"whole-{host}") for host in self.HOSTS]

    def _whole(self, host: str, folder: Path) -> Whole:
        folder.mkdir()
        (folder / "spec.yaml").write_text(yaml.safe_dump(TINY | {"host": host}))

        def counted() -> tuple[int, int]:
            with Disk() as counter:
                return rapids_slr(train_words(folder)), counter.calls

        done = in_child(counted, folder)
        if done.code != 0:
            raise SystemExit(f"the run that nobody stops has failed:\n{done.said}")
        return Whole(folder, int(done.found), done.seconds)

    def __len__(self) -> int:
        return sys.maxsize

    def run(self, number: int, folder: Path) -> Verdict:
        rng, whole = self.rng_of(number), self.wholes[number % len(self.wholes)]
        shutil.copy(whole.folder / "spec.yaml", folder)
        said, killed = [], 0
        for _ in range(1 + int(rng.random() < 0.25)):
            done = self._stopped(rng, folder, whole)
            killed += done.code == -signal.SIGKILL
            said.append(done.said)
            if done.code != -signal.SIGKILL:
                break
        faults = [] if done.code in (0, -signal.SIGKILL) else done.faults() or [f"exit code {done.code}"]
        left = folder / ".left"  # to look at, should the run not go on
        if (folder / "run").exists():
            shutil.copytree(folder / "run", left)
        done = in_child(lambda: rapids_slr(train_words(folder)), folder)
        faults += done.faults() or ([f"does not go on: exit code {done.code}"] if done.code else [])
        if not done.code:
            faults += unlike_run(whole.folder / "run", folder / "run")
        return Verdict(("ended before", "killed once", "killed twice")[killed], faults, "".join([*said, done.said]))

    def _stopped(self, rng: np.random.Generator, folder: Path, whole: Whole) -> Outcome:
        """Half of the kills come at a moment of the clock, half at a call of the disk, which repeats exactly."""
        call, moment = int(rng.integers(1, whole.calls + 1)), float(rng.random() * whole.seconds)
        at_call, where = rng.random() < 0.5, ("before", "half", "after")[int(rng.integers(3))]

        def work() -> int:
            with Disk(call if at_call else None, kill_this, half=where == "half", after=where == "after"):
                return rapids_slr(train_words(folder))

        return in_child(work, folder, None if at_call else moment)


class Hosts(Kills):
    """`Kills` of runs with the other hosts, in turn."""

    HOSTS = ("cluster_contrast", "spcl", "mmt")


class Processes:
    """Runs of two processes, of which one is killed, or what watches them; then they go on, at last in one process."""

    KINDS = ("launcher", "alone", "worker", "worker", "worker")

    def __init__(self, work: Path, rng_of: Callable[[int], np.random.Generator]) -> None:
        self.rng_of, self.whole = rng_of, work / "whole"
        self.whole.mkdir()
        (self.whole / "spec.yaml").write_text(yaml.safe_dump(TINY))
        self.seconds = 0.0
        start = time.perf_counter()
        if self._ended(self._started(self.whole, 2), self.whole):
            raise SystemExit(f"the run that nobody stops has failed:\n{said_in(self.whole)}")
        self.seconds = time.perf_counter() - start
        pretrained = (self.whole / "run/checkpoints/pretrained.pt").stat().st_mtime
        self.adapting = (self.whole / "run/summary.json").stat().st_mtime - pretrained

    def __len__(self) -> int:
        return sys.maxsize

    def run(self, number: int, folder: Path) -> Verdict:
        rng, kind = self.rng_of(number), self.KINDS[number % len(self.KINDS)]
        shutil.copy(self.whole / "spec.yaml", folder)
        launcher = self._started(folder, 2)
        moment = rng.random() * self.seconds
        if kind == "alone":  # where pre-training ends the bits of one process and of two part
            while launcher.poll() is None and not (folder / "run/checkpoints/pretrained.pt").exists():
                time.sleep(0.05)
            moment = rng.random() * self.adapting
        with suppress(subprocess.TimeoutExpired):
            code = launcher.wait(moment)
            return Verdict(
                "ended before", [f"exit code {code}"] if code else unlike_run(self.whole / "run", folder / "run")
            )
        workers = psutil.Process(launcher.pid).children()
        victim = workers[int(rng.integers(len(workers)))] if kind == "worker" and workers else launcher
        victim.kill()
        faults = self._goes_on(launcher, workers, folder, kind, victim is launcher)
        return Verdict("launcher killed" if victim is launcher else "worker killed", faults, said_in(folder))

    def _goes_on(
        self, launcher: subprocess.Popen, workers: list[psutil.Process], folder: Path, kind: str, by_hand: bool
    ) -> list[str]:
        """What is wrong with a run after a kill; `by_hand` starts it again."""
        faults, before = [], None
        if by_hand:
            launcher.wait()
            _, living = psutil.wait_procs(workers, ORPHANS_END_IN)
            faults += [f"process {worker.pid} lives on" for worker in living]
            for worker in living:
                worker.kill()
            before = epochs_of(folder / "run")
            launcher = self._started(folder, 1 if kind == "alone" else 2)
        if code := self._ended(launcher, folder):
            return [*faults, f"does not go on: exit code {code}"]
        if kind == "alone":
            return [*faults, *unlike_from(before or 0, self.whole / "run", folder / "run")]
        return faults + unlike_run(self.whole / "run", folder / "run")

    def _started(self, folder: Path, size: int) -> subprocess.Popen:
        (folder / "tmp").mkdir(exist_ok=True)
        variables = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with open(folder / ".log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "rapids_slr", *train_words(folder), "--processes", str(size)],
                env=os.environ | variables | {"PYTHONPATH": path},
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def _ended(self, launcher: subprocess.Popen, folder: Path) -> int | str:
        """The exit code of a run that may take as long as one that nobody stops, and somewhat longer."""
        try:
            return launcher.wait(self.seconds + MENDED_IN if self.seconds else 10 * LIMIT)
        except subprocess.TimeoutExpired:
            for process in [*psutil.Process(launcher.pid).children(), launcher]:
                process.kill()
            return f"none within {self.seconds + MENDED_IN:.0f} s"


def said_in(folder: Path) -> str:
    return (folder / ".log").read_text(errors="replace")


def epochs_of(run: Path) -> int:
    """Epochs of the adaptation that the last checkpoint of a run has gone through."""
    for name in ("last.pt", "previous.pt"):
        if (file := run / "checkpoints" / name).exists():
            state = torch.load(file, map_location="cpu", weights_only=True)
            return state["epoch"] if state["stage"] == "adapt" else 0
    return 0


def unlike_from(epoch: int, whole: Path, folder: Path) -> Iterator[str]:
    """What is wrong with a run of two processes that went on in one after an epoch: the next one has the same labels,
    and the same losses up to rounding."""
    rows, other = (_rows(run / "metrics.jsonl") for run in (whole, folder))
    if [row["epoch"] for row in rows] != [row["epoch"] for row in other]:
        yield "metrics.jsonl has other lines"
        return
    if rows[:epoch] != other[:epoch]:
        yield f"metrics.jsonl differs up to epoch {epoch}"
    for number in range(1, min(epoch + 1, len(rows)) + 1):
        tables = (pd.read_parquet(run / f"labels/epoch-{number:03d}.parquet") for run in (whole, folder))
        if not next(tables).equals(next(tables)):
            yield f"labels of epoch {number} differ"
    for row, found in zip(rows[epoch : epoch + 1], other[epoch : epoch + 1], strict=True):
        losses = [(row[key], found[key]) for key in row if key.startswith("loss/")]
        if not losses or not np.allclose(*zip(*losses, strict=True), rtol=1e-4):
            yield f"losses of epoch {epoch + 1} differ: {losses}"


class Disks:
    """Commands on a disk that fails, at each of their calls, in each way, once or for good; in a drawn order."""

    COMMANDS = ("train", "refine", "cluster", "pack")

    def __init__(self, work: Path, rng_of: Callable[[int], np.random.Generator]) -> None:
        self.start, cases = work / "start", []
        self.start.mkdir()
        self._inputs(rng_of(0))
        self.whole = {}
        for name in self.COMMANDS:
            self.whole[name] = work / name
            shutil.copytree(self.start, self.whole[name])
            done = in_child(lambda name=name: self._counted(name), self.whole[name])
            if done.code != 0:
                raise SystemExit(f"{name} has failed on a whole disk:\n{done.said}")
            ways = [(error, lasting) for error in ERRORS for lasting in (False, True)]
            cases += [(name, call, *way) for call in range(1, done.found + 1) for way in ways]
        self.cases = [cases[place] for place in rng_of(1).permutation(len(cases))]

    def _inputs(self, rng: np.random.Generator) -> None:
        (self.start / "spec.yaml").write_text(yaml.safe_dump(TINY))
        for name in ("before.csv", "now.csv"):
            (self.start / name).write_bytes(mutants.label_file(mutants.draw_labels(rng, ".csv"), ".csv"))
        (self.start / "old.csv").write_text("label\n0\n")  # which the commands write over
        (self.start / "old.npy").write_bytes(b"old")
        x_ND = rng.standard_normal((40, 8)).astype(np.float32)
        np.save(self.start / "x.npy", x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True))
        write_domain(
            synth_domain(SynthSpec(style="target", identities=2, images=4, height=32, width=16)), self.start / "set"
        )

    def _words(self, name: str, folder: Path) -> list[str]:
        return {
            "train": train_words(folder),
            "refine": ["refine", "before.csv", "now.csv", "-o", "old.csv", "--soft", "soft.npz"],
            "cluster": ["cluster", "x.npy", "-o", "old.npy", "--k1", "5", "--device", "cpu"],
            "pack": ["data", "pack", "set", "set.zip"],
        }[name]

    def _counted(self, name: str) -> tuple[int, int]:
        with Disk() as counter:
            return rapids_slr(self._words(name, self.whole[name])), counter.calls

    def __len__(self) -> int:
        return len(self.cases)

    def run(self, number: int, folder: Path) -> Verdict:
        name, call, error, lasting = self.cases[number]
        shutil.copytree(self.start, folder, dirs_exist_ok=True)

        def work() -> int:
            with Disk(call, failing(error), half=bool(number % 2), lasting=lasting):
                return rapids_slr(self._words(name, folder))

        done = in_child(work, folder)
        faults = done.faults()
        if not faults and (done.code != 1 or os.strerror(error) not in done.said):
            faults.append(f"{name}: exit code {done.code}, and {os.strerror(error)!r} is not said")
        if name != "train":
            old, whole, now = (files_of(x) for x in (self.start, self.whole[name], folder))
            torn = [x for x, path in now.items() if not any(_same(path, there.get(x)) for there in (old, whole))]
            faults += [f"{x} is neither old nor whole" for x in torn]
        again = in_child(lambda: rapids_slr(self._words(name, folder)), folder)
        faults += again.faults() or ([f"not done afterwards: exit code {again.code}"] if again.code else [])
        if not again.code:
            faults += unlike_run(self.whole[name], folder)
        return Verdict(
            f"{name}, {errno.errorcode[error]}{' lasting' if lasting else ''}", faults, done.said + again.said
        )


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and filecmp.cmp(one, other, shallow=False)


class Inputs:
    """A part of spoilt files: draws one, gives it to a command, and looks at what that has read."""

    def __init__(self, work: Path, rng_of: Callable[[int], np.random.Generator]) -> None:
        self.work, self.rng_of = work, rng_of

    def __len__(self) -> int:
        return sys.maxsize

    def run(self, number: int, folder: Path) -> Verdict:
        command, wrong = self.case(self.rng_of(number), folder)
        done = in_child(command, folder)
        faults = done.faults()
        if not faults:
            faults = list(wrong(done))
        return Verdict({0: "read", 1: "refused", 2: "refused"}.get(done.code or 0, "fault"), faults, done.said)

    def case(
        self, rng: np.random.Generator, folder: Path
    ) -> tuple[Callable[[], Any], Callable[[Outcome], Iterator[str]]]:
        """Write a spoilt input; gives the command, and what is wrong with an outcome of it."""
        raise NotImplementedError


class Specs(Inputs):
    """`spec show` of a spoilt spec says what the file says, and defaults for the rest."""

    def __init__(self, work: Path, rng_of: Callable[[int], np.random.Generator]) -> None:
        super().__init__(work, rng_of)
        (work / "least.yaml").write_text("data: {source: {synth: {style: source}}, target: {path: some/where}}\n")
        (work / "whole.yaml").write_bytes(mutants.SPEC)
        whole, least = (self._shown(name) for name in ("whole.yaml", "least.yaml"))
        if whole.code or least.code or [*mutants.unlike(mutants.plain_yaml(mutants.SPEC), shown_by(whole))]:
            raise SystemExit(f"a whole spec is not read as it is written:\n{whole.said}{least.said}")
        self.default = shown_by(least)

    def _shown(self, name: str) -> Outcome:
        return in_child(lambda: rapids_slr(["spec", "show", name]), self.work)

    def case(self, rng, folder):
        content = mutants.spoil_text(mutants.SPEC.decode(), rng)
        (folder / "spec.yaml").write_bytes(content)

        def wrong(done: Outcome) -> Iterator[str]:
            if done.code == 0:
                try:
                    said = mutants.plain_yaml(content) or {}
                except Exception as fault:
                    yield f"accepted, but no YAML: {str(fault).splitlines()[0]}"
                    return
                shown = shown_by(done)
                yield from mutants.unlike(said, shown)
                if "extends" not in said:
                    yield from mutants.not_default(said, shown, self.default)

        return lambda: rapids_slr(["spec", "show", "spec.yaml"]), wrong


def shown_by(done: Outcome) -> Any:
    return mutants.plain_yaml(done.said.encode())


class Archives(Inputs):
    """`data check` of a spoilt archive, and the images that a run decodes, all or with data.on_error: skip."""

    def case(self, rng, folder):
        content = mutants.spoil_archive(mutants.draw_images(rng), rng)
        (folder / "data.zip").write_bytes(content)

        def command() -> tuple[int, Any]:
            code = rapids_slr(["data", "check", "data.zip"])
            return code, {way: images_of(Path("data.zip"), way) for way in ("stop", "skip")}

        def wrong(done: Outcome) -> Iterator[str]:
            strict, loose = done.found["stop"], done.found["skip"]
            if strict is None and loose is None:
                return
            try:
                held = mutants.plain_domain(content)
            except ValueError as fault:
                yield f"accepted, but no archive: {fault}"
                return
            if strict is not None:
                yield from _unlike_images(held, strict, every=True)
            elif done.code == 0:
                yield "data check finds nothing, and a run refuses it"
            yield from _unlike_images(held, loose or {}, every=False)

        return command, wrong


def _unlike_images(held: mutants.Held, found: mutants.Held, every: bool) -> Iterator[str]:
    for split, images in found.items():
        yield from (f"{name} of {split} is not in the file" for name in images.keys() - held[split].keys())
        if every:
            yield from (f"{name} of {split} is lost" for name in held[split].keys() - images.keys())
        for name in images.keys() & held[split].keys():
            if images[name] != held[split][name]:
                yield f"{name} of {split} is {images[name]}, and {held[split][name]} in the file"


def images_of(path: Path, on_error: str) -> mutants.Held | None:
    """The images of a data set as a run has them; None where it refuses them."""
    data = StoredSpec(height=32, width=16, on_error=on_error)
    try:
        domain = read_domain(DomainSpec(path=str(path)), on_error)
        found: mutants.Held = {}
        for split in mutants.PLACES:
            if not len(domain.split(split)):
                found[split] = {}
                continue
            store, kept = load_images(domain, domain.split(split), data, torch.device("cpu"))
            rows = zip(kept.names, kept.identities.tolist(), kept.cameras.tolist(), store.pixels.numpy(), strict=True)
            found[split] = {name: [identity, camera, mutants.digest(x)] for name, identity, camera, x in rows}
    except InputError as refused:
        print(f"error: {refused}")
        return None
    return found


class LabelFiles(Inputs):
    """`refine` of two label files, of which one is spoilt: the columns that it passes on are those of the files."""

    def case(self, rng, folder):
        suffix = (".csv", ".npy", ".parquet")[int(rng.integers(3))]
        table = mutants.draw_labels(rng, suffix)
        contents = [mutants.label_file(table, suffix), mutants.spoil_labels(table, suffix, rng)]
        names = [f"before{suffix}", f"now{suffix}"]
        if rng.random() < 0.5:
            contents.reverse()
        for name, content in zip(names, contents, strict=True):
            (folder / name).write_bytes(content)

        def wrong(done: Outcome) -> Iterator[str]:
            if done.code == 0:
                try:
                    before, now = (mutants.plain_labels(content, suffix) for content in contents)
                except Exception as fault:
                    yield f"accepted, but a plain reader has: {type(fault).__name__}: {fault}"
                    return
                yield from unlike_labels(before, now, pd.read_parquet(folder / "out.parquet"))

        return lambda: rapids_slr(["refine", *names, "-o", "out.parquet"]), wrong


def unlike_labels(before: mutants.Labels, now: mutants.Labels, out: pd.DataFrame) -> Iterator[str]:
    """Where a table of `refine` holds other labels than the files that it was made of."""
    shared = next((name for name in ("path", "sample") if name in before[1] and name in now[1]), None)
    if shared is None:
        expected = before[0]
    else:
        label_of = dict(zip(before[1][shared], before[0], strict=True))
        expected = [label_of.get(name) for name in now[1][shared]]
    for name, labels in (("cluster", now[0]), ("previous", expected)):
        if out[name].tolist() != labels:
            yield f"{name} is {out[name].tolist()[:9]}..., and {labels[:9]}... in the file"
    for name, values in now[1].items():
        if name in out and ["" if x is None else str(x) for x in out[name]] != values:
            yield f"{name} is not that of the file"


PARTS: dict[str, Any] = {
    "kills": Kills,
    "hosts": Hosts,
    "disk": Disks,
    "processes": Processes,
    "specs": Specs,
    "archives": Archives,
    "labels": LabelFiles,
}


# The campaign ---------------------------------------------------------------------------------------------------------


def draws(seed: int, part: str) -> Callable[[int], np.random.Generator]:
    """A generator for every case of a part."""
    return lambda number: np.random.default_rng([seed, zlib.crc32(part.encode()), number])


def run_part(
    name: str, results: dict[str, Any], seed: int, end: int | None, save: Callable[[], None], bars: Progress
) -> None:
    """The cases of a part that are not done yet; every one goes into `results`."""
    kept = results.setdefault(name, {"done": 0, "seconds": 0.0, "outcomes": {}, "faults": [], "commits": []})
    if end is not None and kept["done"] >= end:
        return
    with tempfile.TemporaryDirectory() as work:
        part = PARTS[name](Path(work), draws(seed, name))
        total = len(part) if end is None else min(end, len(part))
        if (state := commit()) not in kept["commits"]:
            kept["commits"].append(state)
        outcomes = Counter(kept["outcomes"])
        with bars.task(name, total - kept["done"], "cases") as bar:
            for number in range(kept["done"], total):
                start = time.perf_counter()
                verdict = run_case(part, name, number)
                outcomes[verdict.outcome] += 1
                kept["seconds"] = round(kept["seconds"] + time.perf_counter() - start, 2)
                kept |= {"done": number + 1, "of": total, "outcomes": dict(sorted(outcomes.items()))}
                if verdict.faults:
                    kept["faults"].append({"case": number, "outcome": verdict.outcome, "what": verdict.faults[:5]})
                    bars.say(f"{name} {number}: {verdict.faults[0]}")
                bar.advance(faults=len(kept["faults"]))
                if not (number + 1) % SAVED_EVERY:
                    save()
    save()


def run_case(part: Any, name: str, number: int) -> Verdict:
    """One case; what led to a fault is kept."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        verdict = part.run(number, folder)
        if verdict.faults:
            shutil.rmtree(KEPT / f"{name}-{number}", ignore_errors=True)
            shutil.copytree(folder, KEPT / f"{name}-{number}", symlinks=True)
            (KEPT / f"{name}-{number}" / "said.txt").write_text("\n".join([*verdict.faults, "", verdict.said]))
    return verdict


def repeat(name: str, number: int, seed: int) -> int:
    """One case once more, on the screen alone."""
    with tempfile.TemporaryDirectory() as work:
        verdict = run_case(PARTS[name](Path(work), draws(seed, name)), name, number)
    print(
        verdict.said,
        "\n".join([f"{name} {number}: {verdict.outcome}", *(f"fault: {x}" for x in verdict.faults)]),
        sep="\n",
    )
    return 1 if verdict.faults else 0


def begun(out: Path, seed: int, anew: Sequence[str]) -> dict[str, Any]:
    """The results so far, without those of the parts that begin anew."""
    results = json.loads(out.read_text()) if out.exists() else {}
    if results and results["seed"] != seed:
        raise SystemExit(f"{out} holds the results of seed {results['seed']}; name another file with --out")
    return {name: value for name, value in results.items() if name not in anew}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cases", type=int, help="cases of each part, from its first; 1,000 without, of `disk` all")
    parser.add_argument("--from", dest="begin", choices=PARTS, help="begin this part, and those after it, anew")
    parser.add_argument("--repeat", nargs=2, metavar=("PART", "CASE"), help="one case once more; nothing is kept of it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(words)
    warm()
    if options.repeat:
        return repeat(options.repeat[0], int(options.repeat[1]), options.seed)
    anew = options.parts[options.parts.index(options.begin) :] if options.begin in options.parts else []
    results = begun(options.out, options.seed, anew)
    results |= {"seed": options.seed, "environment": environment()}

    def save() -> None:
        write_text(options.out, json.dumps(results, indent=1) + "\n", "free some space, then start this again")

    with Progress() as bars:
        for name in options.parts:
            run_part(name, results, options.seed, options.cases or PLANNED[name], save, bars)
    found = sum(len(results[name]["faults"]) for name in options.parts)
    print(f"{found} faults; {options.out}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
