"""The ordered run for a machine with a GPU that may be had for half an hour: what decides most comes first.

    python benchmarks/gpu_day.py                     # or make gpu-day; goes on with the steps that have not passed
    python benchmarks/gpu_day.py --list              # the steps, how long each may take, and what came of it
    python benchmarks/gpu_day.py --from labels-1m    # that step and those after it, passed or not
    python benchmarks/gpu_day.py --only epoch step   # these alone, in the order of the day
    python benchmarks/gpu_day.py --minutes 9         # begin nothing later than that, and stop what still runs
    python benchmarks/gpu_day.py --rehearse          # all of it on a CPU: tiny sizes, kernels in Numba's simulator

A step is one or more processes with a limit of time. What it leaves is there at once: its log, day.json, report.md, and
the files of benchmarks. A step that hangs is stopped, and what it hung in is named: the test, and the line that
launched the kernel. Where a step fails the next ones run all the same, but none does without a GPU that works. The exit
code is 1 where a step failed or was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rapids_slr.files import write_atomically
from rapids_slr.provenance import commit

ROOT = Path(__file__).parents[1]
GRACE = 10  # seconds for a process to say where it hangs, before it is killed
LEAST = 30  # seconds that must be left of --minutes for a step to begin
PYTHON = [sys.executable, "-X", "faulthandler"]
CHOOSE = "from rapids_slr.engine.backend import choose_backend; print(choose_backend({device!r}))"
WARM_UP = """
import time
from rapids_slr.warmup import warm_up
start = time.perf_counter()
warm_up(cuda={cuda})
print(f"warm-up: {{time.perf_counter() - start:.1f}} s")
"""
IMPORT_GPU_TESTS = """
from importlib import import_module
from pathlib import Path
for file in sorted(Path("tests/gpu").glob("test_*.py")):
    print(import_module(f"tests.gpu.{file.stem}").__name__)
