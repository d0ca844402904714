"""Clusters that change with the radius lose images, as in SpCL; the threshold is the first epoch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from rapids_slr import JaccardDBSCAN
from rapids_slr.clustering.epoch import EpochDBSCAN
from rapids_slr.clustering.reliable import Reliability, agreement
from rapids_slr.clustering.sections import DBSCANSpec, ReliableSpec
from tests.clustering.cases import groups
from tests.reference import reliable as plain

N = 14
clusterings = st.lists(st.integers(-1, 4), min_size=N, max_size=N)


def without_gaps(labels: list[int]) -> list[int]:
    numbers = {label: number for number, label in enumerate(sorted(set(labels) - {-1}))}
    return [numbers.get(label, -1) for label in labels]


def pairs(labels: list[int]) -> list[int]:
    """Without clusters of one image, which DBSCAN does not give."""
    return without_gaps([label if labels.count(label) > 1 else -1 for label in labels])


@given(clusterings, clusterings)
def test_agreement_is_the_iou_of_an_images_clusters(labels, other):
    found = agreement(torch.tensor(labels), torch.tensor(other))
    assert found.tolist() == pytest.approx((1 - plain.changed(labels, other)).tolist())


@given(*[clusterings.map(pairs)] * 6, st.sampled_from([0.5, 0.9, 1.0]))
def test_what_is_reliable_is_what_spcl_finds_so(labels, tight, loose, labels_2, tight_2, loose_2, share):
    assume(max(labels) >= 0 and max(labels_2) >= 0)
    reliability = Reliability(ReliableSpec(independent=share))
    expected, threshold = plain.reliable(labels, tight, loose, share=share)
    found = reliability.select(*map(torch.tensor, (labels, tight, loose)))
    assert found.tolist() == without_gaps(expected)
    assert reliability.threshold == pytest.approx(1 - threshold)
    expected, _ = plain.reliable(labels_2, tight_2, loose_2, threshold)
    found = reliability.select(*map(torch.tensor, (labels_2, tight_2, loose_2)))
    assert found.tolist() == without_gaps(expected)


def test_without_clusters_nothing_is_left_out_and_no_threshold_set():
    reliability, labels = Reliability(ReliableSpec()), torch.full((4,), -1)
    assert reliability.select(labels, labels, labels).tolist() == [-1] * 4
    assert reliability.threshold is None


def test_an_epoch_is_asked_at_both_radii_and_remembers_its_threshold():
    x_ND = torch.from_numpy(groups(np.random.default_rng(1), 120, 12).astype(np.float32))
    spec = DBSCANSpec(k1=8, k2=3, pairs_per_image=3, min_share=0, cameras="ignore", reliable=ReliableSpec(gap=0.2))
    clusterer = EpochDBSCAN(spec)
    found = clusterer.fit_predict(x_ND).labels_N
    model = JaccardDBSCAN(k1=8, k2=3, pairs_per_image=3, cameras="ignore").fit(x_ND)
    tight, loose = (model.labels_at(eps=model.eps_ * factor).tolist() for factor in (0.8, 1.2))
    expected, threshold = plain.reliable(model.labels_.tolist(), tight, loose)
    assert found.tolist() == without_gaps(expected)
    assert (found < 0).sum() > (model.labels_ < 0).sum()
    assert adjusted_rand_score(found[found >= 0], model.labels_[found >= 0]) == 1
    state = clusterer.state_dict()
    assert state == {"threshold": pytest.approx(1 - threshold)}
    other = EpochDBSCAN(spec)
    other.load_state_dict(state)
    assert other.state_dict() == state
    plainly = EpochDBSCAN(spec.model_copy(update={"reliable": None}))
    assert torch.equal(plainly.fit_predict(x_ND).labels_N, model.labels_)
    assert plainly.state_dict() == {}
