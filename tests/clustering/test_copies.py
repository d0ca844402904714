"""Copies: one image with a count, whatever the order of the files."""

import logging

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from rapids_slr.clustering import JaccardDBSCAN, copies
from rapids_slr.clustering.copies import equal_up_to_rounding, find_copies, keep, labels_of_all, search_kept
from rapids_slr.clustering.jaccard import jaccard_graph
from rapids_slr.clustering.neighbours import nearest_neighbours
from tests.clustering.cases import families, groups, unit
from tests.reference import jaccard as reference

FAMILIES = families(np.random.default_rng(11))


def pictures(rng, copied, others=200):
    """Four pictures, each as often as `copied` says, among others, in random order; and which picture an image is."""
    distinct = groups(rng, 4 + others, 20)
    picture = np.concatenate([np.repeat(np.arange(4), copied), np.arange(4, 4 + others)])
    picture = picture[rng.permutation(len(picture))]
    return distinct, picture


@pytest.mark.parametrize("copied", [2, 5, 16, 17, 60, 500])
@pytest.mark.parametrize("seed", range(3))
def test_copies_share_a_label_and_no_more_count_than_lists_hold(copied, seed):
    distinct, picture = pictures(np.random.default_rng(seed), copied)
    model = JaccardDBSCAN(k1=15).fit(distinct[picture])
    assert model.copies_ == 4 * (copied - 1)
    for one in range(4):
        assert len(set(model.labels_[picture == one])) == 1
    if copied >= 16:  # as many as a list holds
        assert (model.labels_[picture < 4] >= 0).all()
    # As if there were no further copies.
    kept = np.array([(picture[:i] == picture[i]).sum() < 16 for i in range(len(picture))])
    fewer = JaccardDBSCAN(k1=15).fit(distinct[picture[kept]])
    assert model.eps_ == fewer.eps_
    assert_array_equal(model.labels_[kept], fewer.labels_)
    graph, expected = model.graph_[kept][:, kept], fewer.graph_
    assert graph.nnz == expected.nnz
    assert_array_equal(graph.toarray(), expected.toarray())
    plain = jaccard_graph(distinct[picture[kept]], nearest_neighbours(distinct[picture[kept]], 16), 15, 6)
    assert_array_equal(expected.data, plain.distances)


@pytest.mark.parametrize("noise", [0, 5e-4])
@pytest.mark.parametrize("k1", [15, 30])
def test_identities_that_are_copies_stay_apart(k1, noise):
    """Perfect features: every identity is one point, or nearly."""
    rng = np.random.default_rng(12)
    features = np.repeat(rng.normal(size=(60, 64)), 20, axis=0) + noise * rng.normal(size=(1200, 64))
    labels = JaccardDBSCAN(k1=k1, pairs_per_image=8).fit_predict(unit(features))
    assert labels.max() + 1 == 60
    assert (labels.reshape(60, 20) == labels[::20, None]).all()


def test_the_order_of_files_does_not_matter():
    distinct, picture = pictures(np.random.default_rng(4), 60)
    labels = JaccardDBSCAN(k1=15).fit_predict(distinct[picture])
    order = np.random.default_rng(5).permutation(len(picture))
    shuffled = JaccardDBSCAN(k1=15).fit_predict(distinct[picture][order])
    assert_array_equal(labels[order] < 0, shuffled < 0)
    assert len(set(zip(labels[order], shuffled, strict=True))) == len(set(labels))


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_are_found_as_by_looking_at_every_pair(family):
    features = FAMILIES[family] * np.float32(1)
    expected = reference.leaders(features)
    found = find_copies(features)
    if len(set(expected)) == len(features):
        assert found is None
        return
    assert_array_equal(found, expected)
    for most in (1, 3, 1000):
        copies = keep(found, most)
        kept, of = reference.kept_and_standing(features, most)
        assert_array_equal(copies.kept_U, kept)
        assert_array_equal(copies.of_N, of)
        assert_array_equal(copies.count_U, np.bincount(of))


