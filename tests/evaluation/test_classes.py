"""Accuracies of classes equal plain loops and scikit-learn, and do not depend on numbering or order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from rapids_slr.errors import InputError
from rapids_slr.evaluation import classes as module
from rapids_slr.evaluation import linear_classes, matched_accuracy, nearest_classes, out_of_fold
from tests.reference.classes import dealt_out, matched, nearest_class

labellings = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3)), min_size=1, max_size=14).map(np.array)
cases = st.builds(
    lambda seed, N, Q, M: (seed, N, Q, M),
    st.integers(0, 10**6),
    st.integers(2, 30),
    st.integers(1, 8),
    st.integers(2, 5),
)


def drawn(seed: int, N: int, Q: int, M: int, spread: float = 0.7):
    """Unit rows around a middle for each class; every class has an image."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((M, 6))
    class_N = np.concatenate([np.arange(min(M, N)), rng.integers(0, min(M, N), max(N - M, 0))])
    class_Q = rng.integers(0, min(M, N), Q)
    rows = [middles[classes] + spread * rng.standard_normal((len(classes), 6)) for classes in (class_N, class_Q)]
    features = [torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True)).float() for x in rows]
    return features[0], torch.from_numpy(class_N), features[1], torch.from_numpy(class_Q)


@given(cases, st.integers(1, 7))
def test_nearest_classes_equal_a_plain_loop(case, k):
    features, classes, asked, _ = drawn(*case)
    expected = [nearest_class(features.tolist(), classes.tolist(), row, min(k, len(classes))) for row in asked.tolist()]
    assert nearest_classes(features, classes, asked, k).tolist() == expected


def test_nearest_classes_equal_scikit_learn_where_votes_are_not_tied():
    features, classes, asked, _ = drawn(0, 400, 100, 5)
    theirs = KNeighborsClassifier(5).fit(features.numpy(), classes.numpy())
    votes = np.sort(theirs.predict_proba(asked.numpy()), axis=1)
    clear = votes[:, -1] > votes[:, -2]
    assert clear.sum() > 50
    found = nearest_classes(features, classes, asked).numpy()
    np.testing.assert_array_equal(found[clear], theirs.predict(asked.numpy())[clear])


@given(cases)
def test_linear_classes_equal_scikit_learn(case):
    features, classes, asked, _ = drawn(*case)
    theirs = RidgeClassifier(alpha=1.0).fit(features.double().numpy(), classes.numpy())
    scores = np.atleast_2d(theirs.decision_function(asked.double().numpy()).T).T
    if scores.shape[1] == 1:
        clear = np.abs(scores[:, 0]) > 1e-9
    else:
        highest = np.sort(scores, axis=1)
        clear = highest[:, -1] - highest[:, -2] > 1e-9
    found = linear_classes(features, classes, asked).numpy()
    np.testing.assert_array_equal(found[clear], theirs.predict(asked.double().numpy())[clear])


def test_blocks_do_not_change_what_is_found(monkeypatch):
    features, classes, asked, _ = drawn(3, 200, 50, 4)
    whole = [f(features, classes, asked) for f in (nearest_classes, linear_classes)]
    monkeypatch.setattr(module, "BLOCK", 500)
    for f, expected in zip((nearest_classes, linear_classes), whole, strict=True):
        assert torch.equal(f(features, classes, asked), expected)


@given(cases, st.permutations(range(5)))
def test_numbering_and_order_change_nothing(case, names):
    features, classes, asked, _ = drawn(*case)
    order = torch.from_numpy(np.random.default_rng(case[0]).permutation(len(classes)))
    renamed = torch.tensor(names)[classes]
    for classify in (nearest_classes, linear_classes):
        expected = torch.tensor(names)[classify(features, classes, asked)]
        assert torch.equal(classify(features[order], renamed[order], asked), expected)


@given(cases)
def test_out_of_fold_is_what_the_other_folds_tell(case):
    features, classes, _, _ = drawn(*case)
    fold = np.array(dealt_out(classes.tolist(), 5))
    found = out_of_fold(nearest_classes, features, classes)
    for i in range(len(classes)):
        kept = torch.from_numpy(fold != fold[i])
        if kept.any():
            assert found[i] == nearest_classes(features[kept], classes[kept], features[i : i + 1])[0]


@pytest.mark.parametrize("classify", [nearest_classes, linear_classes])
def test_separate_classes_are_told_and_chance_is_chance(classify):
    features, classes, asked, right = drawn(1, 300, 200, 4, spread=0.05)
    assert torch.equal(classify(features, classes, asked), right)
    shuffled = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))]
    assert (classify(features, shuffled, asked) == right).float().mean() < 0.5


@pytest.mark.parametrize("classify", [nearest_classes, linear_classes])
def test_what_cannot_be_used_is_named(classify):
    features, classes, asked, _ = drawn(0, 10, 3, 2)
    with pytest.raises(InputError, match=r"features: expected \(N, D\) and \(Q, D\), got \(10, 6\) and \(3, 5\)"):
        classify(features, classes, asked[:, :5])
    with pytest.raises(InputError, match=r"classes: expected a number from 0 .* got \(10,\) for 10, the lowest -1"):
        classify(features, classes - 1, asked)
    with pytest.raises(InputError, match=r"classes: .* got \(9,\) for 10"):
        classify(features, classes[:9], asked)
    with pytest.raises(InputError, match="features to be told a class: 1 of 3 rows are not finite"):
        classify(features, classes, asked.index_fill(0, torch.tensor([1]), torch.nan))


# Clusters matched to classes ------------------------------------------------------------------------------------------


@given(labellings)
@example(np.array([[-1, 0], [-1, 0]]))  # nothing but outliers
@example(np.array([[0, 0], [1, 0], [2, 0]]))  # more clusters than identities
@example(np.array([[0, 0], [0, 1], [0, 2]]))  # fewer
def test_matching_equals_trying_every_one(rows):
    labels, identities = rows.T
    assert matched_accuracy(labels, identities) == pytest.approx(matched(labels.tolist(), identities.tolist()))


@given(labellings, st.permutations(range(4)))
def test_matching_does_not_depend_on_numbering_or_order(rows, names):
    labels, identities = rows.T
    renamed = np.where(labels < 0, -1, np.array(names)[labels])
    assert matched_accuracy(renamed[::-1], identities[::-1]) == matched_accuracy(labels, identities)
    assert matched_accuracy(identities, identities) == 1