"""
SHARING_MEMORY = ("kreciprocal", "shared_columns", "smallest", "nearest", "spanning_tree")
"""Tests of kernels whose threads meet in shared memory."""
FEW, FEW_NEAREST = "tests/cuda/test_renumber.py", "tests/cuda/test_nearest.py::test_no_neighbour_and_all"
"""Tests that the simulator is soon through with."""


@dataclass(frozen=True)
class Step:
    name: str
    what: str
    commands: list[list[str]]
    """Run one after the other, up to the first that fails."""
    limit: int = 540
    """Seconds that all of them may take."""
    needs: str = ""
    """A program without which the step is passed over."""
    only_gpu: str = ""
    """What a rehearsal does not show."""
    first: bool = False
    """Whether nothing else is worth running where this fails."""
    environment: dict[str, str] = field(default_factory=dict)


def steps(out: Path, rehearse: bool) -> list[Step]:
    """All steps of the day, in order; those of a rehearsal have the same names."""
    device = "cpu" if rehearse else "cuda"
    return [
        *_first_steps(rehearse, device),
        *_test_steps(rehearse),
        *_benchmark_steps(out, rehearse, device),
        *_run_steps(out, rehearse, device),
    ]


def _first_steps(rehearse: bool, device: str) -> list[Step]:
    warm_up = [*PYTHON, "-c", WARM_UP.format(cuda=not rehearse)]
    return [
        Step(
            "environment",
            "which libraries, which GPU, and that they work together",
            [_rapids_slr("doctor", "--json"), [*PYTHON, "-c", CHOOSE.format(device=device)]],
            limit=120,
            only_gpu="the driver, and every library on it",
            first=True,
        ),
        Step(
            "warm-up",
            "all kernels compiled, then loaded by a second process, and a dry run of the label steps",
            [warm_up, warm_up],
            limit=300,
            only_gpu="compiling and loading of CUDA kernels: seconds of a first and of a second process",
        ),
    ]


def _test_steps(rehearse: bool) -> list[Step]:
    # A launch that waits for its kernel hangs where the kernel was launched, not where someone waits for results.
    environment = {"NUMBA_ENABLE_CUDASIM": "1"} if rehearse else {"CUDA_LAUNCH_BLOCKING": "1"}

    def kernels(name: str, what: str, files: str, limit: int = 540, only: str = "", few: str = "") -> Step:
        command = _pytest(*(few or files if rehearse else files).split(), only="" if rehearse else only)
        return Step(name, what, [command], limit, only_gpu="races, barriers, time", environment=environment)

    def sanitizer(tool: str, what: str, files: str) -> Step:
        command = _pytest(*(FEW if rehearse else files).split(), only="" if rehearse else "128-threads")
        if not rehearse:
            # Libraries ask the driver for functions that it lacks, which memcheck would count among the errors.
            api = ["--report-api-errors", "no"] if tool == "memcheck" else []
            command = ["compute-sanitizer", "--tool", tool, *api, "--error-exitcode", "3", *command]
        needs = "" if rehearse else "compute-sanitizer"
        return Step(tool, what, [command], needs=needs, only_gpu=what, environment=environment)

    def on_gpu(name: str, what: str, *words: str) -> Step:
        command = [*PYTHON, "-c", IMPORT_GPU_TESTS] if rehearse else _pytest(*words)
        return Step(name, what, [command], only_gpu="all but the imports of these tests")

    sharing = " ".join(f"tests/cuda/test_{name}.py" for name in SHARING_MEMORY)
    return [
        kernels("spanning-tree", "the one cooperative kernel", "tests/cuda/test_spanning_tree.py", 120),
        kernels("shared-columns", "sums that all threads add to", "tests/cuda/test_shared_columns.py", 120),
        kernels("nearest", "the search, by tensor cores", "tests/cuda/test_nearest.py", 180, few=FEW_NEAREST),
        on_gpu("gpu-tests", "tests/gpu", "tests/gpu", "--ignore=tests/gpu/test_ledger.py"),
        kernels("kernels-4", "tests/cuda, 4 threads a block", "tests/cuda", only="4-threads", few=FEW),
        kernels("kernels-128", "tests/cuda, 128 threads a block", "tests/cuda", only="128-threads", few=FEW),
        sanitizer("racecheck", "races in shared memory", sharing),
        sanitizer("synccheck", "barriers that not all threads reach", sharing),
        sanitizer("memcheck", "reads and writes beyond arrays", "tests/cuda"),
        on_gpu("ledger", "no array of length N is copied", "tests/gpu/test_ledger.py"),
    ]


def _benchmark_steps(out: Path, rehearse: bool, device: str) -> list[Step]:
    def benchmark(name: str, what: str, parts: str, *options: str) -> Step:
        small = ["--quick"] if rehearse else []
        command = [*PYTHON, "benchmarks/gpu.py", "--device", device, *small, "--parts", *parts.split(), *options]
        return Step(name, what, [[*command, "-o", str(out / f"{name}.json")]], only_gpu="every figure")

    def labels(name: str, N: int, D: int, repeats: int, features: str = "clustered") -> Step:
        size = (300, 16) if rehearse else (N, D)
        options = ["--samples", str(size[0]), "--dim", str(size[1]), "--repeats", str(repeats), "--features", features]
        return benchmark(name, f"features to refined labels, {features}, {N:,} x {D:,}", "labels", *options)

    shared_pool = ("--memory-pool", "rmm")  # the default of a run
    return [
        labels("labels-13k", 12_936, 4096, 5),
        labels("labels-100k", 100_000, 2048, 3),
        labels("labels-1m", 1_000_000, 2048, 1),
        labels("labels-isotropic", 50_000, 512, 3, "isotropic"),
        labels("labels-collapsed", 50_000, 512, 3, "collapsed"),
        benchmark("step", "a training step, and the same on constant tensors", "step", *shared_pool),
        benchmark("embedding", "12,936 images through the teacher", "embedding", *shared_pool),
        benchmark("epoch", "an epoch at the size of Market-1501, stage by stage", "epoch", *shared_pool),
        benchmark("memory-pool", "step and epoch on torch's pool: which is to be the default", "step epoch"),
        benchmark("pick-threads", "the block that reads similarities: which size is fastest", "search"),
    ]


def _run_steps(out: Path, rehearse: bool, device: str) -> list[Step]:
    def run(name: str, what: str, command: str, values: dict[str, Any]) -> Step:
        sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
        # What an earlier try left, a run would refuse or resume.
        clear = [*PYTHON, "-c", f"import shutil; shutil.rmtree({str(out / name)!r}, ignore_errors=True)"]
        train = _rapids_slr(command, "--device", device, "--out", str(out / name), *sets)
        return Step(name, what, [clear, train], only_gpu="scores and times of the GPU")

    def people(style: str, identities: int, images: int, height: int) -> str:
        size = f"height: {height}, width: {height // 2}"
        return f"{{synth: {{style: {style}, identities: {identities}, images: {images}, {size}}}}}"

    height, few = (32, 6) if rehearse else (256, 64)
    drawn = height if rehearse else 64  # and made larger, as drawing takes its time
    market: dict[str, Any] = {
        "data.source": people("source", few, 16, drawn),
        "data.target": people("target", few if rehearse else 751, 17, drawn),
        "data.height": height,
        "data.width": height // 2,
        "model": "{backbone: narrow, widths: [4, 8, 8]}" if rehearse else "{backbone: resnet50, weights: null}",
        "pretrain.epochs": 1,
        "pretrain.iterations": 2 if rehearse else 20,
        "training.epochs": 2,
        "training.iterations": 2 if rehearse else 400,
    }
    tiny = market if rehearse else {}
    return [
        run("quickstart", "the quick-start", "train", tiny),
        run("market", "12,767 drawn images of 751 people, ResNet-50, two epochs", "train", market),
        run("profile", "the quick-start's epoch, measured", "profile", tiny),
    ]


def _rapids_slr(*words: str) -> list[str]:
    return [*PYTHON, "-m", "rapids_slr", *words]


def _pytest(*words: str, only: str = "") -> list[str]:
    """Tests, each named before it begins, and given up where the GPU has."""
    return [*PYTHON, "-m", "pytest", "-v", "--maxfail=20", *words, *(["-k", only] if only else [])]


class Day:
    """The steps, what came of them so far, and the folder that keeps it."""

    def __init__(self, out: Path, rehearse: bool, all_steps: list[Step]) -> None:
        self.out, self.rehearse, self.steps = out, rehearse, all_steps
        self.results: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            self.results = json.loads(self.file.read_text())["steps"]

    @property
    def file(self) -> Path:
        return self.out / "day.json"

    def run(self, asked: list[str], end: float) -> bool:
        """Run the steps that are asked for, or without any those that have not passed; whether all have in the end.

        Args:
            end: the time, by time.monotonic, at which all has to be over.
        """
        for step in self.steps:
            passed = self.results.get(step.name, {}).get("outcome") == "passed"
            if step.name not in asked if asked else passed:
                continue
            if end - time.monotonic() < LEAST:
                print("no time is left; the same command goes on from here")
                break
            print(f"== {step.name}: {step.what}", flush=True)
            self.results[step.name] = result = self._result(step, min(step.limit, end - time.monotonic()))
            self.keep()
            print(f"   {in_words(result)}", flush=True)
            if step.first and result["outcome"] != "passed":
                print(f"nothing else can run without it; see {self.log_of(step)}")
                break
        wanted = asked or [step.name for step in self.steps]
        return all(self.results.get(name, {}).get("outcome") in ("passed", "skipped") for name in wanted)

    def log_of(self, step: Step) -> Path:
        return self.out / f"{step.name}.log"

    def keep(self) -> None:
        day = {"rehearsal": self.rehearse, "steps": self.results}
        write_atomically(self.file, lambda part: part.write_text(json.dumps(day, indent=1) + "\n"))
        write_atomically(self.out / "report.md", lambda part: part.write_text(self.report()))

    def report(self) -> str:
        """A row a step, and for a rehearsal what it has not shown."""
        title = "Rehearsal on a CPU, kernels in Numba's simulator" if self.rehearse else "A day on a GPU"
        rows = ["| step | what | outcome |" + (" only a GPU can show |" if self.rehearse else "")]
        rows.append("|---|---|---|" + ("---|" if self.rehearse else ""))
        for step in self.steps:
            row = f"| {step.name} | {step.what} | {in_words(self.results.get(step.name))} |"
            rows.append(row + (f" {step.only_gpu} |" if self.rehearse else ""))
        return "\n".join([f"# {title}", "", *rows, ""])

    def _result(self, step: Step, limit: float) -> dict[str, Any]:
        begun = {"begun": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}
        if step.needs and not shutil.which(step.needs):
            return begun | {"outcome": "skipped", "why": f"{step.needs} is not installed"}
        log, start = self.log_of(step), time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            for command in step.commands:
                code = run_within(command, limit - (time.monotonic() - start), file, step.environment)
                if code != 0:
                    break
        text = log.read_text(errors="replace")
        result = begun | {"seconds": round(time.monotonic() - start, 1)}
        if code == 0:
            return result | {"outcome": "passed", "why": last_line(text)}
        if code is None:
            return result | {"outcome": "stopped", "why": f"after {limit:.0f} s in {where_it_hung(text)}"}
        return result | {"outcome": "failed", "why": f"exit code {code}: {last_line(text)}"}


def run_within(command: list[str], limit: float, log: Any, environment: dict[str, str]) -> int | None:
    """Exit code of a command whose output goes to a file; None if it was stopped after `limit` seconds.

    It is told to say where it stands before it is killed, and with it all that it has started.
    """
    log.write(f"$ {' '.join(command)}\n")
    log.flush()
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(max(limit, 0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # Python's faulthandler writes the stack of every thread
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return None
    finally:
        _kill_group(process)


def _kill_group(process: subprocess.Popen) -> None:
    """Kill what is left of the processes that a command has started, and itself."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        print(f"   process {process.pid} does not end; its GPU may have to be reset")


