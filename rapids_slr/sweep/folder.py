"""The folder of a sweep. Every run is a run folder of its own; results.json is put together from them.

sweep.yaml  spec.yaml  results.json  table.md  plot.svg
runs/<pair>/<method>/seed-<n>/     a run folder, with run.log and starts.jsonl
pretrained/<digest>/               a run folder that holds a pre-training, shared by all runs that need the same
lock  locks/                       who works on the sweep; locks of parts of an array, and of what they share
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rapids_slr.errors import InputError
from rapids_slr.files import write_text
from rapids_slr.lock import LOCK
from rapids_slr.record.columns import SECONDS
from rapids_slr.record.folder import MAY_DIFFER, RunFolder
from rapids_slr.record.rows import seconds_by_stage
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import dump_yaml, load_spec, spec_differences
from rapids_slr.sweep.plan import Run, Sweep

FORMAT = 1
SCORES = ("direct", "direct_bn", "last", "best")
GUARDED = ("guard", "picked")
"""What summaries of runs with a guard have as well. Without an evaluated epoch there is no `best`."""

Results = dict[str, Any]
"""What results.json holds: the axes of the sweep, its base spec, and `runs`, a record each."""


class SweepFolder:
    """A folder of one sweep; reading never creates anything."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sweep_file = path / "sweep.yaml"
        self.spec_file = path / "spec.yaml"
        self.results_file = path / "results.json"
        self.table_file = path / "table.md"
        self.plot_file = path / "plot.svg"

    def of_run(self, run: Run) -> RunFolder:
        return RunFolder(self.path / "runs" / run.pair / run.method / f"seed-{run.seed}")

    def of_pretraining(self, spec: RunSpec) -> RunFolder:
        return RunFolder(self.path / "pretrained" / spec.name)

    def may_use(self, sweep: Sweep, runs: Sequence[Run], resume: bool) -> None:
        """Refuse a folder that holds something else than this sweep, of which these runs are to be done.

        Raises: InputError. With `resume` the sweep may have got or lost runs; those that are there must be the same.
        """
        if not self.sweep_file.exists():
            if resume:
                raise InputError(f"{self.path} holds no sweep to go on with; leave --resume out to start one")
            # A lock alone is left of a sweep that ended before its first file.
            if self.path.exists() and (not self.path.is_dir() or {file.name for file in self.path.iterdir()} - {LOCK}):
                raise InputError(f"{self.path} exists and is not a sweep; name an empty or new folder with --out")
            return
        if not resume:
            raise InputError(f"{self.path} already holds a sweep; go on with --resume, or name another --out")
        if not self.results_file.exists() and any(not _says(file, text) for file, text in self._texts(sweep).items()):
            raise InputError(
                f"{self.path} holds a sweep.yaml that no sweep has written; name another folder with --out"
            )
        faults = []
        for run in runs:
            file = self.of_run(run).spec_file
            differing = spec_differences(load_spec(file, of_run=True), self.linked(run)) if file.exists() else []
            # The shared pre-training lies in this folder, which may have moved since.
            moved = {"pretrain.checkpoint"} if run.pretraining is not None else set()
            if differing := [key for key in differing if not {key, key.split(".")[0]} & (moved | MAY_DIFFER)]:
                faults.append(f"{run.name} was started with other settings: {', '.join(differing)}")
        if faults:
            advice = "start a new sweep with another --out, or remove the folders of these runs"
            raise InputError("\n".join([*(f"{self.path}: {fault}" for fault in faults), advice]))

    def linked(self, run: Run) -> RunSpec:
        """The spec of a run, starting from the shared pre-training."""
        if run.pretraining is None:
            return run.spec
        # Whole, as the run may be resumed from another directory.
        checkpoint = str(self.of_pretraining(run.pretraining).pretrained_file.resolve())
        assert run.spec.pretrain is not None
        return run.spec.model_copy(update={"pretrain": run.spec.pretrain.model_copy(update={"checkpoint": checkpoint})})

    def of_lock(self, name: str) -> Path:
        """The folder that is locked for a part of an array, or for a pre-training that one of them makes."""
        return self.path / "locks" / name

    def locks(self) -> list[Path]:
        return sorted(self.path.glob("locks/*"))

    def _texts(self, sweep: Sweep) -> dict[Path, str]:
        return {self.spec_file: dump_yaml(sweep.base), self.sweep_file: sweep.text}

    def write_sweep(self, sweep: Sweep) -> None:
        for path, text in self._texts(sweep).items():
            if not _says(path, text):  # what a user has written there keeps its comments
                write_text(path, text)

    def write_results(self, results: Results) -> None:
        """results.json, one line a run."""
        # json would give every figure of a run a line of its own, so the list is put in by hand.
        head = json.dumps({key: value for key, value in results.items() if key != "runs"}, indent=2, allow_nan=False)
        runs = ",\n".join("    " + json.dumps(run, allow_nan=False) for run in results["runs"])
        write_text(self.results_file, head.removesuffix("\n}") + f',\n  "runs": [\n{runs}\n  ]\n}}\n')

    def faults(self) -> dict[str, str]:
        """Why runs failed, by name, as far as results.json has it."""
        return faults_in(self.read_results()) if self.results_file.exists() else {}

    def read_results(self) -> Results:
        """Raises: InputError if there is no results.json of a sweep."""
        try:
            results = json.loads(self.results_file.read_text(encoding="utf-8"))
        except FileNotFoundError as fault:
            raise InputError(f"{self.path} holds no results.json; run the sweep first") from fault
        except ValueError as fault:
            raise InputError(f"{self.results_file} is no JSON: {fault}") from fault
        if not isinstance(results, dict) or results.get("format") != FORMAT:
            raise InputError(f"{self.results_file} holds no results of a sweep of this version")
        return results


