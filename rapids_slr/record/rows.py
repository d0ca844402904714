"""What an epoch leaves behind: columns of metrics.jsonl and the table of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rapids_slr.data.domain import Split
from rapids_slr.evaluation import agreement, label_quality, pair_errors, rightly_placed
from rapids_slr.record.columns import RAW, SECONDS
from rapids_slr.record.tables import Frame, cluster_statistics, manifest, table
from rapids_slr.refinement.base import Refined

QUALITY = ("ari", "nmi", "ari_labelled", "nmi_labelled", "purity")


def epoch_row(
    clusters_N: Tensor,
    refined_N: Tensor,
    clusters_before_N: Tensor | None,
    refined_before_N: Tensor | None,
    refined: Refined,
    identities_N: np.ndarray,
    score_labels: Callable[[np.ndarray, np.ndarray], Mapping[str, float]],
) -> dict[str, float]:
    """Counts of labels, agreement with last epoch's, and label quality where every identity is known.

    Figures of the refined labels, and those of the clusters with `raw_` before their names; columns.py names them.

    Args:
        identities_N: (N,) true identities; they are looked at here and nowhere else.
        score_labels: what the task finds of labels and identities, further columns.
    """
    row: dict[str, float] = {
        "clusters": count_clusters(clusters_N),
        "refined_clusters": count_clusters(refined_N),
        "outliers": int((clusters_N < 0).sum()),
        "rescued": refined.rescued,
        "left_out": int((refined_N < 0).sum()),
    }
    known = np.unique(identities_N)
    # Junk, distractors and unknown ones are 0 or below: with one of them quality cannot be told.
    identified = known[0] > 0 and len(known) > 1
    if identified:
        row["identities"] = len(known)
    for prefix, labels, before in (("", refined_N, refined_before_N), (RAW, clusters_N, clusters_before_N)):
        labels_N, before_N = to_host(labels), None if before is None else to_host(before)
        if before_N is not None:
            row[prefix + "ari_prev"] = agreement(labels_N, before_N)
        if identified:
            quality = label_quality(labels_N, identities_N)
            quality = {name: quality[name] for name in QUALITY} | pair_errors(labels_N, identities_N, before_N)
            quality |= score_labels(labels_N, identities_N)
            row |= {prefix + name: value for name, value in quality.items()}
    if identified and row["rescued"]:
        row["rescued_rightly"] = rightly_placed(to_host(refined_N), identities_N, to_host(clusters_N) < 0)
    return row


def label_table(
    split: Split, previous_N: Tensor | None, clusters_N: Tensor, refined_N: Tensor, refined: Refined
) -> Frame:
    """One row an image: sample, path, camera; previous, cluster, refined (int32); confidence. Where the labels are."""
    return table(
        manifest(split)
        | {
            "previous": torch.full_like(clusters_N, -1).int() if previous_N is None else previous_N.int(),
            "cluster": clusters_N.int(),
            "refined": refined_N.int(),
            "confidence": refined.confidence,
        }
    )


def cluster_means(labels: Frame) -> dict[str, float]:
    """Means over the refined clusters of a label table: images, cameras and confidence of a cluster.

    `cluster_cameras` near 1 says that clusters follow cameras rather than identities.
    """
    clusters = cluster_statistics(labels)
    if not len(clusters):
        return {}
    return {f"cluster_{name}": float(clusters[name].mean()) for name in ("images", "cameras", "confidence")}


def prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def seconds_by_stage(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds of all epochs of an adaptation, by stage and for the whole (`epoch`)."""
    keys = [key for key in rows[-1] if key.startswith(SECONDS)]
    return {key.removeprefix(SECONDS): round(sum(row.get(key, 0.0) for row in rows), 6) for key in keys}


def count_clusters(labels_N: Tensor) -> int:
    """Clusters that have an image; soft labels may leave numbers unused."""
    return len(torch.unique(labels_N[labels_N >= 0]))


def to_host(labels: Tensor) -> np.ndarray:
    return labels.cpu().numpy()
