"""The run folder: everything a run leaves behind, written so that a kill at any moment loses one epoch at most.

    spec.yaml  summary.json  metrics.jsonl  pretrain.jsonl  labels/epoch-NNN.parquet  checkpoints/  tensorboard/

Files are written whole or not at all (temporary file, fsync, rename). Metrics of an epoch are written before its
checkpoint; resuming drops the lines that no checkpoint vouches for.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rapids_slr.errors import InputError, RunError
from rapids_slr.files import load_tensors, save_tensors, write_atomically
from rapids_slr.record.tables import Frame, write_parquet
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import dump_spec, load_spec, spec_differences

log = logging.getLogger(__name__)

MAY_DIFFER = {"device", "memory_pool", "name", "evaluation.rerank"}
"""Keys that a resumed run may change."""


class RunFolder:
    """A folder of one run; reading never creates anything."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_file = path / "spec.yaml"
        self.summary_file = path / "summary.json"
        self.metrics_file = path / "metrics.jsonl"
        self.pretrain_file = path / "pretrain.jsonl"
        self.last_file = path / "checkpoints" / "last.pt"
        self.previous_file = path / "checkpoints" / "previous.pt"
        self.pretrained_file = path / "checkpoints" / "pretrained.pt"
        self.picked_file = path / "checkpoints" / "picked.pt"

    @classmethod
    def for_run(
        cls, spec: RunSpec, out: Path | None, resume: bool = False, builds_on_pretraining: bool = False
    ) -> RunFolder:
        """The folder that a command of a run may write to.

        Args:
            out: None makes runs/<name>-<time>.
            resume: go on with the run of that folder.
            builds_on_pretraining: the folder may hold a finished pre-training of an earlier command.
        Raises: InputError if the folder holds another run, or none to resume.
        """
        folder = cls(out or Path("runs") / f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        path = folder.path
        if not folder.spec_file.exists():
            if resume:
                raise InputError(f"{path} holds no run to go on with (no spec.yaml); leave --resume out to start one")
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise InputError(f"{path} exists and is not a run folder; name an empty or new folder with --out")
        elif resume:
            folder._is_of(spec)
        elif folder._is_begun() and not (builds_on_pretraining and folder._waits_for_adaptation()):
            raise InputError(f"{path} already holds a run; go on with --resume, or name another folder with --out")
        return folder

    def _is_of(self, spec: RunSpec) -> None:
        differing = spec_differences(load_spec(self.spec_file), spec)
        differing = [key for key in differing if not {key, key.split(".")[0]} & MAY_DIFFER]
        if differing:
            raise InputError(
                f"{self.path} was started with another spec: {', '.join(differing)} differ; "
                "leave SPEC out to go on with its own, or start a new run with another --out"
            )

    def _is_begun(self) -> bool:
        """Whether there is a checkpoint; what stopped before its first one may be written over."""
        return any(file.exists() for file in (self.last_file, self.previous_file, self.pretrained_file))

    def _waits_for_adaptation(self) -> bool:
        return self.pretrained_file.exists() and not self.metrics_file.exists()

    def write_spec(self, spec: RunSpec) -> None:
        self.write_text(self.spec_file, dump_spec(spec))

    def write_text(self, path: Path, text: str) -> None:
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        self.write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def append(self, path: Path, row: Mapping[str, Any]) -> None:
        """Add a line to a .jsonl file; a line is whole once this returns."""
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as fault:
            raise RunError(f"{path} could not be written: {fault.strerror}; go on later with --resume") from fault

    def rows(self, path: Path) -> list[dict[str, Any]]:
        """The whole lines of a .jsonl file; a line cut off by a kill is left out."""
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # only a last line can be cut off
        return rows

    def forget_after(self, path: Path, epoch: int) -> None:
        """Drop the lines of epochs that no checkpoint holds."""
        kept = [row for row in self.rows(path) if row["epoch"] <= epoch]
        if path.exists():
            self.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def seconds(self) -> float:
        """Seconds of all epochs, those before a resume included."""
        rows = self.rows(self.pretrain_file) + self.rows(self.metrics_file)
        return round(sum(row["seconds/epoch"] for row in rows), 3)

    def write_labels(self, epoch: int, labels: Frame) -> None:
        path = self.path / "labels" / f"epoch-{epoch:03d}.parquet"
        write_atomically(path, lambda temporary: write_parquet(temporary, labels))

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Put `state` in place as last.pt; the one before stays as previous.pt."""
        next_file = self.last_file.with_name("next.pt")
        save_tensors(next_file, state)
        # A kill between the two renames leaves previous.pt, which load_checkpoint finds.
        if self.last_file.exists():
            os.replace(self.last_file, self.previous_file)
        os.replace(next_file, self.last_file)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last whole checkpoint, None where there is none yet.

        Raises: InputError if files are there and none of them is whole.
        """
        faults = []
        for path in (self.last_file, self.previous_file):
            if path.exists():
                try:
                    return load_tensors(path)
                except InputError as fault:
                    log.warning("%s; looking for the checkpoint before it", fault)
                    faults.append(str(fault))
        if faults:
            raise InputError("no whole checkpoint is left: " + "; ".join(faults) + "; start again with another --out")
        return None


def best_row(rows: Iterable[Mapping[str, Any]], headline: str = "mAP") -> Mapping[str, Any] | None:
    """The evaluated epoch with the highest headline; the earliest of equals."""
    return max((row for row in rows if headline in row), key=lambda row: row[headline], default=None)
