"""Sweeps: what a file says, the order of the work, what a stop or a crash costs, and the arithmetic of the table."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rapids_slr import run
from rapids_slr.cli import main
from rapids_slr.errors import InputError
from rapids_slr.files import make_folder
from rapids_slr.lock import held
from rapids_slr.record.folder import RunFolder
from rapids_slr.reports.style import DARK, LIGHT
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import SpecError, dump_yaml, embedded_specs, load_spec
from rapids_slr.sweep import jobs, plan, processes, work
from rapids_slr.sweep.folder import SweepFolder
from rapids_slr.sweep.plan import load_sweep, pretraining_of
from rapids_slr.sweep.plot import GREY, axis_of, colour_of, difference_parts, differences_in, draw, plot_of
from rapids_slr.sweep.table import (
    compare,
    difference_of,
    differences,
    epoch_means,
    figures_of,
    markdown,
    over_epochs,
    rows_of,
    score_figure,
    scores_of,
    spread_of,
)
from tests.conftest import TINY
from tests.test_run import changed

SWEEP = """\
name: small
spec: base.yaml
seeds: [0, 1]
pairs: {there: {}, back: {swap: true}}
methods:
  abmt: {refine: none}
  slr: {}
  shuffled: {training.labels: shuffled, seeds: [0]}
