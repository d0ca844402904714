"""The campaign of faults: cases repeat by their seed, each part runs, and planted faults are found."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.scripts import loaded

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("mutants")
    sys.modules.pop("mutants", None)


@pytest.fixture
def faults(mutants):
    yield importlib.import_module("faults")
    sys.modules.pop("faults", None)


def by_itself(program: str, folder: Path) -> dict:
    """What a program prints last, as JSON. It forks, which a process that has trained before cannot do."""
    place = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=folder, env={**os.environ, **place}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# The whole ------------------------------------------------------------------------------------------------------------

GOES_ON = """
import json, pathlib, faults
faults.KEPT = pathlib.Path("kept")
slow = ["processes", "hosts"]  # begin six processes a case, and three runs
quick = [part for part in faults.PARTS if part not in slow]
for cases, parts in (("2", quick), ("3", quick), ("1", slow)):
    faults.main(["--cases", cases, "--parts", *parts, "--out", "faults.json"])
print(json.dumps(json.loads(pathlib.Path("faults.json").read_text())))
"""


@pytest.mark.slow
def test_a_campaign_of_every_part_finds_nothing_and_goes_on(tmp_path):
    results = by_itself(GOES_ON, tmp_path)
    for name in ("kills", "hosts", "disk", "processes", "specs", "archives", "labels"):
        assert results[name]["faults"] == []
        cases = 1 if name in ("hosts", "processes") else 3
        assert results[name]["done"] == cases == sum(results[name]["outcomes"].values())
        assert len(results[name]["commits"]) == 1
    assert not (tmp_path / "kept").exists()


PLANTED = """
import json, pathlib, faults
from unittest.mock import patch
from rapids_slr import labelfiles
from rapids_slr.data.files import ZipFiles
from rapids_slr.record.folder import RunFolder
from rapids_slr.settings import specfile

faults.KEPT = pathlib.Path("kept")
found = {}

def run(part, cases):
    faults.main(["--parts", part, "--cases", str(cases), "--out", f"{part}.json"])
    found[part] = [fault["what"][0] for fault in json.loads(pathlib.Path(f"{part}.json").read_text())[part]["faults"]]

check, dump, rows = labelfiles.check_labels, specfile.dump_spec, RunFolder.rows
loses = lambda self, path, epoch: path.exists() and faults.write_text(path, "".join(last_of(path)))
last_of = lambda path: path.read_text().splitlines(True)[-1:]
with patch.object(RunFolder, "forget_after", loses):
    run("kills", 8)
with patch.object(labelfiles, "check_labels", lambda x, name: check(x, name)[::-1].copy()):
    run("labels", 12)
other = lambda spec: spec.model_copy(update={"seed": 12345}) if pathlib.Path("spec.yaml").exists() else spec
with patch.object(specfile, "dump_spec", lambda spec: dump(other(spec))):  # but of the whole spec, looked at first
    run("specs", 60)
with patch.object(ZipFiles, "read", lambda self, name: self._zip.read(next(iter(self._entries.values())))):
    run("archives", 12)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_planted_faults_are_found_and_kept(tmp_path):
    """Runs whose epochs before a resume are lost, labels in another order, another seed, one image for all."""
    found = by_itself(PLANTED, tmp_path)
    assert any("jsonl differs" in what for what in found["kills"])
    assert any("in the file" in what for what in found["labels"])
    assert any("seed is '7' and became '12345'" in what for what in found["specs"])
    assert any("in the file" in what for what in found["archives"])
    for name in found:
        kept = list((tmp_path / "kept").glob(f"{name}-*"))
        assert len(kept) == len(found[name])
        assert all((folder / "said.txt").read_text() for folder in kept)


# How a child ends -----------------------------------------------------------------------------------------------------


def test_crashes_hangs_and_tracebacks_are_faults(faults, tmp_path, monkeypatch):

    def raises() -> int:
        raise KeyError("lost")

    def says(text: str, code: int) -> int:
        print(text)
        return code

    endings = {
        "died of SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "traceback: KeyError": raises,
        "traceback": lambda: says("error: KeyError: 'x'\nThis was not foreseen; run again", 1),
        "exit code 3": lambda: says("error: what", 3),
        "exit code 1 without an error": lambda: says("oh", 1),
    }
    for what, work in endings.items():
        assert [fault.startswith(what) for fault in faults.in_child(work, tmp_path).faults()] == [True], what
    for code in (0, 1, 2):
        assert faults.in_child(lambda code=code: says("error: it is gone", code), tmp_path).faults() == []
    assert faults.in_child(lambda: (0, {"a": [1]}), tmp_path).found == {"a": [1]}
    monkeypatch.setattr(faults, "LIMIT", 0.2)
    assert faults.in_child(lambda: time.sleep(600), tmp_path).faults() == ["did not end within 0 s"]


