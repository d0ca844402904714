"""The run folder: everything a run leaves behind, written so that a kill at any moment loses one epoch at most.

    spec.yaml  summary.json  metrics.jsonl  pretrain.jsonl  labels/epoch-NNN.parquet  checkpoints/  tensorboard/  lock

Files are written whole or not at all (temporary file, fsync, rename). Metrics of an epoch are written before its
checkpoint; resuming drops the lines that no checkpoint vouches for. Of a group of processes the first one writes, and
the others wait for it.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rapids_slr.errors import InputError
from rapids_slr.files import append_line, load_tensors, move, save_tensors, unfinished, write_atomically, write_text
from rapids_slr.group import by_first
from rapids_slr.lock import LOCK
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

    def check(self, spec: RunSpec, resume: bool = False, builds_on_pretraining: bool = False) -> None:
        """Look whether a command of a run may write here.

        Args:
            resume: go on with the run of this folder.
            builds_on_pretraining: the folder may hold a finished pre-training of an earlier command.
        Raises: InputError if the folder holds another run or a spec that is none of its own, or no run to resume.
        """
        path, waits = self.path, builds_on_pretraining and self._waits_for_adaptation()
        if not self.spec_file.exists():
            # A lock, and an unfinished spec, are left of a command that ended before its first file.
            if path.exists() and (not path.is_dir() or {*path.iterdir()} - {path / LOCK, *unfinished(self.spec_file)}):
                raise InputError(f"{path} exists and is not a run folder; name an empty or new folder with --out")
        elif resume:
            self._is_of(spec)
        elif self._is_begun() and not waits:
            raise InputError(f"{path} already holds a run; go on with --resume, or name another folder with --out")
        elif not self._may_write_spec(spec):
            raise InputError(
                f"{self.spec_file} is there and would be overwritten; remove it, or name another folder with --out"
            )

    def _may_write_spec(self, spec: RunSpec) -> bool:
        """Whether nothing of a user's is lost: the spec there is the same, or one that a command has left."""
        there = self.spec_file.read_bytes()
        if there == dump_spec(spec).encode():
            return True
        traces = self.path / LOCK, self.path / "profile.json", self.pretrained_file
        with suppress(InputError):
            return any(map(Path.exists, traces)) and there == dump_spec(load_spec(self.spec_file)).encode()
        return False

    def _is_of(self, spec: RunSpec) -> None:
        differing = spec_differences(load_spec(self.spec_file, of_run=True), spec)
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

    @by_first
    def forget_unfinished(self) -> None:
        """Remove what a kill has left of the files of a run; only the process that holds the folder may."""
        whole = (self.spec_file, self.summary_file, self.metrics_file, self.pretrain_file)
        left = [
            *itertools.chain(*map(unfinished, whole)),
            *(self.path / "labels").glob(".*.part"),
            *self.last_file.parent.glob(".*.part"),
        ]
        for file in left:
            with suppress(OSError):
                file.unlink()

    @by_first
    def write_spec(self, spec: RunSpec) -> None:
        write_text(self.spec_file, dump_spec(spec))

    @by_first
    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")

    @by_first
    def append(self, path: Path, row: Mapping[str, Any]) -> None:
        """Add a line to a .jsonl file; a line is whole once this returns."""
        append_line(path, json.dumps(row, allow_nan=False))

    def rows(self, path: Path) -> list[dict[str, Any]]:
        """The whole lines of a .jsonl file; a line cut off by a kill is left out."""
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # only a last line can be cut off
        return rows

    @by_first
    def forget_after(self, path: Path, epoch: int) -> None:
        """Drop the lines of epochs that no checkpoint holds.

        Raises: InputError if a line of an epoch that it holds is missing, as a kill leaves no file.
        """
        kept = [row for row in self.rows(path) if row["epoch"] <= epoch]
        if missing := sorted({*range(1, epoch + 1)} - {row["epoch"] for row in kept}):
            some = ", ".join(map(str, missing[:5])) + (", ..." if missing[5:] else "")
            raise InputError(
                f"{path}: no line of epoch {some}, which the checkpoint has gone through; put the file back, or start "
                "a new run with another --out"
            )
        if path.exists():
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def seconds(self) -> float:
        """Seconds of all epochs, those before a resume included."""
        rows = self.rows(self.pretrain_file) + self.rows(self.metrics_file)
        return round(sum(row["seconds/epoch"] for row in rows), 3)

    @by_first
    def write_labels(self, epoch: int, labels: Frame) -> None:
        path = self.path / "labels" / f"epoch-{epoch:03d}.parquet"
        write_atomically(path, lambda temporary: write_parquet(temporary, labels))

    @by_first
    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Put `state` in place as last.pt; the one before stays as previous.pt."""
        next_file = self.last_file.with_name("next.pt")
        save_tensors(next_file, state)
        # A kill between the two renames leaves previous.pt, which load_checkpoint finds.
        if self.last_file.exists():
            move(self.last_file, self.previous_file)
        move(next_file, self.last_file)

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