"""

STANDIN = '''\
"""Stands in for the program: leaves what a run leaves, without its work. Says what it was asked for in calls.jsonl."""
import json, os, pathlib, signal, sys, time, zlib
import yaml
command, resume, _, out, _, device = sys.argv[1:]
out = pathlib.Path(out)
spec = yaml.safe_load((out / "spec.yaml").read_text())
call = {"command": command, "name": spec["name"], "resume": resume, "device": device, "pid": os.getpid()}
call |= {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
top = next(folder for folder in out.parents if (folder / "sweep.yaml").exists())

def say(what):
    with open(top.parent / "calls.jsonl", "a") as file:
        file.write(json.dumps({**call, "what": what, "time": time.time()}) + "\\n")

def stop(number, frame):
    say("stopped")
    sys.exit(130)

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
say("begin")
crowd = top.parent / "crowd"  # how many there have to be before the first goes on
while crowd.exists() and (top.parent / "calls.jsonl").read_text().count('"begin"') < int(crowd.read_text()):
    time.sleep(0.01)
(out / "checkpoints").mkdir(exist_ok=True)
iterations = spec["pretrain" if command == "pretrain" else "training"]["iterations"]
if iterations == 13:
    print("warning: unlucky\\nerror: 13 iterations bring no luck\\nchoose another number", file=sys.stderr)
    sys.exit(1)
if iterations == 12:
    sys.exit(0)
if iterations == 14:
    os.kill(os.getpid(), signal.SIGKILL)
if (top.parent / "hang").exists() and (top.parent / "hang").read_text() == spec["name"]:
    (top.parent / "waiting").touch()
    time.sleep(60)
if command == "pretrain":
    (out / "checkpoints/pretrained.pt").touch()
else:
    assert pathlib.Path(spec["pretrain"]["checkpoint"]).exists()
    score = lambda what: {name: zlib.crc32(f"{what} {name} {spec['name']}".encode()) / 2**32
                          for name in ("mAP", "rank1", "rank5", "rank10")}
    rows = [{"epoch": e, **score(e), "seconds/training": 0.5, "seconds/epoch": 1.0} for e in (1, 2)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
    time.sleep(0.05)
    summary = {name: score(name) for name in ("direct", "direct_bn", "best")} | {"last": score(2)}
    summary |= {"device": "CPU, 1 threads", "versions": {"rapids-slr": "0"}, "seconds": 2.0}
    (out / "summary.json").write_text(json.dumps(summary))
say("end")
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder with a sweep in sweep.yaml of the tiny spec in base.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    monkeypatch.setattr(work, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(jobs, "commit", lambda: "abc123")
    (tmp_path / "base.yaml").write_text(dump_yaml(TINY))
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path


@pytest.fixture
def standin(here, monkeypatch) -> tuple[str, str]:
    (here / "standin.py").write_text(STANDIN)
    program = sys.executable, str(here / "standin.py")
    monkeypatch.setattr(processes, "PROGRAM", program)
    return program


def calls(here: Path, what: str = "begin") -> list[dict]:
    """What the stand-in was asked for, in order."""
    lines = (here / "calls.jsonl").read_text().splitlines()
    return [call for call in map(json.loads, lines) if call["what"] == what]


def names(here: Path, command: str = "adapt") -> list[str]:
    return [call["name"] for call in calls(here) if call["command"] == command]


def states(results: dict) -> dict[str, str]:
    return {f"{run['pair']}/{run['method']}/{run['seed']}": run["state"] for run in results["runs"]}


# The sweep file -------------------------------------------------------------------------------------------------------


def test_a_seed_of_all_methods_comes_before_the_next(here):
    sweep = load_sweep("sweep.yaml")
    assert [run.name for run in sweep.runs] == [
        "there/abmt/seed-0",
        "there/slr/seed-0",
        "there/shuffled/seed-0",
        "back/abmt/seed-0",
        "back/slr/seed-0",
        "back/shuffled/seed-0",
        "there/abmt/seed-1",
        "there/slr/seed-1",
        "back/abmt/seed-1",
        "back/slr/seed-1",
    ]
    assert sweep.baseline == "abmt"
    assert [run.spec.seed for run in sweep.runs] == [0] * 6 + [1] * 4
    assert [run.spec.refine.choice() == "none" for run in sweep.runs[:3]] == [True, False, False]
    assert sweep.runs[2].spec.training.labels == "shuffled"
    assert sweep.runs[5].changes == {"swap": True, "training.labels": "shuffled"}


def test_changes_are_made_in_the_order_that_is_told(here):
    (here / "sweep.yaml").write_text(
        "spec: base.yaml\nseeds: [0]\nset: {clusters.k1: 4, clusters: {k2: 2}, pretrain.lr: 0.01, augment.pad: 1}\n"
        "pairs: {a: {clusters.k1: 5, augment: {pad: 3}}}\nmethods: {m: {clusters.k1: 7}, n: {}}\n"
    )
    m, n = load_sweep("sweep.yaml", ["clusters.k2=1", "augment.pad=0", "pretrain.lr=0.02"]).runs
    assert (m.spec.clusters.k1, n.spec.clusters.k1) == (7, 5)
    assert (m.spec.clusters.k2, m.spec.augment.pad, m.spec.pretrain.lr) == (1, 3, 0.02)


def test_swap_exchanges_the_domains_before_the_changes_of_the_pair(here):
    (here / "sweep.yaml").write_text(
        "spec: base.yaml\nseeds: [0]\nmethods: {m: {}}\n"
        "pairs: {back: {swap: true, data.target.path: there.zip}, not: {swap: false}, round: {swap: true}}\n"
    )
    back, same, other = load_sweep("sweep.yaml", ["data.target.synth.gap=0.5"]).runs
    assert back.spec.data.source.synth.style == "target"
    assert back.spec.data.source.synth.gap == 0.5
    assert (back.spec.data.target.path, back.spec.data.target.synth) == ("there.zip", None)
    assert same.spec.data.source.synth.style == "source"
    assert (other.spec.data.source, other.spec.data.target) == (same.spec.data.target, same.spec.data.source)


def test_a_grid_is_a_method_a_point(here):
    (here / "sweep.yaml").write_text(
        "spec: base.yaml\nseeds: [0]\nbaseline: b-alpha=0.3-width=4\nmethods:\n"
        "  a: {grid: {refine: [none, {alpha: 0.5}]}}\n"
        "  b: {grid: {refine.alpha: [0.3, 1], model.widths: [[4, 8, 8]]}}\n"
        "  b-alpha=1-widths=4+8+8: {}\n"
    )
    with pytest.raises(SpecError) as raised:
        load_sweep("sweep.yaml")
    assert raised.value.faults == [
        "sweep.yaml:3: baseline: b-alpha=0.3-width=4 is no method; did you mean b-alpha=0.3-widths=4+8+8?",
        "sweep.yaml:5: grid: a-refine={'alpha': 0.5} cannot name a folder (letters, digits and _.=+-); "
        "write these methods out",
        "sweep.yaml:7: methods.b-alpha=1-widths=4+8+8: there is a method b-alpha=1-widths=4+8+8 already",
    ]
    (here / "sweep.yaml").write_text(
        "spec: base.yaml\nseeds: [0]\nmethods:\n"
        "  b:\n    clusters.k2: 2\n"
        "    grid: {refine: {alpha: [0.3, 1]}, refine.min_cluster_size: [4], clusters.min_cluster_size: [5]}\n"
    )
    sweep = load_sweep("sweep.yaml")
    ends = "-refine.min_cluster_size=4-clusters.min_cluster_size=5"
    assert sweep.methods == (f"b-alpha=0.3{ends}", f"b-alpha=1{ends}")
    assert [run.spec.refine.alpha for run in sweep.runs] == [0.3, 1]
    assert {(run.spec.clusters.k2, run.changes["clusters.min_cluster_size"]) for run in sweep.runs} == {(2, 5)}


def test_set_reaches_the_sweep_file_and_the_base(here):
    sweep = load_sweep(
        "sweep.yaml",
        ["seeds=[4]", "methods.slr.refine.alpha=0.9", "methods.more.clusters.k1=5", "baseline=slr", "pretrain.epochs=1",
         "methods.shuffled.seeds=[4]"],
    )  # fmt: skip
    assert sweep.methods == ("abmt", "slr", "shuffled", "more")
    assert (sweep.seeds, sweep.baseline, len(sweep.runs)) == ((4,), "slr", 8)
    assert {run.spec.pretrain.epochs for run in sweep.runs} == {1}
    assert sweep.runs[1].spec.refine.alpha == 0.9
    assert sweep.runs[3].spec.clusters.k1 == 5


def test_the_text_of_a_sweep_gives_it_again(here):
    sweep = load_sweep("sweep.yaml", ["seeds=[0, 2]", "clusters.k1=5", "pairs.third.data.target.path=x.zip"])
    (here / "copy").mkdir()
    (here / "copy/sweep.yaml").write_text(sweep.text)
    (here / "copy/spec.yaml").write_text(dump_yaml(sweep.base))
    assert load_sweep("copy/sweep.yaml") == sweep


def test_a_sweep_extends_another(here):
    (here / "more").mkdir()
    (here / "more/longer.yaml").write_text("extends: ../sweep.yaml\nname: longer\nseeds: [0, 1, 2]\n")
    sweep = load_sweep("more/longer.yaml")
    assert (sweep.name, len(sweep.runs)) == ("longer", 14)


def test_all_faults_come_at_once(here):
    (here / "base.yaml").write_text(dump_yaml(TINY) + "colour: red\n")
    (here / "sweep.yaml").write_text(
        "name: a b\n"
        "spec: base.yaml\n"
        "sedes: [0]\n"
        "seeds: [0, 1, 1, -1]\n"
        "clusters: {k1: 5}\n"
        "set:\n"
        "  refine.alhpa: 0.5\n"
        "  seed: 3\n"
        "pairs:\n"
        "  there: {swap: maybe}\n"
        "  other:\n"
        "    training.epochs: 0\n"
        "methods:\n"
        "  ..: {}\n"
        "  few: {seeds: [9]}\n"
        "  high: {refine: {alpha: 1.5, hard:}}\n"
        "  many: {grid: {clusters.k1: 5}}\n"
        "baseline: hihg\n"
    )
    with pytest.raises(SpecError) as raised:
        load_sweep("sweep.yaml", ["pretrain.lr=fast", "nothing"])
    assert raised.value.faults == [
        "sweep.yaml:1: name: should match pattern '^\\w[\\w.=+-]*$', got a b",
        "sweep.yaml:3: sedes: unknown key; did you mean seeds?",
        "sweep.yaml:4: seeds: 1 is given twice",
        "sweep.yaml:4: seeds[3]: should be greater than or equal to 0, got -1",
        "sweep.yaml:5: clusters: unknown key of a sweep; changes of the spec for all runs stand below `set`",
        "sweep.yaml:7: refine.alhpa: unknown key; did you mean refine.alpha?",
        "sweep.yaml:8: seed: is given by `seeds`",
        "sweep.yaml:10: pairs.there.swap: should be a valid boolean, got maybe",
        "sweep.yaml:12: training.epochs: should be greater than or equal to 1, got 0",
        "sweep.yaml:14: methods...: cannot name a folder (letters, digits and _.=+-)",
        "sweep.yaml:15: methods.few.seeds: 9 is not among the seeds of the sweep",
        "sweep.yaml:16: refine.alpha: should be less than or equal to 1, got 1.5",
        "sweep.yaml:16: methods.high.refine.hard: has no value; give one, or leave the key out",
        "sweep.yaml:17: grid.clusters.k1: expected a list of values, such as [0.3, 0.7]",
        "sweep.yaml:18: baseline: hihg is no method; did you mean high?",
        f"base.yaml:{len(dump_yaml(TINY).splitlines()) + 1}: colour: unknown key",
        "--set nothing: expected key=value, such as clusters.k1=20",
        "--set pretrain.lr=fast: pretrain.lr: should be a valid number, got fast",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "sweep.yaml:1: spec: is missing\nsweep.yaml:1: seeds: is missing\nsweep.yaml:1: methods: is missing"),
        ("spec: gone.yaml\nseeds: [0]\nmethods: {a: {}}", "sweep.yaml:1: spec: gone.yaml: no such spec file; embed"),
        ("spec: base.yaml\nseeds: []\nmethods: {a: {}}", "sweep.yaml:2: seeds: should have at least 1 item"),
        ("spec: base.yaml\nseeds: [0]\nmethods: {}", "sweep.yaml:3: methods: "),
        ("spec: base.yaml\nseeds: [0]\nmethods: [a]", "sweep.yaml:3: methods: should be a valid dictionary, got [a]"),
        ("spec: base.yaml\nseeds: [0]\nmethods: {a: b}", "sweep.yaml:3: methods.a: expected a section of settings"),
        ("spec: base.yaml\nseeds: [0\n", "sweep.yaml:3: column 1: broken YAML"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(here, text, fault):
    (here / "sweep.yaml").write_text(text)
    with pytest.raises(SpecError) as raised:
        load_sweep("sweep.yaml")
    assert str(raised.value).startswith(fault)
    assert "colour" not in str(raised.value)


def test_swap_needs_both_domains(here):
    spec = {**TINY, "data": {"target": TINY["data"]["target"]}, "pretrain": {"checkpoint": "pretrained.pt"}}
    (here / "base.yaml").write_text(dump_yaml(spec))
    with pytest.raises(SpecError, match=r"sweep.yaml:4: swap: needs data.source and data.target in the base spec"):
        load_sweep("sweep.yaml")


def test_the_embedded_sweeps_are_whole():
    sweep = load_sweep("omniglot-methods")
    assert load_sweep("configs/sweeps/omniglot-methods.yaml") == sweep
    assert {"forward", "reverse"} <= set(sweep.pairs)
    assert (sweep.methods, sweep.baseline) == (("abmt", "abmt-sized", "slr", "shuffled", "identities"), "abmt")
    assert sum(run.pair == "forward" for run in sweep.runs) == 3 * 8 + 2 * 3
    with pytest.raises(InputError, match=r"gone: no such sweep file; embedded sweeps are .*omniglot-methods"):
        load_sweep("gone")
    assert "omniglot-methods" not in embedded_specs()


def test_the_example_of_the_docstring_is_a_sweep(here):
    text = plan.__doc__.partition("\n\n")[2].partition("\n\n")[0]
    (here / "sweep.yaml").write_text("\n".join(line[4:] for line in text.splitlines()))
    assert load_sweep("sweep.yaml").methods == ("abmt", "slr-alpha=0.3", "slr-alpha=0.7", "shuffled")


# Shared pre-training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"training": {"epochs": 9}}, True),
        ({"refine": "none"}, True),
        ({"clusters": {"k1": 4}, "features": {"views": 2}, "evaluation": {"every": 2}}, True),
        ({"name": "other", "device": "auto", "memory_pool": "torch", "data": {"store": "host"}}, True),
        ({"seed": 4}, False),
        ({"data": {"height": 48}}, False),
        ({"data": {"target": {"synth": {"seed": 1}}}}, False),
        ({"augment": {"pad": 3}}, False),
        ({"model": {"widths": [4, 4, 8]}}, False),
        ({"pretrain": {"lr": 2e-3}}, False),
    ],
    ids=str,
)
def test_runs_share_a_pretraining_that_reads_the_same(tiny, change, shared):
    other = pretraining_of(changed(tiny, **change))
    assert (other.name == pretraining_of(tiny).name) == shared
    assert other.training == RunSpec.model_fields["training"].default


def test_a_target_that_pretraining_does_not_see_does_not_part_it(tiny):
    one = changed(tiny, pretrain={"target_forward": False})
    other = changed(one, data={"target": {"synth": {"seed": 1}}})
    assert pretraining_of(one).name == pretraining_of(other).name
    assert pretraining_of(changed(one, pretrain={"checkpoint": "p.pt"})) is None


class AtOnce:
    """In place of subprocess.Popen: runs the command in this process, which is faster than a new one."""

    def __init__(self, words, *, stdout, **_):
        self.returncode = main(words[len(processes.PROGRAM) :])

    def poll(self) -> int:
        return self.returncode


def metrics(folder: Path, name: str) -> list[dict]:
    rows = RunFolder(folder).rows(folder / name)
    return [{key: value for key, value in row.items() if not key.startswith("seconds/")} for row in rows]


def test_runs_equal_those_of_train_from_a_pretraining_that_ran_once_a_seed(here, monkeypatch):
    monkeypatch.setattr(processes.subprocess, "Popen", AtOnce)
    (here / "sweep.yaml").write_text(
        "spec: base.yaml\nseeds: [0, 1]\nmethods: {abmt: {refine: none}, slr: {}}\n"
        "set: {pretrain.iterations: 2, training: {epochs: 2, iterations: 2}}\n"
    )
    assert main(["sweep", "sweep.yaml", "--out", "out"]) == 0
    pretrained = list((here / "out/pretrained").iterdir())
    assert len(pretrained) == 2
    assert all(len(metrics(folder, "pretrain.jsonl")) == TINY["pretrain"]["epochs"] for folder in pretrained)
    ours = here / "out/runs/all/slr/seed-1"
    spec = load_spec(ours / "spec.yaml")
    assert spec.pretrain.checkpoint is not None
    assert not (ours / "pretrain.jsonl").exists()
    alone = run.train(changed(spec, pretrain={"checkpoint": None}), here / "alone")
    assert metrics(ours, "metrics.jsonl") == metrics(alone, "metrics.jsonl")
    first, second = (torch.load(f / "checkpoints/last.pt", weights_only=True)["teacher"] for f in (ours, alone))
    assert all(torch.equal(weights, second[key]) for key, weights in first.items())
    results = json.loads((here / "out/results.json").read_text())
    assert [record["scores"]["last"]["mAP"] for record in results["runs"]] == [
        record["epochs"][-1]["mAP"] for record in results["runs"]
    ]
    record = results["runs"][-1]
    assert record.keys() >= {"pair", "method", "seed", "changes", "commit", "threads", "device", "versions", "seconds"}
    assert record["epochs"][-1].keys() >= {"clusters", "ari", "raw_ari", "loss/ce", "rank10"}
    assert not any(key.startswith("seconds/") for key in record["epochs"][-1])
    assert record["stage_seconds"].keys() >= {"features", "clusters", "training", "epoch"}


# The work -------------------------------------------------------------------------------------------------------------


def test_a_sweep_runs_all_and_leaves_its_files(here, standin, capsys):
    assert main(["sweep", "sweep.yaml", "--out", "out"]) == 0
    order = [call["name"] for call in calls(here)]
    first, second = (run.pretraining.name for run in load_sweep("sweep.yaml").runs[::3][:2])
    assert order[:8] == [
        first, "there-abmt-0", "there-slr-0", "there-shuffled-0", second, "back-abmt-0", "back-slr-0", "back-shuffled-0"
    ]  # fmt: skip
    assert len(order) == 10 + 4
    assert {(call["resume"], call["device"]) for call in calls(here)} == {("--resume", "cpu")}
    assert {path.name for path in (here / "out").iterdir()} == {
        "sweep.yaml", "spec.yaml", "results.json", "table.md", "plot.svg", "runs", "pretrained", "lock"
    }  # fmt: skip
    results = json.loads((here / "out/results.json").read_text())
    assert set(states(results).values()) == {"done"}
    record = results["runs"][-1]
    assert (record["pair"], record["method"], record["seed"], record["changes"]) == ("back", "slr", 1, {"swap": True})
    assert (record["commit"], record["threads"]) == ("abc123", torch.get_num_threads())
    assert record["stage_seconds"] == {"training": 1.0, "epoch": 2.0}
    assert [row["epoch"] for row in record["epochs"]] == [1, 2]
    assert record["epochs"][1].keys() == {"epoch", "mAP", "rank1", "rank5", "rank10"}
    written = capsys.readouterr()
    assert written.out.endswith("10 of 10 runs are finished (CPU, 1 threads, commit abc123).\nout\n")
    assert "all pairs" in written.out
    assert "back/slr/seed-1: mAP" in written.err
    runs = (here / "out/results.json").read_text().partition('"runs": [\n')[2]
    assert len(runs.splitlines()) == 10 + 2  # a line a run


def test_results_are_there_after_every_run(here, standin, monkeypatch):
    seen = []
    write = SweepFolder.write_results
    monkeypatch.setattr(SweepFolder, "write_results", lambda *words: (seen.append(words[1]), write(*words)))
    work.run_sweep(load_sweep("sweep.yaml"), here / "out")
    done = [sum(state == "done" for state in states(results).values()) for results in seen]
    assert sorted(set(done)) == list(range(11))


def test_a_failing_run_costs_itself_alone(here, standin, capsys):
    changes = ["--set", "methods.slr.training.iterations=13", "--set", "methods.shuffled.training.iterations=14"]
    assert main(["sweep", "sweep.yaml", *changes, "--out", "out"]) == 1
    err = capsys.readouterr().err
    assert "there/slr/seed-1 failed: exit code 1: 13 iterations bring no luck\nchoose another number; see " in err
    assert "there/shuffled/seed-0 failed: ended by SIGKILL, as where memory runs out; see out/runs/there/sh" in err
    assert "error:\n6 of 10 runs failed; try them again with --resume\nthere/slr/seed-0: exit code 1: 13" in err
    found = states(json.loads((here / "out/results.json").read_text()))
    assert all(state == ("done" if "abmt" in name else "failed") for name, state in found.items())
    assert "Failed: back/slr/seed-0: exit code 1: 13 iterations bring no luck" in (here / "out/table.md").read_text()
    (here / "calls.jsonl").unlink()
    assert main(["sweep", "--resume", "--out", "out", "--set", "methods.slr.training.iterations=13"]) == 1
    again = "there-slr-0 there-shuffled-0 back-slr-0 back-shuffled-0 there-slr-1 back-slr-1"
    assert names(here) == again.split()


def test_a_run_that_leaves_no_summary_has_failed(here, standin, capsys):
    assert main(["sweep", "sweep.yaml", "--set", "methods.slr.training.iterations=12", "--out", "out"]) == 1
    assert "back/slr/seed-1: exit code 0: nothing was written; see out/runs/back/slr/seed-1" in capsys.readouterr().err


def test_a_failing_pretraining_takes_its_runs_with_it(here, standin, capsys):
    assert main(["sweep", "sweep.yaml", "--set", "pairs.back.pretrain.iterations=13", "--out", "out"]) == 1
    found = states(json.loads((here / "out/results.json").read_text()))
    assert all(state == ("failed" if "back" in name else "done") for name, state in found.items())
    assert "back/slr/seed-0 failed: its pre-training failed, exit code 1: 13 iterations" in capsys.readouterr().err
    assert len(names(here, "pretrain")) == 4


def in_use(lock: Path) -> bool:
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_sweep_goes_on_where_it_was(here, standin, capsys, how):
    """The third run hangs until the sweep is stopped."""
    (here / "hang").write_text("there-shuffled-0")
    words = [sys.executable, "-c", script_of(standin), "sweep", "sweep.yaml", "--out", "out"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as sweep:
        while not (here / "waiting").exists():
            assert sweep.poll() is None, sweep.stderr.read()
            time.sleep(0.05)
        if how == signal.SIGTERM:
            sweep.terminate()
            _, err = sweep.communicate()
            assert sweep.returncode == 130
            assert err.endswith("stopped; 2 of 10 runs are finished. Go on with: rapids-slr sweep --resume --out out\n")
            assert [call["name"] for call in calls(here, "stopped")] == ["there-shuffled-0"]
        else:
            sweep.kill()
            sweep.wait()
            assert main(["sweep", "sweep.yaml", "--resume", "--out", "out"]) == 2
            assert f"out is in use by process {sweep.pid} on {platform.node()}, or by one that it started" in (
                capsys.readouterr().err
            )
            os.kill(calls(here)[-1]["pid"], signal.SIGKILL)
            while in_use(here / "out/lock"):
                time.sleep(0.05)
    results = json.loads((here / "out/results.json").read_text())
    assert list(states(results).values()) == ["done"] * 2 + ["waiting"] * 8
    (here / "hang").write_text("")
    (here / "calls.jsonl").unlink()
    assert main(["sweep", "sweep.yaml", "--resume", "--out", "out"]) == 0
    assert names(here)[0] == "there-shuffled-0"
    assert len(names(here)) == 8
    assert len(names(here, "pretrain")) == 3


def test_a_run_that_outlived_its_sweep_keeps_others_out(here, standin):
    sweep, folder = load_sweep("sweep.yaml", ["seeds=[0]"]), SweepFolder(here / "out")
    make_folder(folder.path)
    with held(folder.path) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    try:
        with pytest.raises(InputError, match="out is in use by a process that another one has left, "):
            work.run_sweep(sweep, here / "out")
    finally:
        child.kill()
        child.wait()
    assert set(states(work.run_sweep(sweep, here / "out")).values()) == {"done"}


def test_a_sweep_file_of_the_user_is_not_overwritten(here, standin):
    (here / "exp").mkdir()
    file = here / "exp/sweep.yaml"
    file.write_text("# mine\nspec: ../base.yaml\nseeds: [0]\nmethods: {slr: {}}\n")
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"exp holds a sweep\.yaml that no sweep has written; name another folder"):
        work.run_sweep(load_sweep(file), here / "exp", resume=True)
    assert file.read_bytes() == before
    work.run_sweep(load_sweep(file), here / "out")
    written = here / "out/sweep.yaml"
    written.write_text("# noted later\n" + written.read_text())
    work.run_sweep(load_sweep(written), here / "out", resume=True)
    assert written.read_text().startswith("# noted later\n")


def test_a_folder_with_something_else_is_refused(here, standin):
    (here / "out").mkdir()
    (here / "out/letter.txt").touch()
    sweep = load_sweep("sweep.yaml", ["seeds=[0]", "methods.shuffled.training.iterations=3"])
    with pytest.raises(InputError, match="out exists and is not a sweep; name an empty or new folder"):
        work.run_sweep(sweep, here / "out")
    with pytest.raises(InputError, match="holds no sweep to go on with"):
        work.run_sweep(sweep, here / "out", resume=True)
    work.run_sweep(sweep, here / "sweep")
    with pytest.raises(InputError, match="already holds a sweep; go on with --resume"):
        work.run_sweep(sweep, here / "sweep")
    other = load_sweep("sweep.yaml", ["seeds=[0]", "methods.slr.refine.alpha=0.9", "augment.pad=1"])
    with pytest.raises(InputError) as raised:
        work.run_sweep(other, here / "sweep", resume=True)
    lines = str(raised.value).splitlines()
    assert lines[1].endswith("sweep: there/slr/seed-0 was started with other settings: augment.pad, refine.alpha")
    assert len(lines) == 6 + 1


def test_a_sweep_may_grow_and_move(here, standin):
    work.run_sweep(load_sweep("sweep.yaml", ["seeds=[0]", "device=cpu"]), here / "out")
    (here / "out/runs/back/abmt/seed-0/summary.json").unlink()  # stopped before it began
    (here / "out").rename(here / "moved")
    (here / "calls.jsonl").unlink()
    more = load_sweep("sweep.yaml", ["methods.new.refine.alpha=0.9", "device=auto"])
    results = work.run_sweep(more, here / "moved", resume=True)
    assert set(states(results).values()) == {"done"}
    assert names(here)[:3] == ["there-new-0", "back-abmt-0", "back-new-0"]
    assert len(names(here)) == 3 + 6
    assert len(names(here, "pretrain")) == 2
    (here / "calls.jsonl").unlink()
    fewer = load_sweep("moved/sweep.yaml", ["seeds=[1]", "methods.shuffled.seeds=[1]"])
    assert len(work.run_sweep(fewer, here / "moved", resume=True)["runs"]) == 8
    assert names(here) == ["there-shuffled-1", "back-shuffled-1"]


def test_jobs_run_at_the_same_time_with_the_threads_divided(here, standin, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(processes.torch, "get_num_threads", lambda: 7)
    (here / "crowd").write_text("3")
    sweep = load_sweep("sweep.yaml")
    results = work.run_sweep(sweep, here / "out", places=processes.Processes(processes.lanes(sweep, 3)))
    assert set(states(results).values()) == {"done"}
    assert {call["OMP_NUM_THREADS"] for call in calls(here)} == {"2"}
    events = [(call["time"], step) for what, step in (("begin", 1), ("end", -1)) for call in calls(here, what)]
    at_once = np.cumsum([step for _, step in sorted(events)])
    assert at_once.max() == 3
    order = [(call["command"], call["name"]) for call in calls(here)]
    pretrained = {run.spec.name: run.pretraining.name for run in load_sweep("sweep.yaml").runs}
    for place, (command, name) in enumerate(order):
        assert command == "pretrain" or ("pretrain", pretrained[name]) in order[:place]


@pytest.mark.parametrize(
    ("named", "jobs", "gpus"),
    [(None, None, ["0", "1"]), ("3,5", None, ["3", "5"]), (None, 3, ["0", "1", "0"]), (None, 1, ["0"])],
)
def test_every_gpu_gets_a_process(here, monkeypatch, named, jobs, gpus):
    monkeypatch.setattr(processes.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert [lane.gpu for lane in processes.lanes(load_sweep("sweep.yaml", ["device=auto"]), jobs)] == gpus
    on_cpu = processes.lanes(load_sweep("sweep.yaml"), jobs)
    assert [lane.gpu for lane in on_cpu] == [None] * (jobs or 1)
    assert processes.Lane(2, "5").environment()["CUDA_VISIBLE_DEVICES"] == "5"


def test_missing_data_is_named_before_anything_runs(here, standin):
    spec = {**TINY, "data": {**TINY["data"], "source": {"path": "a.zip"}, "target": {"path": "b.zip"}}}
    (here / "base.yaml").write_text(dump_yaml(spec))
    (here / "b.zip").touch()
    with pytest.raises(InputError) as raised:
        work.run_sweep(load_sweep("sweep.yaml"), here / "out")
    assert str(raised.value).splitlines() == [
        "there/abmt/seed-0: data.source.path: a.zip does not exist; give one with --set data.source.path=...",
        "back/abmt/seed-0: data.target.path: a.zip does not exist; give one with --set data.target.path=...",
    ]
    assert not (here / "out").exists()
    assert main(["sweep", "sweep.yaml", "--dry-run"]) == 2


def test_a_given_checkpoint_takes_the_place_of_pretraining(here, standin):
    (here / "p.pt").touch()
    work.run_sweep(load_sweep("sweep.yaml", ["pretrain.checkpoint=p.pt"]), here / "out")
    assert names(here, "pretrain") == []
    assert len(names(here)) == 10


# Parts of an array ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 8))
def test_parts_are_even_and_split_few_pretrainings(groups, number):
    runs = [
        SimpleNamespace(name=f"run {place}", pretraining=SimpleNamespace(name=group) if group else None)
        for place, group in enumerate(groups)
    ]
    parts = [jobs.Part(index, number).of(runs) for index in range(number)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == sorted(part, key=runs.index) for part in parts)
    makers = [{run.pretraining.name for run in part if run.pretraining} for part in parts]
    assert sum(map(len, makers)) <= len(set(groups) - {0}) + number - 1


SHARED = "spec: base.yaml\nseeds: [0]\nmethods: {abmt: {refine: none}, slr: {}, more: {refine.alpha: 0.9}}\n"
"""Three runs that share a pre-training."""


def script_of(standin: tuple[str, str]) -> str:
    """A program that is the command line, with the stand-in for what it starts."""
    lines = "import sys; from rapids_slr.cli import main; from rapids_slr.sweep import jobs, processes, work"
    lines += f"; processes.PROGRAM = {standin!r}; work.POLL_SECONDS = 0.02; jobs.commit = lambda: 'abc123'"
    return lines + "; sys.exit(main())"


def test_parts_at_the_same_time_leave_what_one_process_leaves(here, standin):
    (here / "sweep.yaml").write_text(SHARED)
    command = [sys.executable, "-c", script_of(standin), "sweep", "sweep.yaml", "--out", "out", "--array"]
    parts = [subprocess.Popen([*command, f"{index}/2"], stdout=subprocess.DEVNULL) for index in range(2)]
    assert [part.wait() for part in parts] == [0, 0]
    assert sorted(names(here)) == ["all-abmt-0", "all-more-0", "all-slr-0"]
    assert len(names(here, "pretrain")) == 1
    assert main(["sweep", "sweep.yaml", "--out", "one"]) == 0
    for name in ("results.json", "table.md", "plot.svg", "sweep.yaml", "spec.yaml"):
        assert (here / "out" / name).read_bytes() == (here / "one" / name).read_bytes(), name


def test_a_part_does_its_runs_alone_and_goes_on_by_itself(here, standin, capsys):
    words = ["sweep", "sweep.yaml", "--out", "out", "--array"]
    assert main([*words, "1/2", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith(
        "\npre-training for back/shuffled/seed-0\nback/shuffled/seed-0\n"
        "pre-training for there/abmt/seed-1\nthere/abmt/seed-1\nthere/slr/seed-1\n"
        "pre-training for back/abmt/seed-1\nback/abmt/seed-1\nback/slr/seed-1\n\n"
        "5 runs, 0 of them done, and 3 pre-trainings to do\n"
    )
    assert main([*words, "1/2"]) == 0
    assert names(here) == ["back-shuffled-0", "there-abmt-1", "there-slr-1", "back-abmt-1", "back-slr-1"]
    found = states(json.loads((here / "out/results.json").read_text()))
    assert [state for state in found.values()] == ["waiting"] * 5 + ["done"] * 5
    assert "5 of 10 runs are finished" in capsys.readouterr().out
    assert main(["sweep", "--resume", "--out", "out", "--array", "1/2"]) == 0
    assert main([*words, "0/2"]) == 0
    assert len(names(here)) == 10
    assert main(["sweep", "--table", "--out", "out"]) == 0


def test_what_failed_in_one_part_is_known_to_the_others(here, standin, capsys):
    words = ["sweep", "sweep.yaml", "--set", "pairs.there.training.iterations=13", "--out", "out", "--array"]
    assert main([*words, "0/2"]) == 1
    assert (
        "error:\n3 of 5 runs failed; try them again with --resume\nthere/abmt/seed-0: exit" in capsys.readouterr().err
    )
    assert main([*words, "1/2"]) == 1
    assert (
        "error:\n2 of 5 runs failed; try them again with --resume\nthere/abmt/seed-1: exit" in capsys.readouterr().err
    )
    found = json.loads((here / "out/results.json").read_text())
    assert all(state == ("failed" if "there" in name else "done") for name, state in states(found).items())
    assert all("13 iterations bring no luck" in run["fault"] for run in found["runs"] if run["pair"] == "there")


@pytest.mark.parametrize("ends", ["makes it", "dies"])
def test_a_pretraining_is_made_by_one_part_and_the_others_wait(here, standin, capsys, ends):
    (here / "sweep.yaml").write_text(SHARED)
    sweep, folder = load_sweep("sweep.yaml"), SweepFolder(here / "out")
    shared = sweep.runs[0].pretraining
    turn = folder.of_lock(shared.name)
    make_folder(turn)
    folder.write_sweep(sweep)
    with ThreadPoolExecutor() as pool:
        with held(turn):
            part = pool.submit(work.run_sweep, sweep, folder.path, part=jobs.Part(1, 3))
            err = ""
            while "another part of the array makes it" not in err:
                assert not part.done(), part.result()
                err += capsys.readouterr().err
                time.sleep(0.02)
            assert not (here / "calls.jsonl").exists()
            if ends == "makes it":
                make_folder(folder.of_pretraining(shared).pretrained_file.parent)
                folder.of_pretraining(shared).pretrained_file.touch()
        assert list(states(part.result()).values()) == ["waiting", "done", "waiting"]
    assert len(names(here, "pretrain")) == (0 if ends == "makes it" else 1)


def test_a_part_at_work_keeps_out_itself_and_the_whole_sweep(here, standin):
    sweep, folder = load_sweep("sweep.yaml", ["seeds=[0]"]), SweepFolder(here / "out")
    assert not {"waiting"} & {*states(work.run_sweep(sweep, folder.path)).values()}
    lock = folder.of_lock("part-0-of-2")
    make_folder(lock)
    with held(lock):
        for part in (None, jobs.Part(0, 2)):
            with pytest.raises(InputError, match=f"part-0-of-2 is in use by process {os.getpid()} on "):
                work.run_sweep(sweep, folder.path, resume=True, part=part)
        work.run_sweep(sweep, folder.path, part=jobs.Part(1, 2))
    work.run_sweep(sweep, folder.path, resume=True)


@pytest.mark.parametrize(
    ("part", "option", "words"),
    [(None, "", ""), (jobs.Part(1, 2), "", " --array 1/2"), (None, "--ray auto", " --ray auto")],
)
def test_a_stopped_sweep_says_how_to_go_on_where_it_was(here, standin, capsys, monkeypatch, part, option, words):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(work.Work, "do", stopped)
    monkeypatch.setattr(processes.Processes, "option", option)
    with pytest.raises(KeyboardInterrupt):
        work.run_sweep(load_sweep("sweep.yaml"), Path("out"), part=part)
    assert capsys.readouterr().err.endswith(f"Go on with: rapids-slr sweep --resume --out out{words}\n")


# The command ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_lists_what_is_left_and_makes_nothing(here, standin, capsys):
    assert main(["sweep", "sweep.yaml", "--dry-run", "--out", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["there/abmt  refine: none", "there/slr  the base spec"]
    assert lines[5] == "back/shuffled  swap: true, training.labels: shuffled"
    assert lines[7:10] == ["pre-training for there/abmt/seed-0", "there/abmt/seed-0", "there/slr/seed-0"]
    assert lines[-1] == "10 runs, 0 of them done, and 4 pre-trainings to do"
    assert not (here / "out").exists()
    main(["sweep", "sweep.yaml", "--set", "seeds=[0]", "--out", "out"])
    capsys.readouterr()
    assert main(["sweep", "sweep.yaml", "--resume", "--dry-run", "--out", "out"]) == 0
    assert capsys.readouterr().out.endswith("\n10 runs, 6 of them done, and 2 pre-trainings to do\n")


def test_the_table_is_drawn_again_from_the_results_alone(here, standin, capsys):
    assert main(["sweep", "sweep.yaml", "--out", "out"]) == 0
    shown = capsys.readouterr().out
    before = {name: (here / "out" / name).read_bytes() for name in ("table.md", "plot.svg")}
    for path in [*(here / "out").rglob("*"), here / "sweep.yaml"]:
        if path.is_file() and path.name != "results.json":
            path.unlink()
    assert main(["sweep", "--table", "--out", "out"]) == 0
    assert capsys.readouterr().out == shown
    assert {name: (here / "out" / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep"], "give a sweep file, or --out DIR"),
        (["sweep", "sweep.yaml", "--resume"], "name the folder of the sweep with --out DIR"),
        (["sweep", "--out", "gone"], "give a sweep file, or go on with that of gone with --resume"),
        (["sweep", "--out", "gone", "--resume"], "gone holds no sweep (no sweep.yaml)"),
        (["sweep", "--out", "gone", "--table"], "gone holds no results.json; run the sweep first"),
        (["sweep", "sweep.yaml", "--array", "0/2"], "name the folder of the sweep with --out DIR"),
        *(
            (
                ["sweep", "sweep.yaml", "--out", "out", "--array", text],
                f"--array: expected I/N with I from 0 to N - 1, such as 0/8, got {text}",
            )
            for text in ("2/2", "0/0", "1", "1/2/3", "one/2", "")
        ),
        (
            ["sweep", "sweep.yaml", "--ray", "--jobs", "2"],
            "--ray does all runs, as many at a time as it has room for; ",
        ),
        (["sweep", "gone.yaml"], "gone.yaml: no such sweep file; embedded sweeps are "),
    ],
)
def test_bad_arguments_end_with_2(capsys, words, message):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_the_example_of_the_readme_is_a_sweep(here):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    part = readme.partition("## Sweeps\n")[2].partition("\n## ")[0]
    (here / "alphas.yaml").write_text(part.partition("```yaml\n")[2].partition("```")[0])
    for line in part.partition("```console\n")[2].partition("```")[0].splitlines():
        program, command, *words = shlex.split(line, comments=True)
        assert (program, command) == ("rapids-slr", "sweep")
        if "--out" in words and "--resume" not in words and "--table" not in words:
            changes = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
            assert load_sweep(words[0], changes).runs


# The arithmetic -------------------------------------------------------------------------------------------------------


@pytest.fixture
def results() -> dict:
    """Invented scores: slr is better than abmt, `few` has two of six seeds, `odd` lacks one, and back has not all."""
    draw = np.random.default_rng(5)
    runs = []
    for seed, pair, method in itertools.product(range(6), ("there", "back"), ("abmt", "slr", "few", "odd")):
        if (method == "few" and seed > 1) or (method, seed) == ("odd", 3) or (pair, method, seed) == ("back", "slr", 5):
            continue
        gain = {"abmt": 0.0, "slr": 0.05, "few": -0.2, "odd": 0.0}[method]
        score = {name: float(draw.uniform(0.3, 0.6) + gain) for name in ("mAP", "rank1")}
        start = {"direct": {"mAP": 0.2, "rank1": 0.3}, "direct_bn": {"mAP": 0.3 + seed / 100, "rank1": 0.4}}
        runs.append(
            {"pair": pair, "method": method, "seed": seed, "state": "done", "scores": {**start, "last": score},
             "epochs": [{"epoch": 1, "mAP": seed / 10}, {"epoch": 2}, {"epoch": 3, **score}], "changes": {},
             "device": "CPU", "commit": "abc"}
        )  # fmt: skip
    runs.append({"pair": "back", "method": "slr", "seed": 5, "state": "failed", "fault": "no luck\nat all"})
    axes = {"pairs": ["there", "back"], "methods": ["abmt", "slr", "few", "odd"], "seeds": list(range(6))}
    return {"format": 1, "name": "invented", "baseline": "abmt", **axes, "base": {}, "runs": runs}


def last(results: dict, pair: str, method: str, score: str = "mAP") -> dict[int, float]:
    found = (run for run in results["runs"] if (run["pair"], run["method"], run["state"]) == (pair, method, "done"))
    return {run["seed"]: run["scores"]["last"][score] for run in found}


@pytest.mark.parametrize("score", ["mAP", "rank1"])
@pytest.mark.parametrize("pair", ["there", "back"])
@pytest.mark.parametrize("method", ["slr", "few", "odd"])
def test_differences_are_those_of_a_paired_t_test(results, pair, method, score):
    ours, base = last(results, pair, method, score), last(results, pair, "abmt", score)
    spread = spread_of(scores_of(results, pair, method, score))
    assert spread.n == len(ours)
    assert spread.mean == pytest.approx(statistics.fmean(ours.values()))
    assert spread.sd == pytest.approx(statistics.stdev(ours.values()))
    seeds = sorted(set(ours) & set(base))
    expected = stats.ttest_rel([ours[seed] for seed in seeds], [base[seed] for seed in seeds])
    interval = expected.confidence_interval(0.95)
    found = difference_of(differences(scores_of(results, pair, method, score), scores_of(results, pair, "abmt", score)))
    assert found.n == len(seeds)
    assert found.mean == pytest.approx(statistics.fmean(ours[seed] - base[seed] for seed in seeds))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.higher == sum(ours[seed] > base[seed] for seed in seeds)


def test_all_pairs_average_a_seed_over_its_pairs_first(results):
    seeds = [0, 1, 2, 3, 4]  # seed 5 of slr is not there in both
    slr, abmt = ([last(results, pair, method) for pair in ("there", "back")] for method in ("slr", "abmt"))
    gains = [statistics.fmean(ours[seed] - base[seed] for ours, base in zip(slr, abmt, strict=True)) for seed in seeds]
    scores = {method: scores_of(results, "all pairs", method, "mAP") for method in ("abmt", "slr")}
    found = difference_of(differences(scores["slr"], scores["abmt"]))
    assert sorted(scores["slr"]) == seeds
    assert sorted(scores["abmt"]) == [*seeds, 5]
    interval = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (found.n, found.higher) == (5, sum(gain > 0 for gain in gains))
    assert (found.mean, found.low, found.high) == pytest.approx((statistics.fmean(gains), interval.low, interval.high))
    by_pair = [statistics.fmean(last(results, pair, "slr")[seed] for seed in seeds) for pair in ("there", "back")]
    assert spread_of(scores["slr"]).mean == pytest.approx(statistics.fmean(by_pair))


def test_any_figure_of_two_methods_is_compared(results):
    odd, few = (last(results, "there", method) for method in ("odd", "few"))
    found = compare(results, "there", "odd", "few", score_figure("mAP"))
    interval = stats.ttest_rel([odd[0], odd[1]], [few[0], few[1]]).confidence_interval(0.95)
    assert (found.n, found.higher) == (2, sum(odd[seed] > few[seed] for seed in (0, 1)))
    assert found.mean == pytest.approx(statistics.fmean(odd[seed] - few[seed] for seed in (0, 1)))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))

    first, end = over_epochs("mAP", slice(0, 1)), over_epochs("mAP", slice(-1, None))
    gained = compare(results, "there", "odd", "odd", end, first)  # the first epoch's score is a tenth of the seed
    assert gained.mean == pytest.approx(statistics.fmean(score - seed / 10 for seed, score in odd.items()))
    assert compare(results, "there", "few", "gone", end) is None


def test_figures_are_means_over_the_epochs_that_have_them(results):
    end = last(results, "there", "slr")
    found = figures_of(results, "there", "slr", over_epochs("mAP", slice(0, None)))  # the second of three has no score
    assert found == pytest.approx({seed: (seed / 10 + end[seed]) / 2 for seed in range(6)})
    assert figures_of(results, "there", "slr", over_epochs("mAP", slice(1, None))) == pytest.approx(end)
    assert figures_of(results, "there", "slr", over_epochs("mAP", slice(1, 2))) == {}
    results["runs"][0]["epochs"][-1]["ari"] = 0.5
    results["runs"][1]["epochs"][-1]["ari"] = 0.25
    ari = over_epochs("ari", slice(1, None))
    assert figures_of(results, "there", "abmt", ari) == {0: 0.5}
    assert figures_of(results, "all pairs", "abmt", ari) == {}
    next(run for run in results["runs"] if (run["pair"], run["method"]) == ("back", "abmt"))["epochs"][-1]["ari"] = 0.1
    assert figures_of(results, "all pairs", "abmt", ari) == pytest.approx({0: 0.3})


def test_the_table_shows_the_figures_in_percent(results):
    rows = {row["method"]: row for row in rows_of(results, "there")}
    assert list(rows) == ["direct", "direct_bn", "abmt", "slr", "few", "odd"]
    assert rows["direct"] == {
        "method": "direct", "seeds": "6", "mAP": "20.0 ± 0.0", "mAP − abmt": "–", "rank-1": "30.0 ± 0.0",
        "rank-1 − abmt": "–",
    }  # fmt: skip
    assert rows["direct_bn"]["mAP"] == f"32.5 ± {100 * statistics.stdev(s / 100 for s in range(6)):.1f}"
    ours, base = last(results, "there", "slr"), last(results, "there", "abmt")
    gains = [100 * (ours[seed] - base[seed]) for seed in ours]
    interval = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert rows["slr"]["mAP − abmt"] == (
        f"{statistics.fmean(gains):+.2f} [{interval.low:+.2f}, {interval.high:+.2f}] {sum(g > 0 for g in gains)}/6"
    )
    assert rows["few"]["seeds"] == "2"
    assert rows["odd"]["mAP − abmt"].endswith("/5")
    page = markdown(results)
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == ["there", "back", "all pairs"]
    assert " | ".join(rows["slr"].values()) in page
    assert "37 of 38 runs are finished (CPU, commit abc)." in page
    assert "Failed: back/slr/seed-5: no luck  \n" in page


def test_one_seed_has_neither_deviation_nor_interval(results):
    results["runs"] = [run for run in results["runs"] if run["seed"] == 0]
    (row,) = (row for row in rows_of(results, "back") if row["method"] == "slr")
    assert "±" not in row["mAP"]
    assert "[" not in row["mAP − abmt"]
    assert row["mAP − abmt"].endswith(("0/1", "1/1"))


def test_without_runs_there_is_nothing_to_show(results, here):
    results["runs"] = []
    assert rows_of(results, "all pairs") == []
    assert markdown(results).count("No run is finished yet.") == 3
    draw(results, here / "plot.svg")
    ElementTree.parse(here / "plot.svg")


def test_equal_scores_count_as_not_higher():
    found = difference_of(differences({0: 0.5, 1: 0.5, 2: 0.7}, {0: 0.5, 1: 0.5, 3: 0.1}))
    assert (found.n, found.mean, found.low, found.high, found.higher) == (2, 0, 0, 0, 0)


def test_curves_are_means_over_the_seeds_of_the_table(results):
    curve = epoch_means(results, "there", "odd")
    end = statistics.fmean(last(results, "there", "odd").values())
    assert curve == pytest.approx({1: statistics.fmean([0, 0.1, 0.2, 0.4, 0.5]), 3: end})
    both = epoch_means(results, "all pairs", "slr")
    assert both[1] == pytest.approx(0.2)
    rank = last(results, "there", "slr", "rank1")
    assert epoch_means(results, "there", "slr", "rank1") == pytest.approx({3: statistics.fmean(rank.values())})


def test_the_plot_is_drawn_again_alike(results, here):
    for name in ("one.svg", "two.svg"):
        draw(results, here / name)
    assert (here / "one.svg").read_bytes() == (here / "two.svg").read_bytes()
    text = (here / "one.svg").read_text()
    ElementTree.fromstring(text)
    for words in ("slr", "odd", "there", "all pairs", "mAP − abmt, points, logarithmic beyond 5", "direct_bn"):
        assert f">{words}</text>" in text
    results["runs"] = [run for run in results["runs"] if run["method"] == "abmt"]
    results["methods"] = ["abmt"]  # nothing to compare with
    draw(results, here / "one.svg")
    assert ">mAP − abmt, points</text>" in (here / "one.svg").read_text()


def test_the_plot_shows_means_intervals_and_seeds_where_they_lie(results):
    """In the panel of a pair: the dots of slr, a line over its interval, and a diamond between."""
    results["runs"] = [run for run in results["runs"] if run["method"] in ("abmt", "slr")]
    results["methods"] = ["abmt", "slr"]
    (row,) = differences_in(results, "there")
    axis = axis_of(row.values())
    drawn = "".join(difference_parts([row], axis, 1, "points"))
    dots = [float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', drawn)]
    assert dots == pytest.approx([axis.x_of(100 * value) for value in row.by_seed.values()], abs=0.01)
    low, high = map(float, re.search(r'<line x1="([\d.]+)" x2="([\d.]+)"[^>]* class="line"', drawn).groups())
    expected = stats.ttest_1samp([100 * value for value in row.by_seed.values()], 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((axis.x_of(expected.low), axis.x_of(expected.high)), abs=0.01)
    diamond = [float(x) for x in re.findall(r"([\d.]+),", re.search(r'<polygon points="([^"]*)"', drawn)[1])]
    assert statistics.fmean([max(diamond), min(diamond)]) == pytest.approx(axis.x_of(100 * row.mean.mean), abs=0.1)
    assert all(f"seed {seed}: {100 * value:+.2f} points" in drawn for seed, value in row.by_seed.items())


def test_far_differences_are_logarithmic_and_near_ones_to_scale():
    near, far = axis_of([-3.0, 9.0]), axis_of([-3.0, 60.0])
    assert (near.logarithmic, far.logarithmic) == (False, True)
    assert near.x_of(4) - near.x_of(2) == pytest.approx(near.x_of(8) - near.x_of(6))
    assert far.x_of(4) - far.x_of(2) == pytest.approx(far.x_of(0) - far.x_of(-2))
    assert far.x_of(50) - far.x_of(5) == pytest.approx(far.x_of(5) - far.x_of(0))
    assert {0, 2, 5, 10, 20, 50} <= set(far.ticks)
    assert axis_of([]).ticks


def test_methods_beyond_the_hues_differ_from_those_before():
    colours = [colour_of(place) for place in range(20)]
    assert len(set(colours)) == 20
    assert [place for place, colour in enumerate(colours) if colour == GREY] == [0]


def test_the_plot_stands_alone_in_light_and_dark(results):
    text = plot_of(results)
    assert "var(" not in text  # few viewers but browsers know variables
    light, dark = text.split("@media (prefers-color-scheme:dark){")
    assert LIGHT["page"] in light
    assert DARK["page"] in dark
    assert not re.search(r"url\(|href|<script", text)


def test_numbers_survive_the_file(results, here):
    folder = SweepFolder(here)
    folder.write_results(results)
    assert folder.read_results() == results
    assert json.loads((here / "results.json").read_text()) == results
    assert yaml.safe_load((here / "results.json").read_text())["runs"][0] == results["runs"][0]
    (here / "results.json").write_text("{}")
    with pytest.raises(InputError, match=r"results\.json holds no results of a sweep of this version"):
        folder.read_results()
