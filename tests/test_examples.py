"""The examples run, and show what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


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
