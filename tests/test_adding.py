"""The pieces that docs/adding.md adds, one file and one line each, train a network together; and who names ABMT."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rapids_slr.cli import main
from rapids_slr.data import layouts
from rapids_slr.networks import base
from rapids_slr.networks.checkpoint import load_trained
from rapids_slr.profiling.profile import profile_run
from rapids_slr.record import columns
from rapids_slr.reports import write_report
from rapids_slr.settings import tables
from rapids_slr.settings.specfile import load_spec, spec_schema, valid_keys

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "adding.md"


@dataclass(frozen=True)
class Written:
    """What the page has of code."""

    files: dict[str, str]
    """Name of a module -> its text."""
    lines: list[str]
    """What is added to tables, in order."""
    spec: str


def written() -> Written:
    files: dict[str, str] = {}
    lines = []
    text = PAGE.read_text(encoding="utf-8")
    for match in re.finditer(r"```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        named = re.findall(r"`(rapids_slr/\w+/\w+)\.py`:\s*$", text[: match.start()])
        if named:
            files[named[-1].replace("/", ".")] = match[1]
        else:
            lines.append(match[1])
    (spec,) = re.findall(r"```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return Written(files, lines, spec)


@pytest.fixture
def added(monkeypatch) -> Iterator[Written]:
    """Every piece of the page in its place, until the test is over."""
    page = written()
    changed = (tables.CLUSTERERS, tables.REFINERS, tables.HOSTS, tables.TASKS, base.BACKBONES, columns.COLUMNS)
    before = [dict(table) for table in changed]
    monkeypatch.setattr(layouts, "LAYOUTS", layouts.LAYOUTS)
    names: dict = {"tables": tables, "base": base, "layouts": layouts, "re": re}
    for name, code in page.files.items():
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(code, name, "exec"), vars(module))
        names |= {key: value for key, value in vars(module).items() if key.endswith("Spec")}
    for line in page.lines:
        exec(line, names)
    yield page
    for table, entries in zip(changed, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture
def zoo(tmp_path, monkeypatch) -> Path:
    """Pictures of ten animals in the layout of the page, each animal of one colour."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, animals in (("train", range(1, 7)), ("query", range(7, 9)), ("gallery", range(7, 11))):
        (tmp_path / "zoo" / split).mkdir(parents=True)
        for animal in animals:
            colour = np.random.default_rng(animal).integers(0, 256, 3)
            for cage in (1, 2) if split != "query" else (3,):
                for number in range(3):
                    noisy = np.clip(colour + rng.integers(-20, 21, (40, 40, 3)), 0, 255).astype(np.uint8)
                    name = f"animal{animal}-cage{cage}-{number:04d}.png"
                    Image.fromarray(noisy).save(tmp_path / "zoo" / split / name)
    return tmp_path