def test_zero_and_minus_zero_are_equal_and_a_collision_parts_rows(monkeypatch):
    features = np.array([[1, 0.0], [1, -0.0], [0, 1], [-1, 0]], np.float32)
    assert_array_equal(find_copies(features), [0, 0, 2, 3])
    monkeypatch.setattr(copies, "_hashes", lambda features_ND: np.zeros(len(features_ND), np.uint64))
    assert_array_equal(find_copies(features), [0, 0, 2, 3])


def test_copies_have_the_lowest_label_of_one_of_them_and_no_gap_is_left():
    of = keep(np.array([0, 1, 0, 3, 1, 5, 6, 6]), 5)
    assert_array_equal(labels_of_all(np.array([2, -1, 0, 1, -1, -1, 3, -1], np.int32), of), [0, -1, 0, 1, -1, -1, 2, 2])
    assert labels_of_all(np.full(8, -1, np.int32), of).tolist() == [-1] * 8


def test_copies_beyond_the_lists_that_differ_by_rounding_are_copies():
    rng = np.random.default_rng(6)
    distinct, picture = pictures(rng, 60)
    rounded = distinct[picture] * (1 + 1e-7 * rng.normal(size=(len(picture), 24)))
    model = JaccardDBSCAN(k1=15).fit(unit(rounded))
    assert model.copies_ == 4 * 59
    assert model._distances.N == 4 * 16 + 200
    for one in range(4):
        assert set(model.labels_[picture == one]) == {model.labels_[picture == one][0]} != {-1}


def test_a_chain_of_roundings_has_one_leader():
    angle = np.arange(5) * 8e-4  # neighbours are at 6.4e-7, below what counts; the next but one at 2.6e-6
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)[[3, 1, 4, 0, 2]]
    rows = np.concatenate([features, [[-1, 0], [0, -1]]]).astype(np.float32)
    leader = equal_up_to_rounding(nearest_neighbours(rows, 4))
    assert_array_equal(leader[5:], [5, 6])
    assert (leader[leader] == leader).all()
    assert len(set(leader[:5])) < 3


def test_data_without_copies_is_clustered_as_it_is():
    features = groups(np.random.default_rng(7), 150, 10)
    same, neighbours, found = search_kept(features, 16, 16)
    assert same is features
    assert found is None
    for ours, plain in zip(vars(neighbours).values(), vars(nearest_neighbours(features, 16)).values(), strict=True):
        assert_array_equal(ours, plain)


@pytest.mark.parametrize("noise", [0, 1e-5])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_collapsed_features_are_called_that(noise, convert, caplog):
    rng = np.random.default_rng(8)
    features = unit(np.ones((3000, 32)) + noise * rng.normal(size=(3000, 32)))
    model = JaccardDBSCAN().fit(convert(features))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "of 3000 images no more than 1 are distinct" in record.getMessage()
    assert "they have collapsed" in record.getMessage()
    assert "look at the network that embedded them" in record.getMessage()
    assert set(model.labels_.tolist()) == {0}
    assert model.eps_ == 0
    assert model.copies_ == 2999


def test_a_few_pictures_alone_are_a_cluster_each():
    distinct, picture = pictures(np.random.default_rng(9), 60, others=0)
    model = JaccardDBSCAN().fit(distinct[picture])
    assert len(set(model.labels_)) == 4
    assert len(set(zip(picture, model.labels_, strict=True))) == 4
    assert model.graph_.nnz == 4 * 60 * 59
    assert set(JaccardDBSCAN(min_samples=61).fit_predict(distinct[picture])) == {-1}
    assert_array_equal(model.labels_at(rho=0.1), model.labels_)


def test_copies_with_a_source_term():
    distinct, picture = pictures(np.random.default_rng(10), 30, others=60)
    source = groups(np.random.default_rng(11), 20, 4)
    settings = {"k1": 10, "eps": 0.4, "source_weight": 0.1}
    model = JaccardDBSCAN(**settings).fit(distinct[picture], source=source)
    kept = np.array([(picture[:i] == picture[i]).sum() < 11 for i in range(len(picture))])
    expected = JaccardDBSCAN(**settings).fit(distinct[picture[kept]], source=source).graph_
    assert abs(model.graph_[kept][:, kept] - expected).max() == 0
