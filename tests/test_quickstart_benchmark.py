"""The benchmark of the quick-start runs what is missing, and records what the runs say of themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = (
    *(f"data.{domain}.synth.{key}" for domain in ("source", "target") for key in ("identities=8", "images=8")),
    *("pretrain.epochs=1", "pretrain.iterations=2", "pretrain.identities=4", "training.epochs=2"),
    *("training.iterations=2", "training.identities=4", "training.source.identities=4"),
    *("clusters.k1=5", "clusters.k2=2"),
)


def measured(folder: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "benchmarks" / "quickstart.py"), "--out", str(folder), "--seeds", "3"]
    sets = [word for change in changes for word in ("--set", change)]
    return subprocess.run(
        [*words, "--threads", "1", *sets], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


def test_a_finished_run_is_recorded_and_not_run_again(tmp_path):
    first = measured(tmp_path, *SMALL)
    assert first.returncode == 0, first.stderr
    [found] = json.loads(first.stdout)
    folder = tmp_path / "threads-1" / "seed-3"
    summary = json.loads((folder / "summary.json").read_text())
    assert (found["seed"], found["threads"], found["device"]) == (3, 1, "CPU, 1 threads")
    assert found["last"] == found["epochs"][-1] == pytest.approx(summary["last"]["mAP"])
    assert len(found["epochs"]) == 2
    assert found["direct_bn"] == summary["direct_bn"]["mAP"]
    written = (folder / "metrics.jsonl").stat().st_mtime_ns
    recorded = folder.with_suffix(".json")
    recorded.write_text(json.dumps(found | {"commit": "before"}))  # what made a run is what it was then
    assert json.loads(measured(tmp_path).stdout) == [found | {"commit": "before"}]
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == written