def _says(file: Path, text: str) -> bool:
    """Whether a file holds the same settings as a text."""
    return file.exists() and yaml.safe_load(file.read_bytes()) == yaml.safe_load(text)


def results_of(sweep: Sweep, records: Sequence[dict[str, Any]]) -> Results:
    axes = {name: getattr(sweep, name) for name in ("name", "baseline", "pairs", "methods", "seeds")}
    return {"format": FORMAT, **axes, "base": sweep.base, "runs": list(records)}


def faults_in(results: Results) -> dict[str, str]:
    """Why runs failed, by name."""
    failed = (run for run in results["runs"] if run["state"] == "failed")
    return {f"{run['pair']}/{run['method']}/seed-{run['seed']}": run["fault"] for run in failed}


def record_of(run: Run, folder: RunFolder, fault: str | None = None) -> dict[str, Any]:
    """What is known of a run. `state` is done, failed (with `fault`) or waiting; scores are fractions.

    `epochs` are the rows of metrics.jsonl without their seconds, which `stage_seconds` sums up.
    """
    record: dict[str, Any] = {
        "pair": run.pair,
        "method": run.method,
        "seed": run.seed,
        "changes": dict(run.changes),
        "state": "failed" if fault else "waiting",
    }
    if not folder.summary_file.exists():
        return record | ({"fault": fault} if fault else {})
    summary = json.loads(folder.summary_file.read_text(encoding="utf-8"))
    rows = folder.rows(folder.metrics_file)
    start = (folder.rows(folder.path / "starts.jsonl") or [{}])[-1]
    return record | {
        "state": "done",
        **{name: summary[name] for name in ("device", "versions", "seconds")},
        **{name: start.get(name) for name in ("commit", "threads")},
        "stage_seconds": seconds_by_stage(rows),
        "result": summary.get("result", "last"),
        "scores": {name: summary[name] for name in (*SCORES, *GUARDED) if name in summary},
        "epochs": [{key: value for key, value in row.items() if not key.startswith(SECONDS)} for row in rows],
    }
