"""Settings of clustering that fit a domain, from how many images its identities and cameras have."""

from __future__ import annotations

import numpy as np

from rapids_slr.clustering.cameras import FEWEST
from rapids_slr.data.domain import Domain
from rapids_slr.data.layouts import DISTRACTOR

FEW = 12
"""Images an identity below which neighbourhoods are taken smaller."""


def settings_for(images: float) -> dict[str, int]:
    """Keys of `clusters` for so many images an identity.

    As many neighbours as an identity has images, 20 at most, and a radius that stays below the pairs it has.
    """
    few = images < FEW
    return {
        "k1": int(np.clip(round(images), 4, 20)),
        "k2": 3 if few else 6,
        "pairs_per_image": max(1, int(0.42 * images)),
        "min_samples": 3 if few else 4,
    }


def advice(domain: Domain) -> str:
    """What fits the domain as a target, in one line."""
    train = domain.train
    _, count_C = np.unique(train.cameras, return_counts=True)
    cameras = int((count_C >= FEWEST).sum())
    seen = f"{cameras} cameras, whose differences are taken away" if cameras > 1 else "one camera"
    if not domain.is_labelled:
        return (
            f"as a target: {seen}; nobody knows how many images an identity has, which decides clusters.k1 and "
            "clusters.pairs_per_image: docs/choosing.md"
        )
    _, count_M = np.unique(train.identities[train.identities > DISTRACTOR], return_counts=True)
    images = float(np.median(count_M))
    keys = " ".join(f"--set clusters.{key}={value}" for key, value in settings_for(images).items())
    return f"as a target: {images:g} images an identity (median), {seen}: {keys}"
