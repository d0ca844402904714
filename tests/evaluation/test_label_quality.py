"""Label quality equals counting pairs and probabilities by hand, and is defined for every labelling."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from rapids_slr.errors import InputError
from rapids_slr.evaluation import agreement, label_quality, pair_errors, rightly_placed

labellings = st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 3)), min_size=1, max_size=25).map(np.array)


def ari_by_pairs(first: list, second: list) -> float:
    """Pairs that both keep together, against what chance would give."""
    pairs = list(itertools.combinations(range(len(first)), 2))
    together = [(first[i] == first[j], second[i] == second[j]) for i, j in pairs]
    both, a, b = (
        (sum(x) for x in ([x and y for x, y in together], *zip(*together, strict=True))) if pairs else (0, 0, 0)
    )
    chance, most = a * b / max(len(pairs), 1), (a + b) / 2
    return 1.0 if chance == most else (both - chance) / (most - chance)


def nmi_by_shares(first: list, second: list) -> float:
    n = len(first)
    p, q, r = ({k: c / n for k, c in Counter(x).items()} for x in (first, second, zip(first, second, strict=True)))
    entropy = -sum(s * math.log(s) for s in [*p.values(), *q.values()]) / 2
    return sum(s * math.log(s / p[a] / q[b]) for (a, b), s in r.items()) / entropy if entropy else 1.0


def alone(labels: np.ndarray) -> list:
    return [int(label) if label >= 0 else f"outlier {i}" for i, label in enumerate(labels)]


@given(labellings)
@example(np.array([[-1, 0], [-1, 0], [-1, 1]]))  # nothing but outliers
@example(np.array([[0, 0], [0, 1], [0, 1]]))  # one cluster
@example(np.array([[0, 0], [0, 0]]))  # one cluster, one identity
@example(np.array([[0, 0], [1, 1], [2, 2]]))  # all alone in both
def test_quality_equals_counting_by_hand(rows):
    labels, identities = rows.T
    quality = label_quality(labels, identities)
    own, people = alone(labels), identities.tolist()
    assert quality["ari"] == pytest.approx(ari_by_pairs(own, people), abs=1e-12)
    assert quality["nmi"] == pytest.approx(nmi_by_shares(own, people), abs=1e-12)
    kept = labels >= 0
    if kept.any():
        own, people = labels[kept].tolist(), identities[kept].tolist()
        assert quality["ari_labelled"] == pytest.approx(ari_by_pairs(own, people), abs=1e-12)
        assert quality["nmi_labelled"] == pytest.approx(nmi_by_shares(own, people), abs=1e-12)
        largest = sum(max(Counter(identities[labels == c]).values()) for c in set(own))
        assert quality["purity"] == pytest.approx(largest / kept.sum())
    else:
        assert (quality["ari_labelled"], quality["nmi_labelled"], quality["purity"]) == (0, 0, 0)
    assert quality["clusters"] == len(set(labels[kept].tolist()))
    assert quality["outliers"] == (~kept).sum()
    assert quality["identities"] == len(set(identities.tolist()))


@given(labellings, st.permutations(range(5)))
def test_quality_does_not_depend_on_numbering_or_order(rows, names):
    labels, identities = rows.T
    renamed = np.where(labels < 0, -1, np.array(names)[labels])
    quality = label_quality(renamed[::-1], identities[::-1])
    expected = label_quality(labels, identities)
    assert_allclose([quality[key] for key in expected], list(expected.values()), atol=1e-12)


def test_quality_equals_scikit_learn_at_a_million_images():
    rng = np.random.default_rng(0)
    identities = rng.integers(0, 30_000, 1_000_000)
    labels = np.where(rng.random(len(identities)) < 0.3, rng.integers(0, 500, len(identities)), identities)
    quality = label_quality(labels.astype(np.int32), identities)
    assert quality["ari"] == pytest.approx(adjusted_rand_score(identities, labels), abs=1e-12)
    assert quality["nmi"] == pytest.approx(normalized_mutual_info_score(identities, labels), abs=1e-9)


def test_ari_is_the_nearest_number_to_the_fraction():
    """A column may be compared bit for bit: what is counted stays in integers, and one division rounds."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        first, second = rng.integers(0, 60, 100_000), rng.integers(0, 60, 100_000)
        second = np.where(rng.random(first.size) < 0.7, first, second)
        both, a, b = (
            sum(math.comb(images, 2) for images in Counter(groups).values())
            for groups in (zip(first.tolist(), second.tolist(), strict=True), first.tolist(), second.tolist())
        )
        chance = Fraction(a * b, math.comb(first.size, 2))
        assert agreement(first, second) == float((both - chance) / (Fraction(a + b, 2) - chance))


