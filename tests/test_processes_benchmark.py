"""The benchmark of several processes measures each of them, and compares what they find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_it_measures_each_number_of_processes_and_compares_their_labels(tmp_path):
    words = [sys.executable, str(ROOT / "benchmarks" / "processes.py"), "--samples", "2100", "--dim", "64"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, "--sizes", "1", "2"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, two = map(json.loads, done.stdout.splitlines())
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["same_labels"]
    assert two["same_labels"]
    assert two["features_mb"] <= one["features_mb"]
    assert one["rise_mb"] > 0
