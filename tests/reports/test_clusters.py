"""What label tables tell: projection, entropy and where images went, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import entropy as entropy_of

from rapids_slr.errors import InputError
from rapids_slr.refinement.sections import SLRSpec
from rapids_slr.reports import clusters as module
from rapids_slr.reports.clusters import (
    EpochLabels,
    entropy,
    flow_of,
    kept_apart,
    matrix_of,
    moved,
    read_label_table,
    refinement,
    rescued,
    steps_between,
)
from rapids_slr.reports.figures import size_bins
from tests.reference import slr as reference

PAIRS = arrays(np.int32, (3, 30), elements=st.integers(-1, 5))


def epoch(previous, cluster, refined=None) -> EpochLabels:
    previous, cluster = np.array(previous, np.int32), np.array(cluster, np.int32)
    refined = cluster if refined is None else np.array(refined, np.int32)
    names = [f"{i}.png" for i in range(len(cluster))]
    return EpochLabels(2, names, np.zeros(len(cluster), np.int32), previous, cluster, refined, np.ones(len(cluster)))


# Projection and soft labels -------------------------------------------------------------------------------------------


@given(PAIRS)
def test_the_entropy_is_that_of_the_soft_labels_of_the_method(labels):
    now = epoch(labels[0], labels[1])
    soft = reference.soft_labels(labels[0], labels[1], 0.5)
    expected = [entropy_of(row, base=2) if row.sum() else np.nan for row in soft]
    assert_allclose(entropy(refinement(now, SLRSpec().again())), expected, atol=1e-5)


@given(PAIRS)
def test_the_matrix_holds_the_projection_in_some_order(labels):
    now = epoch(labels[0], labels[1])
    drawn = matrix_of(refinement(now, SLRSpec().again()))
    old, new = (np.unique(x[x >= 0]) for x in labels[:2])
    if not len(old) or not len(new):
        assert drawn is None
        return
    assert drawn is not None
    assert drawn.shape == (len(old), len(new))
    expected = reference.projection(labels[0], labels[1], 6, 6)
    assert_allclose(sorted(value for _, _, value, _ in drawn.cells), sorted(expected[expected > 0]), atol=1e-12)
    for row, column, value, said in drawn.cells:
        assert 0 <= row < len(old)
        assert 0 <= column < len(new)
        a, b = (int(word.rstrip(":")) for word in (said.split()[1], said.split()[4]))
        assert value == pytest.approx(expected[a, b])


def test_clusters_that_stay_lie_on_the_diagonal_whatever_their_numbers():
    rng = np.random.default_rng(0)
    previous = np.repeat(np.arange(20), np.arange(2, 22)).astype(np.int32)
    gone = rng.random(len(previous)) < np.linspace(0, 0.9, 20)[previous]  # sizes come in another order than before
    gone[np.searchsorted(previous, np.arange(20))] = False
    cluster = np.where(gone, -1, rng.permutation(20)[previous])
    drawn = matrix_of(refinement(epoch(previous, cluster), SLRSpec().again()))
    assert sorted((row, column) for row, column, _, _ in drawn.cells) == [(i, i) for i in range(20)]
    assert drawn.summary == "20 of 20 clusters go to one cluster alone"


def test_many_clusters_share_squares(monkeypatch):
    monkeypatch.setattr(module, "SQUARES", 10)
    rng = np.random.default_rng(1)
    previous, cluster = rng.integers(0, 45, (2, 3000)).astype(np.int32)
    refined = refinement(epoch(previous, cluster), SLRSpec().again())
    whole = np.zeros((45, 45))
    monkeypatch.setattr(module, "SQUARES", 100)
    for row, column, value, _ in matrix_of(refined).cells:
        whole[row, column] = value
    monkeypatch.setattr(module, "SQUARES", 10)
    drawn = matrix_of(refined)
    assert (drawn.shape, drawn.pooled) == ((9, 9), 5)
    for row, column, value, said in drawn.cells:
        assert value == whole[5 * row : 5 * row + 5, 5 * column : 5 * column + 5].max()
        assert said is None


# Where images went ----------------------------------------------------------------------------------------------------


def test_kinds_of_steps_by_hand():
    before = np.array([0, 0, 0, 0, 1, 1, 2, 2, -1, -1, 0])
    now = np.array([0, 0, 0, 1, 1, 1, 1, -1, 0, -1, 0])
    found = {(step.start, step.end): (step.images, step.kind) for step in steps_between(before, now, "joined")}
    assert found == {
        (0, 0): (4, "stable"),
        (0, 1): (1, "split"),
        (1, 1): (2, "stable"),
        (2, 1): (1, "merged"),
        (2, -1): (1, "dropped"),
        (-1, 0): (1, "joined"),
        (-1, -1): (1, "outside"),
    }


@given(PAIRS)
def test_no_image_is_lost_on_the_way(labels):
    drawn = flow_of(epoch(*labels))
    for column in range(3):
        assert sum(node.images for node in drawn.nodes if node.column == column) == labels.shape[1]
    for number, node in enumerate(drawn.nodes):
        leaving = sum(stream.images for stream in drawn.streams if stream.start == number)
        coming = sum(stream.images for stream in drawn.streams if stream.end == number)
        assert node.column == 2 or leaving == node.images
        assert node.column == 0 or coming == node.images
    for stream in drawn.streams:
        assert drawn.nodes[stream.end].column == drawn.nodes[stream.start].column + 1


def test_a_thousand_clusters_are_bundled():
    rng = np.random.default_rng(2)
    previous = rng.integers(-1, 1000, 20_000).astype(np.int32)
    cluster = np.where(rng.random(20_000) < 0.1, rng.integers(-1, 1000, 20_000), previous)
    drawn = flow_of(epoch(previous, cluster))
    assert len(drawn.nodes) < 100
    assert {node.name for node in drawn.nodes} > {"outliers", "left out"}
    assert any(node.name.endswith(" others") for node in drawn.nodes)


def test_changes_by_hand():
    # cluster 0 comes apart, an image of 1 is rescued, one of 2 moves to 1
    previous = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    cluster_ = [0, 0, 0, 0, 0, 0, 1, 1, 1, -1, 2, 2, 2, 1]
    refined_ = [0, 0, 0, 5, 5, -1, 1, 1, 1, 1, 2, 2, 2, 1]
    now = epoch(previous, cluster_, refined_)

    (apart,) = kept_apart(now, 9).shown
    assert apart.title == "cluster 0"
    assert [(name, rows.tolist()) for name, rows in apart.parts] == [
        ("refined 0", [0, 1, 2]),
        ("refined 5", [3, 4]),
        ("left out", [5]),
    ]
    (saved,) = rescued(now, 9).shown
    assert saved.title == "refined 1"
    assert [(name, rows.tolist()) for name, rows in saved.parts] == [("rescued", [9]), ("already there", [6, 7, 8, 13])]
    (gone,) = moved(now, 9).shown
    assert [(name, rows.tolist()) for name, rows in gone.parts] == [
        ("moved", [13]),
        ("stayed together", [10, 11, 12]),
        ("came from elsewhere", [6, 7, 8]),
    ]


def test_only_the_largest_changes_are_kept_and_all_are_counted():
    previous = np.repeat([0, 1, 2], 6)
    cluster = [0, 0, 0, 0, 0, 3, 1, 1, 1, 1, 4, 4, 2, 2, 2, 2, 2, 5]
    found = moved(epoch(previous, cluster), 2)
    assert found.of == 3
    assert [change.title for change in found.shown] == ["last epoch’s 1 → 4", "last epoch’s 0 → 3"]
    assert kept_apart(epoch(previous, previous, cluster), 1).of == 3
    assert rescued(epoch(previous, np.full(18, -1), cluster), 2).of == 6


@given(st.integers(1, 100_000))
def test_groups_of_sizes_hold_every_size_once(largest):
    names, borders = size_bins(largest)
    assert len(names) == len(borders) - 1 <= 13
    assert borders[0] == 1
    assert borders[-1] > largest
    assert_array_equal(np.diff(borders), borders[1] - borders[0])
    counts = np.histogram(np.arange(1, largest + 1), borders)[0]
    assert counts.sum() == largest
    assert counts[-1] > 0 or len(names) == 1


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / "epoch-001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"epoch-001\.parquet is damaged or no label table"):
        read_label_table(tmp_path / "epoch-001.parquet", 1)
