"""Rivals of SLR: their formulas, laws that all of them keep, what they do to planted errors, bad input."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix

from rapids_slr import JaccardDBSCAN
from rapids_slr.errors import InputError
from rapids_slr.evaluation import label_quality
from rapids_slr.refinement.rivals import Confident, Ensembling, Propagation, Prototypes
from rapids_slr.refinement.rivals.confident import mislabelled, probabilities
from rapids_slr.refinement.rivals.ensembling import co_association
from rapids_slr.refinement.rivals.propagation import similarities, spread
from rapids_slr.refinement.rivals.prototypes import clean_posterior, prototype_distances
from rapids_slr.refinement.sections import ConfidentSpec
from tests.reference import rivals as reference
from tests.refinement.slr.cases import canonical

WAYS: dict[str, Any] = {
    "confident": Confident(),
    "confident, moved": Confident(mislabelled="move"),
    "prototypes": Prototypes(),
    "prototypes, all kept": Prototypes(clean=0.0),
    "propagation": Propagation(),
    "propagation, sure": Propagation(min_confidence=0.6),
    "propagation, soft": Propagation(targets="soft"),
    "ensembling": Ensembling(),
    "ensembling, soft": Ensembling(window=3, majority=0.0, targets="soft"),
}


every_way = pytest.mark.parametrize("way", WAYS)


def groups(rng, N, K, noise=0.5, D=8):
    """Unit rows about K centres, and which centre each is of."""
    truth_N = rng.integers(0, K, N)
    x_ND = rng.normal(size=(K, D))[truth_N] + noise * rng.normal(size=(N, D))
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32), truth_N


def spoilt(rng, truth_N, wrong, outliers=0.0):
    label_N = truth_N.copy()
    moved_N = rng.random(len(truth_N)) < wrong
    label_N[moved_N] = rng.integers(0, truth_N.max() + 1, moved_N.sum())
    label_N[rng.random(len(truth_N)) < outliers] = -1
    return label_N


def graph_of(x_ND):
    N = len(x_ND)
    k1 = min(8, N - 1)
    return JaccardDBSCAN(k1=k1, k2=min(3, k1), pairs_per_image=2).fit(x_ND).graph_


def refine(refiner, epochs, x_ND, order=None, convert=np.asarray):
    """The last epoch of labels, refined by a new refiner with these settings that has seen all of them."""
    fresh = type(refiner)(**refiner.get_params())
    order = np.arange(len(x_ND)) if order is None else order
    needed = {}
    if isinstance(refiner, Confident | Prototypes):
        needed["features"] = convert(x_ND[order])
    if isinstance(refiner, Propagation):
        needed["graph"] = graph_of(x_ND)[order][:, order]
    for labels in epochs:
        refined = fresh.update(convert(np.asarray(labels)[order]), **needed)
    return refined


# Formulas -------------------------------------------------------------------------------------------------------------


def labelled_groups(seed):
    """Every class has images."""
    rng = np.random.default_rng(seed)
    K, N = int(rng.integers(2, 7)), int(rng.integers(30, 80))
    x_ND, truth_N = groups(rng, N, K, 0.6)
    label_N = spoilt(rng, truth_N, 0.25)
    label_N[:K] = range(K)
    return x_ND, label_N


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [3, 10, 500])
def test_neighbours_vote_by_similarity(seed, k):
    x_ND, label_N = labelled_groups(seed)
    found = probabilities(x_ND, label_N, label_N.max() + 1, k)
    assert_allclose(found, reference.votes(x_ND.astype(float), label_N, k), atol=1e-6)
    assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("seed", range(12))
def test_the_mislabelled_are_those_of_confident_learning(seed):
    """An expected number of images between two whole ones may be rounded either way."""
    rng = np.random.default_rng(seed)
    x_ND, truth_N = groups(rng, 120, 4, 0.4)
    label_N = spoilt(rng, truth_N, 0.2)
    odds_NK = probabilities(x_ND, label_N, 4, 10)
    found_N = mislabelled(label_N, odds_NK)
    fewest_N, most_N = (reference.mislabelled(label_N, odds_NK, rounded) for rounded in (math.floor, math.ceil))
    assert fewest_N.sum() > 5
    assert found_N[fewest_N].all()
    assert most_N[found_N].all()


@pytest.mark.parametrize("seed", range(6))
def test_distances_from_prototypes_and_their_mixture(seed):
    x_ND, label_N = labelled_groups(seed)
    found = prototype_distances(x_ND, 3 * label_N)  # numbers may have gaps
    assert_allclose(found, reference.prototype_distances(x_ND.astype(float), label_N), atol=1e-6)
    assert_allclose(clean_posterior(found), reference.clean_posterior(found, 400), atol=2e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_labels_spread_to_the_limit(seed, alpha):
    rng = np.random.default_rng(seed)
    x_ND, truth_N = groups(rng, 40, 4)
    label_N = spoilt(rng, truth_N, 0.2, 0.4)
    graph = graph_of(x_ND)
    dense_NN = np.ones((40, 40))
    pairs = graph.tocoo()
    dense_NN[pairs.row, pairs.col] = pairs.data  # a stored 0 is a distance
    expected = reference.spread(dense_NN, label_N, alpha)
    assert_allclose(spread(similarities(graph, 40), label_N, alpha).toarray(), expected, atol=1e-5)


@settings(max_examples=40)
@given(st.data())
def test_co_association_is_that_of_all_pairs(data):
    N = data.draw(st.integers(1, 9))
    labels = st.lists(st.integers(-1, 3), min_size=N, max_size=N)
    epochs = [np.array(data.draw(labels), np.int32) for _ in range(data.draw(st.integers(1, 4)))]
    assert_allclose(co_association(epochs).toarray(), reference.co_association(epochs), atol=1e-12)


def test_the_window_and_the_majority_of_ensembling():
    rng = np.random.default_rng(0)
    epochs = [spoilt(rng, np.repeat(np.arange(4), 10), 0.3, 0.1) for _ in range(6)]
    for window, majority in ((1, 0.0), (3, 0.4), (10, 0.5)):
        share_NK = reference.co_association(epochs[-window:])
        best_N = share_NK.max(axis=1)
        refined = refine(Ensembling(window=window, majority=majority), epochs, np.eye(40))
        kept_N = (best_N > 0) & (best_N >= majority)
        assert_array_equal(refined.hard >= 0, kept_N)
        chosen_N = np.array([share_NK[i, canonical_of(refined.hard, epochs[-1], i)] for i in np.flatnonzero(kept_N)])
        assert_allclose(chosen_N, best_N[kept_N])
        assert_allclose(refined.confidence[kept_N], best_N[kept_N], rtol=1e-6)


def canonical_of(hard_N, now_N, image):
    """The cluster of this epoch that most images of a refined label are in."""
    members = now_N[(hard_N == hard_N[image]) & (now_N >= 0)]
    return np.bincount(members).argmax()


# Laws -----------------------------------------------------------------------------------------------------------------


def some_epochs(rng, N, K):
    x_ND, truth_N = groups(rng, N, K)
    return x_ND, [spoilt(rng, truth_N, 0.2, 0.2) for _ in range(3)]


@every_way
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), N=st.integers(12, 60), K=st.integers(1, 6))
def test_neither_the_order_of_images_nor_the_numbers_of_clusters_matter(way, seed, N, K):
    rng = np.random.default_rng(seed)
    x_ND, epochs = some_epochs(rng, N, K)
    order = rng.permutation(N)
    renumbered = [np.append(rng.permutation(K), -1)[labels] for labels in epochs]
    one = refine(WAYS[way], epochs, x_ND)
    other = refine(WAYS[way], renumbered, x_ND, order)
    assert canonical(one.hard[order]) == canonical(other.hard)
    assert_allclose(one.confidence[order], other.confidence, atol=1e-5)
    assert one.rescued == other.rescued


@every_way
@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), N=st.integers(2, 30), K=st.integers(1, 5))
def test_labels_are_numbered_and_as_sure_as_they_say(way, seed, N, K):
    rng = np.random.default_rng(seed)
    x_ND, epochs = some_epochs(rng, N, K)
    refined = refine(WAYS[way], epochs, x_ND)
    left_out = refined.hard < 0
    assert refined.hard.dtype == np.int32
    assert refined.confidence.dtype == np.float32
    assert (refined.confidence[left_out] == 0).all()
    assert ((refined.confidence[~left_out] > 0) & (refined.confidence <= 1)[~left_out]).all()
    assert refined.rescued == ((epochs[-1] < 0) & ~left_out).sum()
    if "soft" in way:
        dense = refined.rows.to_dense()
        assert_allclose(dense.sum(axis=1), 1, rtol=1e-5)
        assert_array_equal(refined.rows.row_of_image >= 0, ~left_out)
        if left_out.all():
            return
        own = dense[refined.rows.row_of_image[~left_out], refined.hard[~left_out]]
        assert_allclose(own, dense[refined.rows.row_of_image[~left_out]].max(axis=1), rtol=1e-6)
    else:
        assert refined.hard.tolist() == canonical(refined.hard)
        with pytest.raises(TypeError, match="no soft rows"):
            _ = refined.rows


@every_way
@pytest.mark.parametrize("labels", [[-1] * 12, [0] * 12, [5] * 12, [-1] * 11 + [0], [0, 1] + [-1] * 10], ids=str)
def test_of_few_clusters_nothing_is_made_up(way, labels):
    x_ND, _ = groups(np.random.default_rng(3), 12, 2)
    refined = refine(WAYS[way], [labels, labels], x_ND)
    if max(labels) < 0:
        assert (refined.hard == -1).all()
    else:
        numbers = set(refined.hard[refined.hard >= 0])
        assert numbers <= set(labels) if "soft" in way else numbers == set(range(len(numbers)))
    if way in ("confident", "prototypes, all kept", "ensembling") and len(set(labels)) == 1:
        assert canonical(refined.hard) == canonical(labels)


@every_way
def test_torch_gets_torch(way):
    rng = np.random.default_rng(1)
    x_ND, epochs = some_epochs(rng, 40, 4)
    one = refine(WAYS[way], epochs, x_ND)
    other = refine(WAYS[way], epochs, x_ND, convert=torch.as_tensor)
    assert (other.hard.dtype, other.confidence.dtype) == (torch.int64, torch.float32)
    assert_array_equal(one.hard, other.hard)
    assert_array_equal(one.confidence, other.confidence)
    if "soft" in way:
        assert other.rows.matrix.layout == torch.sparse_csr
        assert other.rows.row_of_image.dtype == torch.int64
        assert_array_equal(one.rows.to_dense(), other.rows.to_dense())


def test_a_graph_of_torch_is_taken():
    x_ND, (*_, labels) = some_epochs(np.random.default_rng(5), 40, 4)
    graph = JaccardDBSCAN(k1=8, k2=3, pairs_per_image=2).fit(torch.from_numpy(x_ND)).graph_
    assert_array_equal(
        Propagation().update(torch.from_numpy(labels), graph=graph).hard,
        Propagation().update(labels, graph=graph_of(x_ND)).hard,
    )


def test_what_is_returned_is_nobodys_memory():
    labels = np.array([0, 0, 1, 1, -1])
    refiner = Ensembling()
    refiner.update(labels).hard[:] = 0
    labels[:] = 0
    assert refiner.state_dict()["past"].tolist() == [[0, 0, 1, 1, -1]]


# What they are for ----------------------------------------------------------------------------------------------------


def test_planted_errors_are_found():
    """An error is left out far more often than a right label, or put right."""
    rng = np.random.default_rng(7)
    x_ND, truth_N = groups(rng, 400, 20, 0.3, D=16)
    label_N = spoilt(rng, truth_N, 0.15, 0.1)
    wrong_N, outlier_N = (label_N >= 0) & (label_N != truth_N), label_N < 0
    right_N = label_N == truth_N
    for refiner in (Confident(), Prototypes()):
        refined = refine(refiner, [label_N], x_ND)
        assert (refined.hard[wrong_N] < 0).mean() > 0.9
        assert (refined.hard[right_N] < 0).mean() < 0.1
    moved = refine(Confident(mislabelled="move"), [label_N], x_ND).hard
    assert len(set(zip(moved[~outlier_N].tolist(), truth_N[~outlier_N].tolist(), strict=True))) == 20
    graph = JaccardDBSCAN(k1=15, pairs_per_image=8).fit(x_ND).graph_
    put = Propagation().update(label_N, graph=graph)
    assert put.rescued == outlier_N.sum()
    assert len(set(zip(put.hard.tolist(), truth_N.tolist(), strict=True))) == 20


@pytest.mark.parametrize("seed", range(6))
def test_errors_of_single_epochs_are_outvoted(seed):
    rng = np.random.default_rng(seed)
    truth_N = np.repeat(np.arange(10), 12)
    epochs = [spoilt(rng, truth_N, 0.2, 0.1) for _ in range(5)]
    refined = refine(Ensembling(majority=0.0), epochs, np.eye(120))
    raw, ari = (label_quality(labels, truth_N + 1)["ari"] for labels in (epochs[-1], refined.hard))
    assert ari > raw + 0.15


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3])
def test_ensembling_goes_on_from_its_state(window):
    rng = np.random.default_rng(2)
    epochs = [torch.as_tensor(spoilt(rng, np.repeat(np.arange(5), 8), 0.3, 0.2)) for _ in range(6)]
    whole, parts = Ensembling(window=window), Ensembling(window=window)
    for labels in epochs:
        expected = whole.update(labels)
        found = parts.update(labels)
        state = parts.state_dict()
        parts = Ensembling(window=window)
        parts.load_state_dict(state)
        assert torch.equal(expected.hard, found.hard)
        assert torch.equal(expected.confidence, found.confidence)
    kept = whole.state_dict()["past"]
    assert (0 if kept is None else len(kept)) == window - 1


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refiner", [Confident(), Prototypes()], ids=repr)
def test_features_of_other_images_are_refused(refiner):
    with pytest.raises(InputError, match="features: 5 rows, but there are labels of 4 images"):
        refiner.update([0, 0, 1, 1], features=np.eye(5))


def test_a_graph_of_other_images_is_refused():
    with pytest.raises(InputError, match=r"graph: \(3, 3\), but there are labels of 4 images"):
        Propagation().update([0, 0, 1, 1], graph=csr_matrix((3, 3)))


def test_other_images_than_before_are_refused_and_the_memory_stays():
    refiner = Ensembling()
    refiner.update([0, 0, 1])
    with pytest.raises(InputError, match="4 images, but the last epoch had 3"):
        refiner.update([0, 0, 1, 1])
    assert refiner.state_dict()["past"].tolist() == [[0, 0, 1]]
    with pytest.raises(InputError, match=r"state: expected the key 'past', got \['previous'\]"):
        refiner.load_state_dict({"previous": None})


@pytest.mark.parametrize(
    ("refiner", "message"),
    [
        (Confident(votes=0), "votes must be a whole number of at least 1, got 0"),
        (Prototypes(clean=2), r"clean must lie in \[0, 1\], got 2"),
        (Propagation(neighbours_weight=1), r"neighbours_weight must lie in \[0, 1\), got 1"),
        (Ensembling(targets="both"), "targets must be one of hard, soft; got 'both'"),
    ],
    ids=repr,
)
def test_settings_are_named(refiner, message):
    with pytest.raises(InputError, match=message):
        refine_all(refiner)


def refine_all(refiner):
    needed = {"features": np.eye(4)} if isinstance(refiner, Confident | Prototypes) else {}
    needed |= {"graph": csr_matrix((4, 4))} if isinstance(refiner, Propagation) else {}
    refiner.update([0, 0, 1, 1], **needed)


def test_without_cleanlab_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(
        InputError, match=r"needs cleanlab, which is not installed .*; pip install 'rapids-slr\[rivals\]'"
    ):
        Confident().update([0, 0, 1, 1], features=np.eye(4))
    with pytest.raises(InputError, match="needs cleanlab"):  # before anything is trained
        ConfidentSpec().build()
