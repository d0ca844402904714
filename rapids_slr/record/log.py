"""Where the rows of a run go: its .jsonl files, TensorBoard, and the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from rapids_slr.progress import Progress
from rapids_slr.record.folder import RunFolder


class Log:
    """The log of one command on a run folder; close it to let TensorBoard's files go."""

    def __init__(self, folder: RunFolder, progress: Progress) -> None:
        self._folder, self._progress = folder, progress
        self._writers: dict[str, SummaryWriter] = {}

    def epoch(self, path: Path, part: str, row: Mapping[str, float]) -> None:
        """Append an epoch of a part of the run, `pretrain` or `adapt`."""
        self._folder.append(path, row)
        if part not in self._writers:  # curves of epochs that are done again give way to the new ones
            folder = str(self._folder.path / "tensorboard" / part)
            self._writers[part] = SummaryWriter(folder, purge_step=int(row["epoch"]))
        for name, value in row.items():
            if name != "epoch":
                self._writers[part].add_scalar(name, value, row["epoch"])
        self._writers[part].flush()
        self._progress.say(line_of(part, row))

    def scores(self, name: str, scores: Mapping[str, float], order: Sequence[str]) -> None:
        """Say the scores of a network, fractions, in percent."""
        self._progress.say(f"{name:<12}" + "  ".join(f"{key} {100 * scores[key]:5.1f}" for key in order))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def label_share(row: Mapping[str, float]) -> float:
    """Part of an epoch's seconds that went into labels: clustering and refinement."""
    return (row["seconds/clusters"] + row["seconds/refinement"]) / row["seconds/epoch"]


def line_of(part: str, row: Mapping[str, float]) -> str:
    """An epoch in one line."""
    if part == "pretrain":
        losses = "  ".join(f"{key.removeprefix('loss/')} {row[key]:.3f}" for key in row if key.startswith("loss/"))
        return f"pre-training {row['epoch']:>3}  {losses}  {row['seconds/epoch']:.1f} s"
    scores = f"mAP {100 * row['mAP']:5.1f}  rank-1 {100 * row['rank1']:5.1f}  " if "mAP" in row else ""
    quality = f"  ARI {row['raw_ari']:.3f} -> {row['ari']:.3f}" if "ari" in row else ""
    return (
        f"epoch {row['epoch']:>3}  {scores}clusters {row['clusters']} -> {row['refined_clusters']}  "
        f"outliers {row['outliers']} ({row['rescued']} rescued){quality}  "
        f"{row['seconds/epoch']:.1f} s (labels {100 * label_share(row):.1f} %)"
    )
