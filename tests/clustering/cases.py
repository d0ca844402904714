"""Features to cluster."""

import numpy as np


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def groups(rng, N, identities, D=24, noise=0.9):
    """Unit rows around one random centre each identity, in random order."""
    centres = rng.normal(size=(identities, D))
    return unit(centres[rng.integers(0, identities, N)] + noise * rng.normal(size=(N, D)))


def families(rng):
    """Name -> features: random, clustered, duplicated and degenerate."""
    clustered = groups(rng, 120, 12)
    return {
        "random": unit(rng.normal(size=(100, 16))),
        "clustered": clustered,
        "tight": groups(rng, 120, 12, noise=0.05),
        "duplicated": clustered[rng.integers(0, 40, 120)],
        "a third is one image": np.concatenate([clustered[:80], np.repeat(clustered[:1], 40, axis=0)]),
        "constant": np.repeat(clustered[:1], 60, axis=0),
        "two images": np.repeat(clustered[:2], 30, axis=0),
        "opposite": unit(np.concatenate([np.ones((30, 8)), -np.ones((30, 8))]) + 0.01 * rng.normal(size=(60, 8))),
        "one dimension": unit(rng.choice([-1.0, 1.0], size=(50, 1))),
    }


def canonical(labels):
    """Labels numbered by first appearance, -1 kept."""
    numbers = {-1: -1}
    return [numbers.setdefault(int(label), len(numbers) - 1) for label in labels]


def without_close_calls(eps: float, *distances: np.ndarray, within: float = 1e-6) -> list[np.ndarray]:
    """Distances of the same pairs as several engines have them, where one that is about eps in any of them is far.

    Engines add up in another order, so that such a pair may be near to one of them and not to the other: it decides
    labels, and says nothing about who is right.
    """
    close = np.any([np.abs(each - np.float32(eps)) <= within for each in distances], axis=0)
    return [np.where(close, np.float32(2), each) for each in distances]
