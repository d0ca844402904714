"""What trains in an epoch, numbered alike."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional as F

from rapids_slr import SLR
from rapids_slr.errors import InputError
from tests.clustering.cases import unit

RNG = np.random.default_rng(41)
FEATURES = unit(RNG.normal(size=(300, 8)))


def two_epochs(seed, clusters=12):
    """Labels of which most stay, some move and some are outliers."""
    rng = np.random.default_rng(seed)
    before = rng.integers(-1, clusters, 300)
    now = np.where(rng.random(300) < 0.7, before, rng.integers(-1, clusters, 300))
    return before, np.where(now >= 0, (now + 5) % clusters, -1)


def refined(settings, seed=0, epochs=2):
    slr, (before, now) = SLR(**settings), two_epochs(seed)
    if epochs == 2:
        slr.update(before)
    return slr.update(now), now


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hard": "none"},
        {"hard": "argmax"},
        {"hard": "dbscan", "noise": "argmax"},
        {"alpha": 0.3, "hard": "none", "min_confidence": 0.4},
        {"alpha": 0.2, "noise": "argmax"},
    ],
)
def test_labels_rows_and_centroids_are_numbered_alike(settings, seed, epochs):
    found, _ = refined({"min_cluster_size": 5} | settings, seed, epochs)
    kept = found.filtered(FEATURES)
    hard = found.hard
    assert_array_equal(kept.images, np.flatnonzero(hard >= 0))
    C = int(kept.hard.max()) + 1
    assert_array_equal(np.unique(kept.hard), np.arange(C))
    pairs = set(zip(kept.hard.tolist(), hard[kept.images].tolist(), strict=True))
    assert len(pairs) == C == len(np.unique(hard[hard >= 0]))
    dense = kept.rows.to_dense()
    assert dense.shape == (len(kept.rows.counts), C)
    assert_allclose(dense.sum(axis=1), 1, atol=1e-6)
    assert_array_equal(np.bincount(kept.rows.row_of_image, minlength=len(dense)), kept.rows.counts)
    for c in range(C):
        mean = FEATURES[kept.images[kept.hard == c]].astype(float).mean(axis=0)
        assert_allclose(kept.centroids[c], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize("settings", [{"hard": "none"}, {"hard": "argmax"}])
def test_classes_that_are_clusters_keep_their_weights(settings):
    found, now = refined({"outliers": "drop"} | settings)
    kept, soft = found.filtered(), found.soft.toarray()
    cluster_of = {c: now[kept.images[kept.hard == c]] for c in range(kept.hard.max() + 1)}
    clusters = [np.bincount(members).argmax() for members in cluster_of.values()]
    dense = kept.rows.to_dense()[kept.rows.row_of_image]
    assert_allclose(dense, soft[kept.images][:, clusters], atol=1e-6)
    assert_array_equal(dense.argmax(axis=1), kept.hard)


def test_a_merged_cluster_takes_the_weight_of_both():
    slr = SLR(hard="hdbscan", min_cluster_size=3)
    before, now = np.repeat([0, 1], 10), np.repeat([0, 1], 10)
    slr.update(before)
    found = slr.update(now)
    assert found.filtered().rows.to_dense().sum() == len(found.filtered().rows.counts)
    merged = SLR(hard="hdbscan", min_cluster_size=3, merge_distance=5.0)
    merged.update(before)
    kept = merged.update(now).filtered()
    if kept.hard.max() == 0:
        assert_array_equal(kept.rows.to_dense(), np.ones((len(kept.rows.counts), 1)))


def test_torch_losses_take_them_as_they_are():
    slr = SLR(min_cluster_size=5)
    for labels in two_epochs(1):
        found = slr.update(torch.from_numpy(labels))
    kept = found.filtered(torch.from_numpy(FEATURES))
    assert (found.hard.dtype, kept.hard.dtype, kept.images.dtype) == (torch.int64,) * 3
    features = torch.from_numpy(FEATURES)[kept.images]
    logits = features @ kept.centroids.T / 0.05
    rows = kept.rows.to_dense()[kept.rows.row_of_image]
    for targets in (kept.hard, rows):
        assert torch.isfinite(F.cross_entropy(logits, targets))
    assert F.one_hot(kept.hard).shape == logits.shape
    assert torch.isfinite(F.nll_loss(F.log_softmax(logits, dim=1), kept.hard))


def test_nothing_that_trains_and_features_of_others():
    found = SLR().update(np.full(9, -1))
    kept = found.filtered(FEATURES[:9])
    assert kept.hard.size == kept.images.size == 0
    assert kept.rows.to_dense().shape == (0, 0)
    assert kept.centroids.shape == (0, 8)
    with pytest.raises(InputError, match="8 rows, but there are labels of 9 images"):
        found.filtered(FEATURES[:8])
