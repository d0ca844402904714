"""The examples run, and show what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LOOPS = {"timm_finetuning": "timm", "metric_learning": "pytorch_metric_learning", "lightly_simclr": "lightly"}
"""Each with the library whose loop it is."""


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_loops_of_other_libraries_learn_with_slr_and_without(name, capsys, monkeypatch):
    pytest.importorskip(LOOPS[name])
    monkeypatch.syspath_prepend(EXAMPLES)
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    refined = main(["--epochs", "3"])
    lines = capsys.readouterr().out.splitlines()
    plain = main(["--epochs", "2", "--no-slr"])
    assert [line.split()[:2] for line in lines] == [["epoch", str(epoch)] for epoch in range(1, 4)]
    assert refined[0] == plain[0]  # the first epoch has nothing to refine with
    assert refined[1] != plain[1]
    assert refined[-1] > refined[0]


def test_loops_of_other_libraries_are_short():
    assert all(len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60 for name in LOOPS)


def test_cluster_contrast_learns_with_slr_and_without(capsys):
    main = runpy.run_path(str(EXAMPLES / "cluster_contrast.py"))["main"]
    refined = main(["--epochs", "6"])
    lines = capsys.readouterr().out.splitlines()
    plain = main(["--epochs", "6", "--no-slr"])
    assert [line.split()[:2] for line in lines] == [["epoch", str(epoch)] for epoch in range(1, 7)]
    assert refined[0] == plain[0]  # the first epoch has nothing to refine with
    assert refined[1:] != plain[1:]
    assert refined[0] < 0.05
    assert min(refined[-1], plain[-1]) > 0.3
