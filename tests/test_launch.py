"""`train --processes`: one run of several processes, whatever becomes of them."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from rapids_slr import launch, run
from rapids_slr.cli import main
from rapids_slr.errors import RunError
from rapids_slr.launch import PEER_ENDED, run_together
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import dump_spec

HANG_SECONDS = 60
ROOT = Path(__file__).parents[1]


def started(folder: Path, spec: RunSpec, size: int, *words: str, **variables: str) -> subprocess.Popen:
    file = folder.with_suffix(".yaml")
    file.write_text(dump_spec(spec))
    command = [sys.executable, "-m", "rapids_slr", "train", str(file), "--out", str(folder), "--no-report"]
    return subprocess.Popen(
        [*command, "--processes", str(size), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder.parent)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    """The processes of a run, those that its launcher started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def rows(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds/")} for row in lines]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> tuple[RunSpec, Path]:
    """A spec that starts from a trained network, and the folder of a run of one process."""
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("one")
    first = run.pretrain(RunSpec.model_validate(TINY), folder / "first")
    pretrain = TINY["pretrain"] | {"checkpoint": str(first / "checkpoints" / "pretrained.pt")}
    spec = RunSpec.model_validate(TINY | {"pretrain": pretrain})
    return spec, run.train(spec, folder / "run")


@pytest.fixture(scope="module")
def of_two(pretrained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "run"
    process = started(folder, pretrained[0], 2)
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert out == f"{folder}\n"  # once
    return folder


@pytest.mark.slow
def test_two_processes_leave_one_run(pretrained, of_two):
    one, two = rows(pretrained[1]), rows(of_two)
    assert [row["epoch"] for row in two] == [1, 2, 3]
    for name in ("labels/epoch-001.parquet",):  # before training, whose rounding goes on into the later ones
        pd.testing.assert_frame_equal(pd.read_parquet(of_two / name), pd.read_parquet(pretrained[1] / name))
    assert one[0]["loss/ce"] == pytest.approx(two[0]["loss/ce"], rel=1e-4)
    assert {file.name for file in of_two.iterdir()} == {file.name for file in pretrained[1].iterdir()}
    assert list(of_two.parent.glob("rapids_slr-*/*.images")), "no file of images that both have mapped"


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(2))
def test_a_killed_process_is_started_again(pretrained, of_two, tmp_path, moment):
    """Any of the two, at any time: the run ends by itself, as if nothing had happened."""
    draw = random.Random(moment)
    process = started(tmp_path / "run", pretrained[0], 2)
    time.sleep(draw.uniform(2, 9))
    for child in draw.sample(found := children(process.pid), min(1, len(found))):
        os.kill(child, signal.SIGKILL)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert rows(tmp_path / "run") == rows(of_two)
    mine, other = (torch.load(f / "checkpoints" / "last.pt", weights_only=True) for f in (tmp_path / "run", of_two))
    assert all(torch.equal(x, other["teacher"][name]) for name, x in mine["teacher"].items())
    assert "error" not in said


@pytest.mark.slow
def test_faults_are_told_once_and_end_all(pretrained, tmp_path):
    """A loss that is not finite on all processes, an image that one of them cannot read."""
    spec = pretrained[0]
    wild = spec.model_copy(update={"training": spec.training.model_copy(update={"lr": 1e30, "epochs": 30})})
    process = started(tmp_path / "wild", wild, 2)
    _, said = process.communicate(timeout=HANG_SECONDS + 60)
    assert process.returncode == 1, said
    assert said.count("error:") == 1, said
    assert "the loss is not finite" in said
    process = started(tmp_path / "bad", spec, 2, "--set", f"data.target={{path: {tmp_path / 'none'}}}")
    _, said = process.communicate(timeout=HANG_SECONDS + 60)
    assert process.returncode == 2, said
    assert said.count("error:") == 1, said


@pytest.mark.slow
def test_how_a_process_ends_after_its_fault_does_not_start_the_run_again(pretrained, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, signal\n"
        "if 'RANK' in os.environ:\n"
        "    atexit.register(os.kill, os.getpid(), signal.SIGKILL)\n"
    )
    nowhere = f"data.target={{path: {tmp_path / 'none'}}}"
    process = started(tmp_path / "run", pretrained[0], 2, "--set", nowhere, PYTHONPATH=str(tmp_path))
    _, said = process.communicate(timeout=HANG_SECONDS + 60)
    assert process.returncode == 2, said
    assert said.count("error:") == 1, said


@pytest.mark.slow
def test_the_line_for_several_machines(pretrained, of_two, tmp_path):
    """As docs/processes.md has it, on one machine that stands for two."""
    page = (ROOT / "docs" / "processes.md").read_text()
    line = re.search(r"```text\n(torchrun .*?)```", page, re.DOTALL)[1].replace("\\\n", " ")
    (tmp_path / "spec.yaml").write_text(dump_spec(pretrained[0]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for place, value in (("node 8", "node 1"), ("HOST:29500", f"127.0.0.1:{port}"), ("DIR", str(tmp_path / "run"))):
        assert place in line
        line = line.replace(place, value)
    words = line.replace("SPEC", str(tmp_path / "spec.yaml")).split()
    variables = {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:], "--no-report"]
    machines = [
        subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for machine in machines:
        _, said = machine.communicate(timeout=300)
        assert machine.returncode == 0, said
    assert rows(tmp_path / "run") == rows(of_two)


def of_one_process(folder: Path, rank: int, lines: str) -> dict[str, str]:
    """Variables by which Python runs some lines before all else, in one process of a run."""
    folder.mkdir()
    program = f"import os\nif os.environ.get('RANK') == '{rank}':\n" + textwrap.indent(lines, "    ")
    (folder / "sitecustomize.py").write_text(program)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


UNREADABLE = """
from rapids_slr.data import store
from rapids_slr.data.faults import Fault
real = store.decode_or_fault
store.decode_or_fault = lambda domain, name, *args: (
    Fault(name, "cannot be read") if name.endswith("c1s1_000001_00.png") else real(domain, name, *args)
)
"""
NO_NUMBER = """
from rapids_slr.hosts import loop
steps, real = [], loop.LossMeter.add
def add(meter, total, *rest):
    steps.append(total)
    real(meter, total * float("nan") if len(steps) == 6 else total, *rest)
loop.LossMeter.add = add
"""
SPOILT_BATCH = """
from rapids_slr.hosts import loop
steps, real = [], loop.Batches.augmented
def augmented(batches, *args):
    steps.append(1)
    return real(batches, *args) * (float("nan") if len(steps) == 11 else 1)
loop.Batches.augmented = augmented
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "lines", "keys", "code", "message"),
    [
        (0, UNREADABLE, [], 2, "unreadable images"),
        (1, UNREADABLE, ["data.store=host"], 2, "unreadable images"),
        (1, UNREADABLE, ["data.store=host", "data.on_error=skip"], 2, "process 1 can read"),
        (1, NO_NUMBER, [], 1, "epoch 2: the loss is not finite"),
        (1, SPOILT_BATCH, [], 1, "epoch 2: the loss is not finite"),
    ],
    ids=["reader", "own store", "left out", "loss", "batch"],
)
def test_a_fault_of_one_process_ends_all(pretrained, of_two, tmp_path, rank, lines, keys, code, message):
    """One message and the exit code of a run of one process; without the fault the run goes on where it stopped."""
    words = [f"--set={key}" for key in keys]
    process = started(tmp_path / "run", pretrained[0], 2, *words, **of_one_process(tmp_path / "site", rank, lines))
    _, said = process.communicate(timeout=2 * HANG_SECONDS)
    assert process.returncode == code, said
    assert len(re.findall("(?m)^error:", said)) == 1, said
    assert message in said
    assert "Traceback" not in said
    if lines in (UNREADABLE, NO_NUMBER) and not keys:  # one of either kind
        process = started(tmp_path / "run", pretrained[0], 2, *words, "--resume")
        _, said = process.communicate(timeout=4 * HANG_SECONDS)
        assert process.returncode == 0, said
        assert rows(tmp_path / "run") == rows(of_two)


def test_a_bad_spec_is_told_before_anything_is_started(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launch, "_started", lambda *_: pytest.fail("started"))
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_spec(tiny))
    assert main(["train", str(file), "--processes", "3", "--out", str(tmp_path / "run")]) == 2
    assert "3 processes take the same number of identities each" in capsys.readouterr().err
    assert main(["train", str(file), "--processes", "2", "--set", "training.epoch=3"]) == 2
    assert main(["train", str(file), "--processes", "0"]) == 2


# The launcher, with processes that are no run ------------------------------------------------------------------------


def scripted(monkeypatch, *scripts: str) -> list[list[str]]:
    """Processes that run these lines of Python in place of the command; gives the words of every start."""
    words_of_starts: list[list[str]] = []

    def start(size, words):
        words_of_starts.append(list(words))
        lines = scripts[min(len(words_of_starts), len(scripts)) - 1].split("|")
        return [subprocess.Popen([sys.executable, "-c", lines[r % len(lines)]]) for r in range(size)]

    monkeypatch.setattr(launch, "_started", start)
    return words_of_starts


KILLED = "import os, time; time.sleep(.2); os.kill(os.getpid(), 9)"
WAITS = "import time; time.sleep(100)"


@pytest.mark.parametrize(
    ("scripts", "code", "starts"),
    [
        (["pass"], 0, 1),
        (["import sys; sys.exit(2)|" + WAITS], 2, 1),
        ([f"import sys; sys.exit({PEER_ENDED})|import sys; sys.exit(1)"], 1, 1),
        ([f"{KILLED}|{WAITS}", "pass"], 0, 2),
        ([f"{KILLED}|import sys; sys.exit({PEER_ENDED})", "pass"], 0, 2),
    ],
)
def test_faults_end_a_run_and_kills_start_it_again(scripts, code, starts, monkeypatch, tmp_path):
    words = scripted(monkeypatch, *scripts)
    (tmp_path / "spec.yaml").touch()
    begun = time.monotonic()
    assert run_together(2, ["train"], tmp_path) == code
    assert time.monotonic() - begun < 20  # who waits is not waited for
    assert len(words) == starts
    assert words[-1] == ["train", "--resume"]


def test_a_run_that_is_killed_again_and_again_is_given_up(monkeypatch, tmp_path):
    words = scripted(monkeypatch, f"{KILLED}|{WAITS}")
    with pytest.raises(RunError, match=rf"killed 3 times before the next checkpoint .* --out {tmp_path} --processes 2"):
        run_together(2, ["train", "--resume"], tmp_path)
    assert words == [["train", "--resume"]] * 3


@pytest.mark.parametrize("who", [{launch.LAUNCHER: "its pid"}, {launch.TORCHRUN: "7"}])
def test_processes_end_with_whoever_watches_them(who, tmp_path):
    work = "import sys, time; from rapids_slr.launch import end_with_launcher as end; end(); print(7); time.sleep(99)"
    watch = f"""
import os, subprocess, sys
who = {{name: str(os.getpid()) if value == "its pid" else value for name, value in {who}.items()}}
child = subprocess.Popen([sys.executable, "-u", "-c", {work!r}], env=os.environ | who, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
    watcher = subprocess.Popen([sys.executable, "-c", watch], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(watcher.stdout.readline()))
    watcher.kill()
    watcher.wait()
    gone, _ = psutil.wait_procs([child], 10)
    assert gone
