"""Quality of cluster labels against identities: ARI, NMI, purity, and pairs of images. Label -1 is an outlier.

N images, K clusters, I identities. The columns of a run are compared bit for bit, with other runs and other versions:
scikit-learn does the counting, which is exact, and what rounds is written out here.
"""

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
    labels_N, identities_N = _checked(labels, identities, "labels", "identities")
    clustered_N = labels_N >= 0
    own_N = _own_clusters(labels_N)
    quality = {"ari": _ari(own_N, identities_N), "nmi": _nmi(own_N, identities_N)}
    quality |= {"ari_labelled": 0.0, "nmi_labelled": 0.0, "purity": 0.0}
    if clustered_N.any():
        of_clusters = labels_N[clustered_N], identities_N[clustered_N]
        shared_KI = _shared(*of_clusters)
        quality["ari_labelled"], quality["nmi_labelled"] = _ari(*of_clusters), _nmi(*of_clusters)
        quality["purity"] = float(shared_KI.max(axis=1).sum() / shared_KI.sum())
    return quality | {
        "clusters": len(np.unique(labels_N[clustered_N])),
        "outliers": int((~clustered_N).sum()),
        "identities": len(np.unique(identities_N)),
    }


def matched_accuracy(labels: Any, identities: Any) -> float:
    """Images whose cluster is the one that their identity is matched to, as a fraction of all.

    The matching is the best of all that give a cluster one identity and an identity one cluster (Kuhn 1955); outliers,
    and clusters and identities that are left over, are wrong.

    Args:
        labels: (N,) integer clusters; negative ones are outliers.
        identities: (N,) integer true identities.
    Raises: InputError if the arrays are no integers, of different lengths, or empty.
    """
    from scipy.optimize import linear_sum_assignment

    labels_N, identities_N = _checked(labels, identities, "labels", "identities")
    clustered_N = labels_N >= 0
    if not clustered_N.any():
        return 0.0
    shared_KI = _shared(labels_N[clustered_N], identities_N[clustered_N]).toarray()
    return float(shared_KI[linear_sum_assignment(shared_KI, maximize=True)].sum() / len(labels_N))


def agreement(first: Any, second: Any) -> float:
    """ARI of two label arrays (N,); every outlier (negative) is a cluster of its own.

    Raises: InputError if the arrays are no integers, of different lengths, or empty.
    """
    first_N, second_N = _checked(first, second, "first", "second")
    return _ari(_own_clusters(first_N), _own_clusters(second_N))


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
    labels_N, identities_N = _checked(labels, identities, "labels", "identities")
    labels_N = _own_clusters(labels_N)
    together, alike, right = _pairs_in(labels_N), _pairs_in(identities_N), _pairs_in(labels_N, identities_N)
    false, missed = together - right, alike - right
    errors = {"false_pairs": _share(false, together), "missed_pairs": _share(missed, alike)}
    if before is None:
        return errors
    before_N = _own_clusters(_checked(before, identities, "before", "identities")[0])
    right_before, right_twice = _pairs_in(before_N, identities_N), _pairs_in(labels_N, before_N, identities_N)
    false_twice = _pairs_in(labels_N, before_N) - right_twice
    missed_twice = alike - right - right_before + right_twice  # not right now, nor before: by inclusion and exclusion
    return errors | {"false_repeated": _share(false_twice, false), "missed_repeated": _share(missed_twice, missed)}


def rightly_placed(labels: Any, identities: Any, placed: Any) -> float:
    """Share of the images `placed` (N,) bool whose identity is a most frequent one of their cluster; 0 if none is.

    Raises: InputError if labels and identities are no integers, of different lengths, or empty.
    """
    labels_N, identities_N = _checked(labels, identities, "labels", "identities")
    clustered_N = labels_N >= 0
    placed_N = np.asarray(placed)[clustered_N]
    if not placed_N.any():
        return 0.0
    cluster_N = np.unique(labels_N[clustered_N], return_inverse=True)[1]
    group_N = _groups(cluster_N, identities_N[clustered_N])
    images_N = np.bincount(group_N)[group_N]  # of the same cluster and identity
    largest_K = np.zeros(cluster_N.max() + 1, np.int64)
    np.maximum.at(largest_K, cluster_N, images_N)
    return float((images_N == largest_K[cluster_N])[placed_N].mean())


