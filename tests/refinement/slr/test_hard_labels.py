"""The place of noise, image by image; what surrounds cuML's HDBSCAN."""

import types

import numpy as np
import pytest

from rapids_slr.errors import InputError
from rapids_slr.refinement import SLR
from rapids_slr.refinement.slr.hard_labels import by_argmax, place_noise
from rapids_slr.refinement.slr.overlap import overlap
from rapids_slr.refinement.slr.projection import project
from rapids_slr.refinement.slr.soft_labels import soft_labels
from tests.refinement.slr.cases import label_pair


def heirs_by_hand(raw_N, label_N):
    """Of each raw cluster: the refined one with most of its images, then the largest, unless two are equal in both."""
    L, found = label_N.max(initial=-1) + 1, []
    for k in range(raw_N.max(initial=-1) + 1):
        ranks = sorted(
            (((raw_N == k) & (label_N == label)).sum(), (label_N == label).sum(), label) for label in range(L)
        )
        ranks = [rank for rank in ranks if rank[0]]
        alone = len(ranks) == 1 or (len(ranks) > 1 and ranks[-1][:2] != ranks[-2][:2])
        found.append(int(ranks[-1][2]) if alone else L + k)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_noise_joins_the_heir_of_its_raw_cluster(seed):
    rng = np.random.default_rng(seed)
    before_N, now_N = label_pair(rng, int(rng.integers(5, 60)), int(rng.integers(2, 7)), 0.5, 0.3)
    shared = overlap(before_N, now_N)
    soft = soft_labels(shared, project(shared), 0.5, ["project", "drop"][seed % 2])
    label_Q = rng.integers(-1, rng.integers(1, 6), shared.count_Q.size).astype(np.int32)
    label_Q[soft.row_Q < 0] = -1
    label_N, row_N = label_Q[shared.pair_N], soft.row_Q[shared.pair_N]
    likely_N = by_argmax(shared, soft)[shared.pair_N]
    heir_K = heirs_by_hand(now_N, label_N)
    expected = label_N.copy()
    for i in np.flatnonzero((label_N < 0) & (row_N >= 0)):
        raw = now_N[i] if now_N[i] >= 0 else likely_N[i]
        expected[i] = heir_K[raw] if raw >= 0 else -1
    found = place_noise(label_Q, shared, soft)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[shared.pair_N], expected)


def test_cuml_labels_every_image_that_has_a_soft_label(monkeypatch):
    """What surrounds cuML, with scikit-learn in its place: no GPU here."""
    from sklearn.cluster import HDBSCAN

    from rapids_slr.refinement.slr import hard_labels

    given = []

    def hdbscan(x_ND, min_cluster_size, min_samples, merge_distance):
        given.append(x_ND)
        return HDBSCAN(min_cluster_size, min_samples=min_samples + 1, copy=True).fit_predict(x_ND).astype(np.int32)

    on_gpu = types.SimpleNamespace(**{name: getattr(np, name) for name in hard_labels.np.__all__})
    monkeypatch.setattr(hard_labels, "hdbscan_cuml", hdbscan)
    monkeypatch.setattr(hard_labels, "array_module", lambda _: on_gpu)
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(6), 12)
    before, now = (np.where(rng.random(72) < 0.1, -1, identities) for _ in range(2))
    slr = SLR(hard="cuml")
    slr.update(before)
    refined = slr.update(now)
    kept = (before >= 0) | (now >= 0)
    np.testing.assert_allclose(given[0], refined.soft.toarray()[kept], atol=1e-7)
    assert (refined.hard[~kept] == -1).all()
    assert refined.hard.max() == 5
    assert list(dict.fromkeys(refined.hard[refined.hard >= 0])) == list(range(6))


def test_cuml_without_a_gpu_says_what_to_take():
    slr = SLR(hard="cuml")
    slr.update(np.zeros(9, np.int32))
    with pytest.raises(InputError, match="needs labels on a GPU; hard='hdbscan'"):
        slr.update(np.zeros(9, np.int32))
    with pytest.raises(InputError, match="noise='argmax' places pairs"):
        SLR(hard="cuml", noise="argmax").update(np.zeros(9, np.int32))
