"""Class prototypes: images far from the mean feature of their cluster, by a mixture of two components, are noise."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from rapids_slr.engine.arrays import on_torch_stream, to_host
from rapids_slr.refinement.rivals.keys import PrototypesKeys
from rapids_slr.refinement.rivals.relabelled import Forgetful, Relabelled, features_of, host_labels, relabelled
from rapids_slr.settings.estimator import Estimator
from rapids_slr.settings.keys import check_keys

LEAST_VARIANCE = 5e-4
"""Added to the variance of a component, of distances scaled to [0, 1]; as in DivideMix."""
SAME = 1e-6
"""Distances that differ by no more are all one component."""


class Prototypes(PrototypesKeys, Estimator, Forgetful):
    """Cleans clusters by their prototypes: images whose distance is of the farther of two components are left out.

    The prototype of a cluster is the mean of its features, of length 1; the distance of an image is one less its
    product with the prototype of its own cluster. A mixture of two Gaussians is fitted to the distances of all
    clustered images, and the posterior of the component with the smaller mean is the confidence of a label. Outliers
    stay outliers.

    Means and mixture (scikit-learn's) are computed on the CPU: from a GPU the features are copied.
    """

    def update(self, labels: Any, others: Any = (), *, features: Any) -> Relabelled:
        """Refine the labels of an epoch.

        Args:
            labels: (N,) whole numbers, -1 = outlier, clusters from 0; NumPy, CuPy or torch.
            others: further clusterings, which are not looked at.
            features: (N, D) unit rows.
        Raises: InputError for labels, features or settings that cannot be used.
        Source: the mixture over losses, and its posterior as the probability of a clean label, of Li et al., DivideMix:
            Learning with Noisy Labels as Semi-supervised Learning, ICLR 2020; prototypes in the feature space, as in
            Huang et al., Class Prototype-based Cleaner for Label Noise Learning, arXiv:2212.10766, but one mixture for
            all clusters, most of which are too small for one of their own.
        """
        check_keys(self)
        with on_torch_stream(features):
            now_N = host_labels(labels)
            x_ND = to_host(features_of(features, now_N.size))
            clean_N, kept_N = np.zeros(now_N.size), now_N >= 0
            clean_N[kept_N] = clean_posterior(prototype_distances(x_ND[kept_N], now_N[kept_N]))
            return relabelled(now_N, np.where(kept_N & (clean_N >= self.clean), now_N, -1), clean_N, labels)


def prototype_distances(x_nD: np.ndarray, label_n: np.ndarray) -> np.ndarray:
    """1 - x.c of every unit row and the prototype c of its class, float64 (n,)."""
    if not label_n.size:
        return np.empty(0)
    order = label_n.argsort(kind="stable")
    first_K = np.flatnonzero(np.diff(label_n[order], prepend=-1))
    sum_KD = np.add.reduceat(x_nD[order], first_K, axis=0, dtype=np.float64)
    # The length is 0 where features cancel out, and nothing is near.
    prototype_KD = sum_KD / np.maximum(np.linalg.norm(sum_KD, axis=1, keepdims=True), 1e-12)
    place_n = np.unique(label_n, return_inverse=True)[1]
    return 1 - np.einsum("nd,nd->n", x_nD, prototype_KD[place_n])


def clean_posterior(distance_n: np.ndarray) -> np.ndarray:
    """Posterior of the component with the smaller mean, of two Gaussians fitted to distances by EM, float64 (n,).

    EM begins with a component at the smallest and one at the largest distance, both as wide as all distances and of
    equal weight: nothing is drawn. 1 for all where distances are the same.
    """
    if not distance_n.size or np.ptp(distance_n) <= SAME:
        return np.ones(distance_n.size)
    scaled_n1 = ((distance_n - distance_n.min()) / np.ptp(distance_n))[:, None]
    width = np.full((2, 1, 1), 1 / (scaled_n1.var() + LEAST_VARIANCE))
    mixture = GaussianMixture(
        2, tol=1e-6, max_iter=500, reg_covar=LEAST_VARIANCE, random_state=0,
        weights_init=[0.5, 0.5], means_init=[[0.0], [1.0]], precisions_init=width,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as far as it has come
        mixture.fit(scaled_n1)
    return mixture.predict_proba(scaled_n1)[:, mixture.means_[:, 0].argmin()]
