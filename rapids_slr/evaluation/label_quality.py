"""Quality of cluster labels against identities: ARI, NMI, purity, and pairs of images. Label -1 is an outlier."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_slr.errors import InputError

Labels = NDArray[np.int64]


def label_quality(labels: Any, identities: Any) -> dict[str, float]:
    """How well clusters agree with identities. Every figure is defined for all labels: never NaN.

    Args:
        labels: (N,) integer clusters in any numbering; negative ones are outliers.
        identities: (N,) integer true identities.
    Returns: `ari`, `nmi` with every outlier a cluster of its own; `ari_labelled`, `nmi_labelled` without the outliers
        (0 if there is nothing else); `purity`, the share of clustered images whose identity is the most frequent of
        their cluster (0 if there are none); and the counts `clusters`, `outliers`, `identities`.
    Raises: InputError if the arrays are no integers, of different lengths, or empty.
    """
    labels, identities = _checked(labels, identities, "labels", "identities")
    clustered = labels >= 0
    whole = _contingency(_own_clusters(labels), identities)
    quality: dict[str, float] = {"ari": _ari(*whole), "nmi": _nmi(*whole)}
    if clustered.any():
        counts, clusters, people = _contingency(labels[clustered], identities[clustered])
        largest = np.zeros(clusters.max() + 1, np.int64)
        np.maximum.at(largest, clusters, counts)
        quality |= {
            "ari_labelled": _ari(counts, clusters, people),
            "nmi_labelled": _nmi(counts, clusters, people),
            "purity": float(largest.sum() / counts.sum()),
        }
    else:
        quality |= {"ari_labelled": 0.0, "nmi_labelled": 0.0, "purity": 0.0}
    return quality | {
        "clusters": len(np.unique(labels[clustered])),
        "outliers": int((~clustered).sum()),
        "identities": len(np.unique(identities)),
    }


def agreement(first: Any, second: Any) -> float:
    """ARI of two label arrays (N,); every outlier (negative) is a cluster of its own.

    Raises: InputError if the arrays are no integers, of different lengths, or empty.
    """
    first, second = _checked(first, second, "first", "second")
    return _ari(*_contingency(_own_clusters(first), _own_clusters(second)))


def pair_errors(labels: Any, identities: Any, before: Any = None) -> dict[str, float]:
    """Pairs of images that clusters join or part against their identities, and how many of them did so before.

    Args:
        labels: (N,) integer clusters; every outlier (negative) is alone.
        identities: (N,) integer true identities.
        before: labels of the same images an epoch before, or None.
    Returns: `false_pairs`, the share of pairs within a cluster whose identities differ; `missed_pairs`, the share of
        pairs of an identity that are in no common cluster; with `before`, `false_repeated` and `missed_repeated`, the
        share of the false and of the missed pairs that were false or missed already. A share of nothing is 0.
    Raises: InputError if the arrays are no integers, of different lengths, or empty.
    """
    labels, identities = _checked(labels, identities, "labels", "identities")
    labels = _own_clusters(labels)
    together, alike, right = _pairs_in(labels), _pairs_in(identities), _pairs_in(labels, identities)
    false, missed = together - right, alike - right
    errors = {"false_pairs": _share(false, together), "missed_pairs": _share(missed, alike)}
    if before is None:
        return errors
    before = _own_clusters(_checked(before, identities, "before", "identities")[0])
    right_before, right_twice = _pairs_in(before, identities), _pairs_in(labels, before, identities)
    false_twice = _pairs_in(labels, before) - right_twice
    missed_twice = alike - right - right_before + right_twice
    return errors | {"false_repeated": _share(false_twice, false), "missed_repeated": _share(missed_twice, missed)}


def rightly_placed(labels: Any, identities: Any, placed: Any) -> float:
    """Share of the images `placed` (N,) bool whose identity is a most frequent one of their cluster; 0 if none is.

    Raises: InputError if labels and identities are no integers, of different lengths, or empty.
    """
    labels, identities = _checked(labels, identities, "labels", "identities")
    clustered = labels >= 0
    placed = np.asarray(placed)[clustered]
    if not placed.any():
        return 0.0
    counts, clusters, people = _contingency(labels[clustered], identities[clustered])
    largest = np.zeros(clusters.max() + 1, np.int64)
    np.maximum.at(largest, clusters, counts)
    frequent = np.zeros((len(largest), people.max() + 1), bool)
    frequent[clusters, people] = counts == largest[clusters]
    cluster_N = np.unique(labels[clustered], return_inverse=True)[1]
    person_N = np.unique(identities[clustered], return_inverse=True)[1]
    return float(frequent[cluster_N, person_N][placed].mean())


def _checked(first: Any, second: Any, *names: str) -> tuple[Labels, Labels]:
    arrays = np.asarray(first), np.asarray(second)
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(f"{name}: expected (N,) integers, got {array.shape} {array.dtype}")
    if len(arrays[0]) != len(arrays[1]) or len(arrays[0]) == 0:
        raise InputError(
            f"{' and '.join(names)}: expected labels of the same images, got {len(arrays[0])} and {len(arrays[1])}"
        )
    return arrays[0].astype(np.int64), arrays[1].astype(np.int64)


def _own_clusters(labels: Labels) -> Labels:
    """The same labels with a new cluster for every outlier."""
    outliers = labels < 0
    own = labels.copy()
    own[outliers] = max(labels.max(), -1) + 1 + np.arange(outliers.sum())
    return own


def _contingency(first: Labels, second: Labels) -> tuple[Labels, Labels, Labels]:
    """Groups that share images: how many they share, the first group, the second, numbered without gaps."""
    _, first = np.unique(first, return_inverse=True)
    groups, second = np.unique(second, return_inverse=True)
    pairs, counts = np.unique(first * len(groups) + second, return_counts=True)
    return counts, pairs // len(groups), pairs % len(groups)


def _sizes(counts: Labels, groups: Labels) -> Labels:
    sizes = np.zeros(groups.max() + 1, np.int64)
    np.add.at(sizes, groups, counts)
    return sizes


def _pairs(sizes: Labels) -> int:
    """Pairs of images within groups; a Python integer, as products of two of them pass 64 bits."""
    return int((sizes * (sizes - 1) // 2).sum())


def _pairs_in(*labels: Labels) -> int:
    """Pairs of images that are alike in every one of the labels."""
    group = np.zeros(len(labels[0]), np.int64)
    for label in labels:
        values, number = np.unique(label, return_inverse=True)
        group = np.unique(group * len(values) + number, return_inverse=True)[1]
    return _pairs(np.bincount(group))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _ari(counts: Labels, first: Labels, second: Labels) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985); 1 where chance leaves no room, both all alone or all together."""
    both, in_first, in_second = _pairs(counts), _pairs(_sizes(counts, first)), _pairs(_sizes(counts, second))
    every = _pairs(counts.sum(keepdims=True))
    # Scaled by 2 x every, so that all of it stays in integers.
    possible = (in_first + in_second) * every - 2 * in_first * in_second
    return 1.0 if possible == 0 else 2 * (both * every - in_first * in_second) / possible


def _nmi(counts: Labels, first: Labels, second: Labels) -> float:
    """Mutual information over the mean of the entropies; 1 where both are one single group."""
    images = counts.sum()
    sizes_first, sizes_second = _sizes(counts, first), _sizes(counts, second)
    mean_entropy = (_entropy(sizes_first, images) + _entropy(sizes_second, images)) / 2
    if mean_entropy == 0:
        return 1.0
    together = np.log(counts) - np.log(sizes_first[first]) - np.log(sizes_second[second]) + np.log(images)
    return float(np.clip((counts * together).sum() / images / mean_entropy, 0.0, 1.0))


def _entropy(sizes: Labels, images: int) -> float:
    shares = sizes / images
    return float(-(shares * np.log(shares)).sum())