@given(labellings)
def test_agreement_is_symmetric_and_one_with_itself(rows):
    first, second = rows.T
    assert agreement(first, second) == pytest.approx(agreement(second, first), abs=1e-12)
    assert agreement(first, second) == pytest.approx(ari_by_pairs(alone(first), alone(second)), abs=1e-12)
    assert agreement(first, first) == 1.0


def test_labels_of_other_images_are_refused():
    with pytest.raises(InputError, match="labels and identities: expected labels of the same images, got 3 and 2"):
        label_quality([0, 1, 1], [0, 1])
    with pytest.raises(InputError, match="got 0 and 0"):
        agreement(np.empty(0, int), np.empty(0, int))
    with pytest.raises(InputError, match=r"second: expected \(N,\) integers, got \(2,\) float64"):
        agreement([0, 1], [0.0, 1.0])


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=20))
@example([(-1, 0, -1), (-1, 0, -1), (-1, 1, 0)])  # nothing but outliers
@example([(0, 0, 0), (0, 1, 0), (0, 1, 0)])  # one cluster, twice
@example([(0, 0, 1)])  # no pairs
def test_pair_errors_equal_counting_every_pair(rows):
    labels, identities, before = np.array(rows).T
    own, own_before = alone(labels), alone(before)
    pairs = list(itertools.combinations(range(len(rows)), 2))
    together = [p for p in pairs if own[p[0]] == own[p[1]]]
    alike = [p for p in pairs if identities[p[0]] == identities[p[1]]]
    false, missed = set(together) - set(alike), set(alike) - set(together)
    together_before = {p for p in pairs if own_before[p[0]] == own_before[p[1]]}
    expected = {
        "false_pairs": len(false) / max(len(together), 1),
        "missed_pairs": len(missed) / max(len(alike), 1),
        "false_repeated": len(false & together_before) / max(len(false), 1),
        "missed_repeated": len(missed - together_before) / max(len(missed), 1),
    }
    assert pair_errors(labels, identities, before) == pytest.approx(expected, abs=1e-12)
    assert pair_errors(labels, identities).keys() == {"false_pairs", "missed_pairs"}


@given(labellings, st.integers(0, 2**25 - 1))
def test_rightly_placed_equals_looking_at_each_image(rows, bits):
    labels, identities = rows.T
    placed = np.array([bits >> i & 1 for i in range(len(rows))], bool)
    right = []
    for i in np.flatnonzero(placed & (labels >= 0)):
        counts = Counter(identities[labels == labels[i]].tolist())
        right.append(counts[identities[i]] == max(counts.values()))
    expected = sum(right) / len(right) if right else 0.0
    assert rightly_placed(labels, identities, placed) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [np.uint8, np.uint64])
def test_outliers_that_have_lost_their_sign_are_refused(kind):
    labels_N = np.array([0, -1, 1]).astype(kind)
    with pytest.raises(InputError, match="labels: -1 without a sign is"):
        label_quality(labels_N, np.array([1, 1, 2]))
    assert label_quality(np.array([0, 0, 1], kind), np.array([7, 255, 9], np.uint8))["identities"] == 3