def test_one_file_and_one_line_each_train_together(added, zoo, capsys):
    (zoo / "zoo.yaml").write_text(added.spec)
    assert main(["train", "zoo.yaml", "--device", "cpu", "--out", "run"]) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in (zoo / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(row["clusters"] >= 2 and 0 <= row["spread"] <= 1 for row in rows)
    assert all(row.keys() >= {"loss/ce", "loss/centre", "seconds/training"} and "mAP" not in row for row in rows)
    summary = json.loads((zoo / "run" / "summary.json").read_text())
    assert (summary["refine"], summary["last"].keys()) == ("steady", {"spread"})
    table = pd.read_parquet(zoo / "run" / "labels" / "epoch-002.parquet")
    assert len(table) == 36
    assert (table["refined"] >= 0).any()
    assert load_trained(zoo / "run" / "checkpoints/last.pt").which == "the trained after epoch 2"
    assert "spread" in capsys.readouterr().err
    assert "centre" in (zoo / "run" / "report.html").read_text()


def test_they_resume_profile_and_report_as_any_run(added, zoo):
    (zoo / "zoo.yaml").write_text(added.spec)
    words = ["--device", "cpu", "--no-report", "--out"]
    assert main(["train", "zoo.yaml", *words, "whole"]) == 0
    assert main(["train", "zoo.yaml", *words, "parts", "--set", "training.epochs=1"]) == 0
    spec = zoo / "parts" / "spec.yaml"
    spec.write_text(spec.read_text().replace("training:\n  epochs: 1\n", "training:\n  epochs: 2\n"))
    assert main(["train", "--resume", *words, "parts"]) == 0
    one, other = (torch.load(zoo / name / "checkpoints/last.pt", weights_only=True) for name in ("whole", "parts"))
    assert other["epoch"] == 2
    assert all(torch.equal(weights, other["trained"][name]) for name, weights in one["trained"].items())
    result = profile_run(load_spec("zoo.yaml", ["device=cpu"]), zoo / "profile", repetitions=1)[1]
    assert result["stages"].keys() == {"decode", "embed", "targets", "training step", "evaluation", "guard"}
    assert write_report([zoo / "whole"]).stat().st_size > 10_000


def test_a_spec_knows_their_keys_and_their_faults(added, zoo, capsys):
    assert {"clusters.least", "host.centre_weight"} <= set(valid_keys())
    assert "SimilarSpec" in spec_schema()["$defs"]
    (zoo / "zoo.yaml").write_text(added.spec)
    changes = ["clusters.leest=1", "host.centre_weight=-1", "task=sprede", "model.backbone=pulled"]
    assert main(["spec", "check", "zoo.yaml", *(word for change in changes for word in ("--set", change))]) == 2
    said = capsys.readouterr().err
    assert "clusters.leest: unknown key; did you mean clusters.least?" in said
    assert "host.centre_weight: should be greater than or equal to 0, got -1" in said
    assert "task: should be 'reid', 'classification' or 'spread', got sprede" in said
    assert "model.backbone: should be 'resnet50', " in said


def test_the_tables_are_as_they_were():
    """The fixture above takes back what it adds."""
    assert list(tables.HOSTS) == ["abmt", "cluster_contrast", "spcl", "mmt"]
    assert "pooled" not in base.BACKBONES


# Who names ABMT's two branches ----------------------------------------------------------------------------------------

WORDS = re.compile(r"two_?branch|TwoBranch|\bstudent\b|\bteacher\b|average.*maximum")
MAY_NAME = {
    "rapids_slr/hosts/abmt.py",
    "rapids_slr/hosts/mmt.py",
    "rapids_slr/hosts/sections.py",
    "rapids_slr/networks/two_branch.py",
    "rapids_slr/networks/teacher.py",
    "rapids_slr/networks/base.py",
    "rapids_slr/networks/checkpoint.py",
}
"""The hosts with such networks, their sections, the networks and their table, and what reads checkpoints of 0.1.0."""


def named_in(file: Path) -> set[str]:
    """Words for ABMT's networks among the names and texts of a module, docstrings aside."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    prose = {
        id(statement.value)
        for body in (node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list))
        for statement in body
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        texts = [getattr(node, name, None) for name in ("id", "attr", "arg", "module", "name") if hasattr(node, name)]
        if isinstance(node, ast.Constant) and id(node) not in prose:
            texts.append(node.value)
        found |= {text for text in texts if isinstance(text, str) and WORDS.search(text)}
    return found


def test_only_the_host_names_the_two_branches():
    outside = {
        name: words
        for file in sorted((REPOSITORY / "rapids_slr").rglob("*.py"))
        if (name := file.relative_to(REPOSITORY).as_posix()) not in MAY_NAME and (words := named_in(file))
    }
    assert outside == {}


def test_only_their_tests_import_them():
    rooms = ("hosts", "networks", "reference", "gpu")  # on a GPU the networks of the paper are tested
    importing = {
        file.relative_to(REPOSITORY).as_posix()
        for file in (REPOSITORY / "tests").rglob("*.py")
        for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(statement, ast.ImportFrom) and "two_branch" in (statement.module or "")
    }
    assert importing
    assert {name for name in importing if not name.startswith(tuple(f"tests/{room}/" for room in rooms))} == set()


def test_the_search_for_them_finds_them():
    assert {"TwoBranch"} <= named_in(REPOSITORY / "rapids_slr" / "networks" / "two_branch.py")
    assert {"student", "teacher"} <= named_in(REPOSITORY / "rapids_slr" / "hosts" / "abmt.py")