def test_a_run_that_lost_something_is_unlike(faults, tmp_path):
    def made(name: str) -> Path:
        folder = tmp_path / name
        (folder / "labels").mkdir(parents=True)
        rows = [{"epoch": epoch, "mAP": epoch / 8, "seconds/epoch": time.monotonic()} for epoch in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pd.DataFrame({"cluster": [0, 1]}).to_parquet(folder / "labels/epoch-001.parquet")
        torch.save({"student": {"w": torch.ones(3)}, "epoch": 2}, folder / "last.pt")
        return folder

    whole = made("whole")
    assert faults.unlike_run(whole, made("same")) == []
    one = made("one")
    (one / "metrics.jsonl").write_text((one / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    torch.save({"student": {"w": torch.ones(3) + 1e-7}, "epoch": 2}, one / "last.pt")
    (one / ".last.pt.7.part").write_text("")
    assert faults.unlike_run(whole, one) == [".last.pt.7.part is left over", "last.pt differs", "metrics.jsonl differs"]
    other = made("other")
    pd.DataFrame({"cluster": [0, 0]}).to_parquet(other / "labels/epoch-001.parquet")
    (other / "last.pt").write_bytes(b"PK")
    found = faults.unlike_run(whole, other)
    assert found[0] == "labels/epoch-001.parquet differs"
    assert found[1].startswith("last.pt cannot be read")


# Inputs, and their plain readers --------------------------------------------------------------------------------------


def test_inputs_repeat_by_their_seed_and_differ_from_case_to_case(mutants):
    def drawn(case: int) -> list[bytes]:
        rng = np.random.default_rng(case)
        spec, archive = (
            mutants.spoil_text(mutants.SPEC.decode(), rng),
            mutants.spoil_archive(mutants.draw_images(rng), rng),
        )
        tables = [(mutants.draw_labels(rng, suffix), suffix) for suffix in (".csv", ".npy", ".parquet")]
        return [spec, archive, *(mutants.spoil_labels(*table, rng) for table in tables)]

    assert [drawn(case) for case in range(40)] == [drawn(case) for case in range(40)]
    assert all(len({drawn(case)[kind] for case in range(40)}) > 30 for kind in range(5))


def test_plain_readers_read_what_is_whole(mutants, monkeypatch):
    rng = np.random.default_rng(0)
    table = mutants.draw_labels(rng, ".csv")
    for suffix in (".csv", ".npy", ".parquet"):
        labels, images = mutants.plain_labels(mutants.label_file(table, suffix), suffix)
        assert labels == table["cluster"].tolist()
        assert images == (
            {} if suffix == ".npy" else {"sample": [*map(str, range(24))], "path": table["path"].tolist()}
        )
    images = mutants.draw_images(rng)
    monkeypatch.setattr(mutants, "_spoil_entry", lambda *_: None)
    monkeypatch.setattr(mutants, "spoil_bytes", lambda content, _: content)
    held = mutants.plain_domain(b"in front" + mutants.spoil_archive(images, rng))
    assert [len(split) for split in held.values()] == [12, 2, 8]
    assert held["train"]["bounding_box_train/0007_c2s1_000001_00.png"][:2] == [7, 2]
    assert {name: found[2] for split in held.values() for name, found in split.items()} == {
        name: mutants.plain_pixels(content) for name, content in images.items()
    }


def test_specs_are_compared_value_by_value(mutants):
    said = mutants.plain_yaml(b"a: {lr: 1e-3, on: true}\nrefine: none\nhost: plain\nlist: [1, '2']\n")
    shown = {
        "a": {"lr": "0.001", "on": "true", "k": "4"},
        "refine": "none",
        "host": {"name": "plain"},
        "list": ["1", "2"],
    }
    default = {"a": {"lr": "0.1", "on": "true", "k": "4"}}
    assert [*mutants.unlike(said, shown), *mutants.not_default(said, shown, default)] == []
    shown["a"] = {"lr": "0.01", "on": "true", "k": "5"}
    assert list(mutants.unlike(said, shown)) == ["a.lr is '1e-3' and became '0.01'"]
    assert list(mutants.not_default(said, shown, default)) == ["a.k is not said and became '5'"]
    assert list(mutants.unlike({"b": "1"}, shown)) == ["b is accepted and in no spec"]
    with pytest.raises(ValueError, match="twice"):
        mutants.plain_yaml(b"a: 1\na: 2\n")


# The page -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    yield loaded(DOCS / "faults.py")
    sys.modules.pop("results", None)


def test_the_page_is_that_of_the_results(page):
    text = (DOCS / "faults.md").read_text(encoding="utf-8")
    assert page.build(text, page.files(), page.PARTS, "faults") == text, "run docs/faults.py"


def test_the_page_says_what_was_run_and_what_was_found(page):
    made = {"device": "CPU", "rapids-slr": "1", "date": "2030-01-02T00:00"}
    part = {
        "done": 1000,
        "of": 1000,
        "seconds": 90,
        "outcomes": {"read": 1, "refused": 999},
        "faults": [],
        "commits": ["a"],
    }
    results = {"environment": made} | {name: part for name in page.PLANNED}
    text = "\n".join(page.campaign({"faults": results}))
    assert "not been run" not in text
    assert "| labels | 1,000 | 1 read, 999 refused | 0 | 1.5 |" in text
    results["labels"] = part | {"done": 999, "faults": [{"case": 4, "what": ["traceback: x"]}]}
    text = "\n".join(page.campaign({"faults": results}))
    assert "The campaign has not been run at full size yet" in text
    assert "- `labels 4`: traceback: x" in text
