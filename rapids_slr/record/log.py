"""Where the rows of a run go: its .jsonl files, TensorBoard, and the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from rapids_slr.group import current
from rapids_slr.progress import Progress
from rapids_slr.record.columns import LOSS, PICKS_BY, SECONDS, WHOLE, column_of, columns_in
from rapids_slr.record.folder import RunFolder
from rapids_slr.tasks.base import TaskSpec


class Log:
    """The log of one command on a run folder; close it to let TensorBoard's files go."""

    def __init__(self, folder: RunFolder, progress: Progress, task: TaskSpec) -> None:
        self._folder, self._progress, self._task = folder, progress, task
        self._writers: dict[str, SummaryWriter] = {}

    def epoch(self, path: Path, part: str, row: Mapping[str, float]) -> None:
        """Append an epoch of a part of the run, `pretrain` or `adapt`."""
        self._folder.append(path, row)
        if not current().first:
            return
        if part not in self._writers:  # curves of epochs that are done again give way to the new ones
            folder = str(self._folder.path / "tensorboard" / part)
            self._writers[part] = SummaryWriter(folder, purge_step=int(row["epoch"]))
        for name, value in row.items():
            if name != "epoch":
                self._writers[part].add_scalar(name, value, row["epoch"])
        self._writers[part].flush()
        self._progress.say(line_of(part, row, self._task.on_screen))

    def scores(self, name: str, scores: Mapping[str, float]) -> None:
        """Say the scores of a network, with identities and without, in percent; nothing where it has none."""
        columns = [*(column for column in self._task.scores if column.key in scores), *columns_in([scores], "guard")]
        keys = [column.key for column in columns]
        if keys:
            self._progress.say(f"{name:<12}" + "  ".join(f"{key} {100 * scores[key]:5.1f}" for key in keys))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def label_share(row: Mapping[str, float]) -> float:
    """Part of an epoch's seconds that went into labels: clustering and refinement."""
    return (row[SECONDS + "clusters"] + row[SECONDS + "refinement"]) / row[WHOLE]


def line_of(part: str, row: Mapping[str, float], on_screen: Sequence[str]) -> str:
    """An epoch in one line, with those of its scores that are keys `on_screen`."""
    if part == "pretrain":
        losses = "  ".join(f"{column_of(key).name} {row[key]:.3f}" for key in row if key.startswith(LOSS))
        return f"pre-training {row['epoch']:>3}  {losses}  {row[WHOLE]:.1f} s"
    scores = "".join(f"{column_of(key).name} {100 * row[key]:5.1f}  " for key in (*on_screen, PICKS_BY) if key in row)
    quality = f"  ARI {row['raw_ari']:.3f} -> {row['ari']:.3f}" if "ari" in row else ""
    return (
        f"epoch {row['epoch']:>3}  {scores}clusters {row['clusters']} -> {row['refined_clusters']}  "
        f"outliers {row['outliers']} ({row['rescued']} rescued){quality}  "
        f"{row[WHOLE]:.1f} s (labels {100 * label_share(row):.1f} %)"
    )