def last_line(log: str) -> str:
    """The last line of a log that says something, in short."""
    lines = [line.strip("= \n") for line in log.splitlines() if line.strip("= \n") and not line.startswith("$ ")]
    return lines[-1][:200] if lines else "it printed nothing"


def where_it_hung(log: str) -> str:
    """The test that had begun, and the innermost line in a file of kernels: the launch that did not come back."""
    tests = re.findall(r"^(\S+\.py::\S.*?)(?= (?:PASSED|FAILED|SKIPPED|XFAIL|ERROR|Fatal)|\s*$)", log, re.MULTILINE)
    frames = re.findall(r'File "[^"]*?(kernels/(?!runtime)\w+\.py)", line (\d+) in (\w+)', log)
    launch = [f"{function} ({file}:{line})" for file, line, function in frames[:1]]
    return ", ".join([*tests[-1:], *launch]) or last_line(log)


def in_words(result: dict[str, Any] | None) -> str:
    """What came of a step, for a cell of a table."""
    if result is None:
        return "not yet"
    took = f" in {result['seconds']} s" if "seconds" in result else ""
    return f"{result['outcome']}{took}: {result['why']}".replace("|", "/")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="the steps, and what came of each; nothing is run")
    parser.add_argument("--from", dest="begin", metavar="STEP", help="run this step and those after it, passed or not")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="run these steps alone, passed or not")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="how long the machine is there")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, at tiny sizes")
    parser.add_argument("--out", type=Path, help="folder of the results; benchmarks/results/gpu-day without")
    options = parser.parse_args(words)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a step that is stopped leaves no image of its memory
    os.environ["PATH"] += f"{os.pathsep}/usr/local/cuda/bin"  # where the toolkit puts compute-sanitizer
    out = options.out or ROOT / ("build/gpu-rehearsal" if options.rehearse else "benchmarks/results/gpu-day")
    day = Day(out.resolve(), options.rehearse, steps(out.resolve(), options.rehearse))
    names = [step.name for step in day.steps]
    asked = options.only or ([options.begin] if options.begin else [])
    if unknown := [name for name in asked if name not in names]:
        parser.error(f"{', '.join(unknown)}: no such step; there are {', '.join(names)}")
    if options.begin and not options.only:
        asked = names[names.index(options.begin) :]
    if options.list:
        for step in day.steps:
            print(f"{step.name:16} {step.limit:4} s  {step.what}: {in_words(day.results.get(step.name))}")
        return 0
    passed = day.run(asked, time.monotonic() + 60 * options.minutes)
    print(day.report())
    print(f"kept in {day.out}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
