"""What a report shows of classification: every image of a class is in a square, and the worst clusters come first."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rapids_slr.data.domain import Domain, make_split
from rapids_slr.data.store import ImageStore
from rapids_slr.reports import classes, write_report
from rapids_slr.reports.classes import confusion_of, worst_sheet
from rapids_slr.reports.clusters import EpochLabels
from rapids_slr.reports.drawings import Axes, matrix
from rapids_slr.reports.pictures import Thumbs
from tests.reports.conftest import Page
from tests.test_classification import data, finished, spec  # noqa: F401

NAMES = ["ant", "bee", "owl"]
labellings = st.lists(st.tuples(st.integers(-1, 4), st.integers(1, 3)), min_size=1, max_size=30).map(np.array)


@given(labellings)
def test_every_image_of_a_class_is_in_a_square(rows):
    labels, own = rows.T
    present = sorted(set(own.tolist()))
    drawn = confusion_of(labels, own, [NAMES[k - 1] for k in present])
    clusters = sorted({x for x in labels.tolist() if x >= 0})
    assert drawn.shape == (len(present), len(clusters) + 2 * bool((labels < 0).any()))
    for row, one in enumerate(present):
        cells = {column: (value, tip) for r, column, value, tip in drawn.cells if r == row}
        assert sum(value for value, _ in cells.values()) == pytest.approx(1)
        for value, tip in cells.values():
            where = re.search(r"cluster (\d+)|left out", tip)
            members = labels == (int(where[1]) if where[1] else -1)
            images = int((members & (own == one)).sum())
            assert (images, value) == (
                int(re.search(r"(\d+) images", tip)[1]),
                pytest.approx(images / (own == one).sum()),
            )
    right = sum(np.unique(own[labels == k], return_counts=True)[1].max() for k in clusters)
    assert f"; {right} of {(labels >= 0).sum()} clustered images" in drawn.summary


def test_clusters_stand_beside_those_of_their_class():
    labels = np.array([3, 3, 0, 0, 0, 1, 1, 2, -1])
    drawn = confusion_of(labels, np.array([1, 1, 2, 2, 1, 1, 1, 3, 3]), NAMES)
    across = {tip.split(",")[1].split(":")[0].strip(): column for _, column, _, tip in drawn.cells}
    assert across == {"cluster 1": 0, "cluster 3": 1, "cluster 0": 2, "cluster 2": 3, "left out": 5}


def test_many_classes_are_pooled_and_have_no_names():
    labels = np.arange(400)
    drawn = confusion_of(labels, labels + 1, [str(k) for k in labels])
    assert (drawn.shape, drawn.pooled) == ((134, 134), 3)
    axes = Axes("Confusion matrix", "classes", "clusters", [str(k) for k in labels], counted=False)
    assert ">399<" not in matrix(drawn, axes)


def test_a_name_is_written_cut_and_escaped():
    drawn = confusion_of(np.array([0, 1]), np.array([1, 2]), ["<b>a", "a name of twenty letters"])
    text = matrix(drawn, Axes("Confusion matrix", "classes", "clusters", ["<b>a", "a name of twenty letters"]))
    assert "&lt;b&gt;a<" in text
    assert "a name of twent…" in text


def sheet_of(labels, own, confidence=None):
    N = len(labels)
    split = make_split((f"{i}.png", int(k), 1) for i, k in enumerate(own))
    store = ImageStore(torch.zeros(N, 1, 8, 8, dtype=torch.uint8), torch.device("cpu"))
    none = make_split([])
    domain = Domain("d", "classes", split, none, none, opener=lambda name: None, stamp=str, classes=tuple(NAMES))
    confidence = np.ones(N, np.float32) if confidence is None else np.array(confidence, np.float32)
    one = np.array(labels, np.int32)
    table = EpochLabels(1, list(split.names), np.ones(N, np.int32), one, one, one, confidence)
    known = None if own[0] <= 0 else np.array(own)
    return worst_sheet(table, known, domain, np.arange(N), Thumbs(split, store, known))


def test_the_least_pure_clusters_come_first_and_pure_ones_do_not():
    sheet = sheet_of([0, 0, 0, 1, 1, 2, 2, 2, 2], [1, 1, 2, 3, 3, 1, 2, 3, 3])
    assert [strip.title for strip in sheet.strips] == ["cluster 2", "cluster 0"]
    assert sheet.strips[0].facts.startswith("50 % owl · 4 images")
    assert [(part.name, part.images) for part in sheet.strips[0].parts] == [("owl", 2), ("ant", 1), ("bee", 1)]
    assert sheet.of == 2


def test_without_classes_the_least_confident_come_first():
    sheet = sheet_of([0, 0, 1, 1], [-2] * 4, [0.9, 0.8, 0.2, 0.6])
    assert [strip.title for strip in sheet.strips] == ["cluster 1", "cluster 0"]
    assert sheet.strips[0].facts == "2 images · confidence 0.40"


def test_a_report_of_a_run_has_both(finished, tmp_path):  # noqa: F811
    page = Page(write_report([finished], tmp_path / "report.html").read_text())
    found = [id for id in page.ids("figure") if id.startswith("run1-")]
    assert found[-2:] == ["run1-confusion", "run1-worst"]
    assert "run1-retrieval" not in found
    assert "4 classes" in page.text["run1-confusion"]
    assert classes.HEADING in page.text["run1-answers"]
    assert "source classifier" in page.text["results"]
    assert "cluster accuracy" in page.text["scores"]
