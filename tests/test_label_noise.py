"""The controlled bench of labels: errors are of the kinds and shares asked for, persist as asked, and are counted."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rapids_slr.evaluation import pair_errors
from tests.scripts import loaded

FILE = Path(__file__).parents[1] / "benchmarks" / "label_noise.py"
IDENTITY = np.repeat(np.arange(60), 15)


@pytest.fixture(scope="module")
def bench():
    return loaded(FILE)


def identities_of(labels: np.ndarray) -> list[set[int]]:
    return [set(IDENTITY[labels == cluster]) for cluster in range(labels.max() + 1)]


def test_without_noise_labels_are_identities(bench):
    for labels in bench.draw_epochs(IDENTITY, bench.KINDS["all kinds"], 0.0, 3, seed=0, repeat=0.5):
        assert np.array_equal(labels, IDENTITY)


@pytest.mark.parametrize("repeat", [0.0, 0.7])
def test_each_kind_makes_errors_of_its_own_kind_and_share(bench, repeat):
    def drawn(kind):
        return list(bench.draw_epochs(IDENTITY, bench.KINDS[kind], 0.3, 8, 1, repeat))

    for labels in drawn("merges"):
        assert (labels >= 0).all()
        sizes = [len(people) for people in identities_of(labels)]
        assert sorted(set(sizes)) == [1, 2]
        assert sizes.count(2) == 9  # 0.3 x 60 / 2
    for labels in drawn("splits"):
        assert (labels >= 0).all()
        assert all(len(people) == 1 for people in identities_of(labels))
        assert labels.max() + 1 == 60 + 18
    for labels in drawn("splits + merges"):
        assert 60 < labels.max() + 1 + sum(len(people) == 2 for people in identities_of(labels)) <= 60 + 18

    outliers, moved = np.array(drawn("outliers")), np.array(drawn("moved"))
    assert (outliers < 0).mean() == pytest.approx(0.3, abs=0.02)
    for labels in outliers:
        assert np.array_equal(np.unique(IDENTITY[labels >= 0], return_inverse=True)[1], labels[labels >= 0])
    assert (moved >= 0).all()
    own = np.array([[np.bincount(IDENTITY[row == c]).argmax() for c in range(row.max() + 1)] for row in moved])
    assert (np.take_along_axis(own, moved, 1) != IDENTITY).mean() == pytest.approx(0.3, abs=0.02)


def test_a_moved_image_goes_to_another_identity(bench):
    identity = np.repeat(np.arange(3), 20)
    errors = bench.draw_errors(identity, ("moved",), 0.5, np.random.default_rng(0))
    moved = errors.moved_to_N >= 0
    assert 15 < moved.sum() < 45
    assert (identity[errors.moved_to_N[moved]] != identity[moved]).all()


@pytest.mark.parametrize("kind", ["outliers", "moved", "splits", "merges", "splits + merges", "all kinds"])
def test_errors_that_always_repeat_do_and_independent_ones_do_not(bench, kind):
    kinds = bench.KINDS[kind]
    first, *others = bench.draw_epochs(IDENTITY, kinds, 0.3, 4, seed=2, repeat=1.0)
    assert all(np.array_equal(first, labels) for labels in others)
    for before, now in (
        bench.draw_epochs(IDENTITY, kinds, 0.3, 2, seed=3),
        bench.draw_epochs(IDENTITY, kinds, 0.3, 2, 3),
    ):
        assert not np.array_equal(before, now)
    before, now = bench.draw_epochs(IDENTITY, kinds, 0.3, 2, seed=3)
    assert pair_errors(now, IDENTITY, before)["false_repeated"] < 0.15


@pytest.mark.parametrize(("kind", "which"), [("merges", "false"), ("moved", "false"), ("splits", "missed")])
def test_about_the_share_asked_for_repeats(bench, kind, which):
    identity = np.repeat(np.arange(400), 10)
    noise = 0.02 if kind == "moved" else 0.2  # a pair of two moved images repeats only if both do
    epochs = bench.draw_epochs(identity, bench.KINDS[kind], noise, 21, seed=0, repeat=0.85)
    shares = [pair_errors(now, identity, before)[f"{which}_repeated"] for before, now in pairwise(epochs)]
    assert np.mean(shares) == pytest.approx(0.85, abs=0.03)


@pytest.mark.parametrize("factor", [2, 10])
def test_clusters_that_multiply_or_become_few(bench, factor):
    """Parts of one cluster share its row evenly; many clusters are projected onto the one that they are parts of."""
    more, fewer = bench.measure_recount(factor, seeds=2)
    assert (more["clusters_before"], more["clusters_now"]) == (50, 50 * factor)
    assert (fewer["clusters_before"], fewer["clusters_now"]) == (50 * factor, 50)
    assert more["entries_a_row"] == pytest.approx(factor)
    assert more["largest_entry"] < 2 / factor
    assert (fewer["entries_a_row"], fewer["largest_entry"]) == (1, 1)
    assert fewer["refined_ari"] == fewer["agreement_with_now"] == 1


def test_refinement_gains_on_independent_errors_and_not_on_those_that_repeat(bench):
    def gain(kind, noise, repeat):
        found = bench.measure((60, 15), kind, noise, (bench.DEFAULT,), epochs=4, seeds=2, repeat=repeat)
        return found[bench.DEFAULT]["ari"] - found["raw"]["ari"]

    for kind, noise, least in ("outliers", 0.2, 0.12), ("merges", 0.3, 0.03), ("splits + merges", 0.3, 0.02):
        independent, repeated = gain(kind, noise, 0.0), gain(kind, noise, 1.0)
        assert independent > least, kind
        assert repeated < least / 10, kind


def test_the_results_are_of_these_kinds_and_settings(bench):
    found = json.loads(bench.OUT.read_text())
    assert found["settings"] == bench.SETTINGS
    assert {row["kind"] for row in found["independent"]} == set(bench.KINDS)
    assert {row["repeat"] for row in found["persistent"]} == set(bench.REPEATS)
    assert {row["factor"] for row in found["recount"]} == {2, 5, 10}
    assert found["environment"]["commit"] != "unknown"