def _checked(first: Any, second: Any, *names: str) -> tuple[Labels, Labels]:
    arrays = np.asarray(first), np.asarray(second)
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(f"{name}: expected (N,) integers, got {array.shape} {array.dtype}")
        if array.dtype.kind == "u" and name != "identities" and (array == np.iinfo(array.dtype).max).any():
            raise InputError(f"{name}: -1 without a sign is {array.max()}; give labels with one (int32)")
    if len(arrays[0]) != len(arrays[1]) or len(arrays[0]) == 0:
        raise InputError(
            f"{' and '.join(names)}: expected labels of the same images, got {len(arrays[0])} and {len(arrays[1])}"
        )
    return arrays[0].astype(np.int64), arrays[1].astype(np.int64)


def _own_clusters(labels_N: Labels) -> Labels:
    """The same labels with a new cluster for every outlier."""
    outlier_N = labels_N < 0
    own_N = labels_N.copy()
    own_N[outlier_N] = max(labels_N.max(), -1) + 1 + np.arange(outlier_N.sum())
    return own_N


def _groups(*labels_N: Labels) -> Labels:
    """Group of each image, from 0: images that are alike in every one of the labels."""
    group_N = np.zeros(len(labels_N[0]), np.int64)
    for label_N in labels_N:
        values, number_N = np.unique(label_N, return_inverse=True)
        group_N = np.unique(group_N * len(values) + number_N, return_inverse=True)[1]
    return group_N


def _pairs_in(*labels_N: Labels) -> int:
    """Pairs of images that are alike in every one of the labels."""
    sizes = np.bincount(_groups(*labels_N))
    return int((sizes * (sizes - 1) // 2).sum())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _shared(first_N: Labels, second_N: Labels) -> Any:
    """Images that two groups share, a sparse matrix of int64: groups of the first, in order, by those of the second."""
    from sklearn.metrics.cluster import contingency_matrix  # slow to import, and not needed before an epoch ends

    return contingency_matrix(first_N, second_N, sparse=True)


def _ari(first_N: Labels, second_N: Labels) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985); 1 where chance leaves no room, both all alone or all together."""
    from sklearn.metrics.cluster import pair_confusion_matrix

    # Integers of Python until the one division: products of two counts of pairs pass 64 bits, and adjusted_rand_score,
    # which makes floats of them first, is off in the last bit for some labels of 30,000 images and more.
    (apart, second), (first, both) = pair_confusion_matrix(first_N, second_N).tolist()
    possible = (both + first) * (first + apart) + (both + second) * (second + apart)
    return 1.0 if possible == 0 else 2 * (both * apart - first * second) / possible


def _nmi(first_N: Labels, second_N: Labels) -> float:
    """Mutual information over the mean of the entropies; 1 where both are one single group."""
    shared = _shared(first_N, second_N)
    counts, (first, second), images = shared.data, shared.nonzero(), shared.sum()
    sizes_first, sizes_second = (np.asarray(shared.sum(axis=axis)).ravel() for axis in (1, 0))
    mean_entropy = (_entropy(sizes_first, images) + _entropy(sizes_second, images)) / 2
    if mean_entropy == 0:
        return 1.0
    together = np.log(counts) - np.log(sizes_first[first]) - np.log(sizes_second[second]) + np.log(images)
    return float(np.clip((counts * together).sum() / images / mean_entropy, 0.0, 1.0))


def _entropy(sizes: Labels, images: int) -> float:
    shares = sizes / images
    return float(-(shares * np.log(shares)).sum())
