"""Confident learning: images whose neighbours are of another cluster, more than chance has it, are mislabelled."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np

from rapids_slr.clustering.neighbours import nearest_neighbours
from rapids_slr.engine.arrays import Array, array_module, on_torch_stream, to_host
from rapids_slr.errors import InputError
from rapids_slr.refinement.rivals.keys import ConfidentKeys
from rapids_slr.refinement.rivals.relabelled import Forgetful, Relabelled, features_of, host_labels, relabelled
from rapids_slr.settings.estimator import Estimator
from rapids_slr.settings.keys import check_keys


class Confident(ConfidentKeys, Estimator, Forgetful):
    """Confident learning by cleanlab: images whose cluster is estimated to be wrong are left out, or moved.

    The probabilities that it takes are the votes of an image's nearest neighbours, out of fold: an image has no say
    about itself. From them the joint distribution of given and true clusters is estimated, and of every pair of
    clusters as many images are mislabelled as it says, those with the widest margin first (prune by noise rate).
    Outliers neither vote nor get a label. The confidence of a label is its probability.

    Neighbours are searched where the features are. cleanlab is a library of the CPU: votes are (n, K) float64 there.
    """

    def update(self, labels: Any, others: Any = (), *, features: Any) -> Relabelled:
        """Refine the labels of an epoch.

        Args:
            labels: (N,) whole numbers, -1 = outlier, clusters from 0; NumPy, CuPy or torch.
            others: further clusterings, which are not looked at.
            features: (N, D) unit rows.
        Raises: InputError for labels, features or settings that cannot be used, or without cleanlab.
        Source: Northcutt et al., Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021.
        """
        check_keys(self)
        with on_torch_stream(features):
            now_N = host_labels(labels)
            x_ND = features_of(features, now_N.size)
            kept = np.flatnonzero(now_N >= 0)
            number_K, label_n = np.unique(now_N[kept], return_inverse=True)
            found_n, sure_n = label_n.copy(), np.ones(label_n.size)
            if number_K.size > 1:
                odds_nK = probabilities(x_ND[kept], label_n, number_K.size, self.votes)
                wrong_n = mislabelled(label_n, odds_nK)
                found_n[wrong_n] = odds_nK[wrong_n].argmax(axis=1) if self.mislabelled == "move" else -1
                sure_n = odds_nK[np.arange(label_n.size), found_n]  # of those left out nobody reads it
            label_N, confidence_N = np.full(now_N.size, -1), np.zeros(now_N.size)
            label_N[kept], confidence_N[kept] = found_n, sure_n
            return relabelled(now_N, label_N, confidence_N, labels)


def probabilities(x_nD: Array, label_n: np.ndarray, K: int, k: int) -> np.ndarray:
    """What every cluster has of the votes of the k images nearest to each, (n, K) float64 on the host; rows sum to 1.

    A vote counts as much as the image is similar, x.y, if that is above 0; one more is spread evenly over the clusters,
    so that none has nothing. The image itself has no vote: this is leave-one-out cross-validation of a
    k-nearest-neighbours classifier. With fewer images all others vote.
    """
    k = min(k, label_n.size - 1)
    near = nearest_neighbours(array_module(x_nD).ascontiguousarray(x_nD), k + 1)
    voter_nk, distance_nk = (to_host(part)[:, 1:] for part in (near.indices_Nk, near.distances_Nk))
    weight_nk = np.maximum(1 - distance_nk.astype(np.float64) / 2, 0)  # the distance is 2 - 2 x.y
    votes_nK = np.full((label_n.size, K), 1 / K)
    np.add.at(votes_nK, (np.arange(label_n.size)[:, None], label_n[voter_nk]), weight_nk)
    return votes_nK / votes_nK.sum(axis=1, keepdims=True)


def mislabelled(label_n: np.ndarray, odds_nK: np.ndarray) -> np.ndarray:
    """(n,) whether confident learning finds the label of an image wrong; every class has images.

    Expected numbers of images are rounded, and equal ones by the numbers of their classes: these are first numbered by
    how sure they are on average, so that no other order has a say.
    """
    own_n = odds_nK[np.arange(label_n.size), label_n]
    order_K = (np.bincount(label_n, own_n) / np.bincount(label_n)).argsort(kind="stable")
    label_n, odds_nK = order_K.argsort()[label_n], odds_nK[:, order_K]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "May not flag all label issues")  # it leaves every cluster an image
        # One process: others would have to be started for every epoch.
        return cleanlab_filter().find_label_issues(label_n, odds_nK, filter_by="prune_by_noise_rate", n_jobs=1)


def cleanlab_filter() -> ModuleType:
    """cleanlab's filters, or an InputError that says how to get them."""
    try:
        import cleanlab.filter
    except ImportError as fault:
        message = (
            f"refine: confident needs cleanlab, which is not installed ({fault}); pip install 'rapids-slr[rivals]'"
        )
        raise InputError(message) from fault
    return cleanlab.filter
