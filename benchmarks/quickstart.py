"""The quick-start on several seeds and numbers of threads: what it begins with, every epoch, and what it ends with.

    python benchmarks/quickstart.py --out runs/quickstart > benchmarks/results/quickstart.json

Ten runs, one after the other, of six to nine minutes each on two cores. Those that are recorded in the folder are not
run again, so that it goes on where it was stopped; a record names the commit that made it. The lines on screen are
those of the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapids_slr.files import write_text
from rapids_slr.provenance import commit

SEEDS, THREADS = range(5), (1, 2)


def train(folder: Path, seed: int, threads: int, changes: Sequence[str]) -> None:
    """Raises: CalledProcessError if the run fails."""
    sets = [word for change in (f"seed={seed}", *changes) for word in ("--set", change)]
    words = ["train", "quickstart", "--device", "cpu", "--no-report", "--resume", "--out", str(folder), *sets]
    surroundings = os.environ | {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "NUMBA")}
    subprocess.run([sys.executable, "-m", "rapids_slr", *words], check=True, env=surroundings, stdout=sys.stderr)


def record(folder: Path, threads: int) -> dict[str, Any]:
    """What a finished run says of itself, its scores as fractions."""
    summary = json.loads((folder / "summary.json").read_text())
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        "seed": summary["seed"],
        "threads": threads,
        "device": summary["device"],
        "commit": commit(),
        "versions": summary["versions"],
        "direct_bn": summary["direct_bn"]["mAP"],
        "last": summary["last"]["mAP"],
        "epochs": [row["mAP"] for row in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the spec")
    args = parser.parse_args()

    found = []
    for threads in args.threads:
        for seed in args.seeds:
            folder = args.out / f"threads-{threads}" / f"seed-{seed}"
            recorded = folder.with_suffix(".json")
            if not recorded.exists():
                train(folder, seed, threads, args.set)
                write_text(recorded, json.dumps(record(folder, threads)))
            found.append(json.loads(recorded.read_text()))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
