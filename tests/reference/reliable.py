"""Reliable clusters as SpCL's code finds them, with an N x N table of who is with whom and plain loops.

Its scores are 1 - IoU; an un-clustered image is a cluster of its own; the threshold of independence is taken from the
sorted scores of the first epoch's clusters with more than one image, at the place round(0.9 number).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def alone_by_themselves(labels: Sequence[int]) -> list[int]:
    """Un-clustered images get numbers of their own behind the clusters'."""
    number, found = max(labels) + 1, []
    for label in labels:
        found.append(label if label >= 0 else number)
        number += label < 0
    return found


def together(labels: Sequence[int]) -> np.ndarray:
    numbers = np.array(alone_by_themselves(labels))
    return (numbers[:, None] == numbers[None, :]).astype(float)


def changed(labels: Sequence[int], other: Sequence[int]) -> np.ndarray:
    one, two = together(labels), together(other)
    return 1 - np.minimum(one, two).sum(axis=1) / np.maximum(one, two).sum(axis=1)


def reliable(labels, tight, loose, threshold=None, share=0.9) -> tuple[list[int], float]:
    """Labels with -1 for what is not reliable, in the numbers that they had; and the threshold."""
    compact, independent = changed(labels, tight), changed(labels, loose)
    members = {k: [i for i, label in enumerate(labels) if label == k] for k in range(max(labels) + 1)}
    best_compact = {k: min(compact[i] for i in images) for k, images in members.items()}
    best_independent = {k: min(independent[i] for i in images) for k, images in members.items()}
    if threshold is None:
        scores = np.sort([best_independent[k] for k, images in members.items() if len(images) > 1])
        threshold = scores[min(len(scores) - 1, np.round(len(scores) * share).astype(int))]
    kept = []
    for i, label in enumerate(labels):
        stays = label >= 0 and best_independent[label] <= threshold and compact[i] <= best_compact[label]
        kept.append(label if stays else -1)
    return kept, threshold
