"""All that a report shows of one run, read from its folder; nothing is written there."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rapids_slr.errors import InputError, RunError
from rapids_slr.record.columns import Column
from rapids_slr.record.folder import RunFolder
from rapids_slr.reports.clusters import (
    EpochLabels,
    Flow,
    Matrix,
    entropy,
    flow_of,
    matrix_of,
    read_label_table,
    refinement,
)
from rapids_slr.reports.pictures import Pictures, take_pictures
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import dump_spec, load_spec

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A run, finished or not."""

    name: str
    """What tells it from the other runs of a report."""
    path: Path
    spec: RunSpec
    state: str
    """How far it is."""
    finished: bool
    summary: dict[str, Any] = field(default_factory=dict)
    start: dict[str, dict[str, float]] = field(default_factory=dict)
    """Scores before adaptation, `direct` and `direct_bn`, and `guard` where there is one."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Rows of metrics.jsonl."""
    pretraining: list[dict[str, float]] = field(default_factory=list)
    """Rows of pretrain.jsonl."""
    labels: EpochLabels | None = None
    """Those of the last epoch."""
    matrix: Matrix | None = None
    flow: Flow | None = None
    entropy_N: np.ndarray | None = None
    """Entropy of the soft labels of the last epoch, bits."""
    mean_entropy: list[tuple[int, float]] = field(default_factory=list)
    """Epoch and mean over the images that have a soft label."""
    pictures: Pictures | None = None
    faults: list[str] = field(default_factory=list)
    """What could not be read, and why."""

    @property
    def spec_text(self) -> str:
        return dump_spec(self.spec)

    @property
    def scores(self) -> tuple[Column, ...]:
        """What its task measures of a network; once there are scores, those that the run asked for."""
        told = {key for row in (*self.start.values(), *self.epochs) for key in row}
        return tuple(column for column in self.spec.task.scores if column.key in told) or self.spec.task.scores

    @property
    def headline(self) -> str:
        """Key of the score by which networks are compared."""
        return self.spec.task.headline_in((*self.start.values(), *self.epochs))

    @property
    def untested(self) -> bool:
        """Whether its target has nothing that a network could be evaluated on."""
        return "direct" in self.start and not self.start["direct"]

    @property
    def last(self) -> dict[str, float]:
        """The last finished epoch; empty before."""
        return self.epochs[-1] if self.epochs else {}


def gather_run(path: Path, device: str | None = None) -> Run:
    """Read a run folder, finished, going on or broken off.

    Args:
        device: where features are computed; None takes the CPU where the run did, else CUDA where it works.
    Raises: InputError if the folder holds no run. What else is missing or damaged is noted in the result.
    """
    folder = RunFolder(path)
    if not folder.spec_file.is_file():
        raise InputError(f"{path} holds no run (no spec.yaml); name the folder of one")
    spec = load_spec(folder.spec_file, of_run=True)
    run = Run(spec.name, path, spec, "", False, epochs=folder.rows(folder.metrics_file))
    run.pretraining = folder.rows(folder.pretrain_file)
    run.summary = read_summary(folder, run.faults)
    run.finished = bool(run.summary)
    run.state = state_of(run, folder)
    run.start = {name: run.summary[name] for name in ("direct", "direct_bn", "guard") if name in run.summary}
    read_labels(run)
    if run.labels is None and not folder.pretrained_file.exists():
        run.pictures = None  # nothing to show an image for
        return run
    device = device or ("cpu" if spec.device == "cpu" else "auto")
    try:
        # summary.json comes at the end; until then the checkpoint has the scores before adaptation.
        if not run.start and (state := folder.load_checkpoint()):
            run.start = state.get("start", {})
        run.pictures = take_pictures(path, spec.model_copy(update={"device": device}), run.labels)
    except (InputError, RunError, OSError) as fault:
        log.warning("%s: the report is made without pictures: %s", path, fault)
        run.faults.append(f"No pictures of images, no map and nothing of its task: {fault}")
    return run


def read_summary(folder: RunFolder, faults: list[str]) -> dict[str, Any]:
    """summary.json; empty where there is none yet or it cannot be read."""
    try:
        return json.loads(folder.summary_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as fault:
        faults.append(f"summary.json cannot be read ({fault}); scores are those of metrics.jsonl")
        return {}


def state_of(run: Run, folder: RunFolder) -> str:
    """How far a run is, in words. Whether it still goes on cannot be seen from its folder."""
    training = run.spec.training.epochs
    if run.finished:
        return f"finished, {len(run.epochs)} epochs"
    if run.epochs:
        return f"adapting: {len(run.epochs)} of {training} epochs are done"
    if folder.pretrained_file.exists():
        return f"adapting: none of {training} epochs is done yet"
    if run.pretraining and run.spec.pretrain is not None:
        return f"pre-training: {len(run.pretraining)} of {run.spec.pretrain.epochs} epochs are done"
    return "just begun: no epoch is done yet"


def read_labels(run: Run) -> None:
    """The label tables: the last whole one, and the entropy of the soft labels of every epoch.

    With further clusterings soft labels come from what no table holds, and are left out.
    """
    spec, last = run.spec, None
    # Shorter names first: from epoch 1000 on the order of text alone is not that of epochs.
    for path in sorted((run.path / "labels").glob("epoch-*.parquet"), key=lambda path: (len(path.name), path.name)):
        try:
            run.labels = read_label_table(path, int(path.stem.removeprefix("epoch-")))
            refiner = None if spec.clusters.needs_refinement else spec.refine.again()
            last = refinement(run.labels, refiner)
        except InputError as fault:
            run.faults.append(f"{fault}; the epoch is left out of what is shown of labels")
            continue
        if refiner is not None:
            run.entropy_N = entropy(last)
            if np.isfinite(run.entropy_N).any():
                run.mean_entropy.append((run.labels.epoch, float(np.nanmean(run.entropy_N))))
    if run.labels is not None and last is not None and not run.labels.is_first:
        run.matrix, run.flow = matrix_of(last), flow_of(run.labels)


def name_runs(runs: list[Run]) -> None:
    """Give every run a name of its own: that of its spec, or the part of its path that no other has."""
    if len({run.name for run in runs}) == len(runs):
        return
    paths = [run.path.resolve().parts for run in runs]
    common = 0
    # At least the last part stays, for the same folder given twice.
    while all(len(parts) > common + 1 for parts in paths) and len({parts[common] for parts in paths}) == 1:
        common += 1
    for number, (run, parts) in enumerate(zip(runs, paths, strict=True), 1):
        name = "/".join(parts[common:])
        taken = {other.name for other in runs[: number - 1]}
        run.name = f"{name} ({number})" if name in taken else name
