"""Drawings: points lie where their values say, numbers can be read, colours can be told apart."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapids_slr.reports.clusters import Flow, Node, Stream
from rapids_slr.reports.drawings import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    columns,
    counts,
    curves,
    flow,
    legend,
    mark_path,
    percent,
    plain,
    scatter,
    shade,
    ticks,
)
from rapids_slr.reports.style import DARK, LIGHT, stylesheet
from tests.reports.conftest import Page

FINITE = st.floats(-1e6, 1e6)


@given(FINITE, FINITE, st.booleans())
def test_ticks_are_few_even_and_around_the_range(one, other, whole):
    low, high = sorted((one, other))
    found = ticks(low, high, whole=whole)
    assert 2 <= len(found) <= 12
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= high - 1e-6 * step
    assert np.diff(found) == pytest.approx(step, rel=1e-6)
    if whole:
        assert all(float(x).is_integer() for x in found)


def points_of(drawing: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline points="([^"]*)"', drawing)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


def test_a_curve_is_drawn_to_scale():
    """The same line in a frame that its ticks state: 0, 0.5 and 1 are evenly apart."""
    drawing = curves("t", [Line("a", [(0, 0.0), (1, 0.5), (4, 1.0)], 0)], percent("x", from_zero=True))
    ((first, second, third),) = points_of(drawing)
    assert first == (LEFT, HEIGHT - BOTTOM)
    assert third == (WIDTH - RIGHT, TOP)
    assert second[0] == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) / 4, abs=0.1)
    assert second[1] == pytest.approx((TOP + HEIGHT - BOTTOM) / 2, abs=0.1)


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=20, unique_by=lambda point: point[0]), st.booleans())
def test_no_point_leaves_the_frame(points, from_zero):
    points = sorted((x, abs(y)) if from_zero else (x, y) for x, y in points)
    scale = counts("images") if from_zero else plain("x")
    (drawn,) = points_of(curves("t", [Line("a", points, 0)], scale, level=points[0][1]))
    for x, y in drawn:
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1


def test_a_logarithmic_scale_has_decades_evenly_apart():
    drawing = curves("t", [Line("a", [(1, 1e-2), (2, 1e-3), (3, 1e-4)], 0)], plain("rate", logarithmic=True))
    ((first, second, third),) = points_of(drawing)
    assert second[1] - first[1] == pytest.approx(third[1] - second[1], abs=0.2)


def test_a_drawing_tells_its_values_to_those_who_cannot_see_it():
    drawing = curves("Scores", [Line("mAP", [(0, 0.5), (12, 0.734)], 0)], percent("score"))
    ((tag, svg), *_) = Page(drawing).tags
    assert tag == "svg"
    assert svg["role"] == "img"
    assert svg["aria-label"] == "Scores. mAP 50.0 % at epoch 0, 73.4 % at epoch 12"
    assert "mAP, epoch 12: 73.4 %" in drawing
    assert ">score, %</text>" in drawing
    assert ">epoch</text>" in drawing


def test_lines_beyond_the_palette_have_another_mark():
    shapes = {mark_path(mark, 0, 0, 3) for mark in range(COLOURS)}
    assert len(shapes) == COLOURS
    lines = [Line(str(number), [], number) for number in range(2 * COLOURS)]
    items = re.findall(r"<li>.*?</li>", legend(lines))
    assert len({re.sub(r"\d+</li>$", "", item) for item in items}) == 2 * COLOURS


def test_columns_are_as_high_as_their_counts():
    drawing = columns("t", ["1", "2", "3"], [("refined", 0, [4, 0, 2])], "images", "clusters")
    heights = [float(height) for height in re.findall(r'<rect [^>]*height="([^"]*)"', drawing)]
    assert len(heights) == 2  # nothing is drawn for nothing
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.1)


def test_streams_fill_their_nodes():
    nodes = [Node(0, "1", 6), Node(1, "2", 4), Node(1, "outliers", 2), Node(2, "3", 4), Node(2, "left out", 2)]
    streams = [
        Stream(0, 1, 4, "stable", False),
        Stream(0, 2, 2, "dropped", False),
        Stream(1, 3, 4, "stable", False),
        Stream(2, 4, 2, "outside", True),
    ]
    drawing = flow(Flow(nodes, streams, 10.0, 100.0), ("a", "b", "c"))
    bars = [float(height) for height in re.findall(r'<rect [^>]*height="([^"]*)" class="node"', drawing)]
    assert bars == [60, 40, 20, 40, 20]
    assert drawing.count("<path") == len(streams)
    assert "stable 8, dropped 2, outside 2" in drawing


def test_a_map_keeps_the_shape_of_the_features_and_what_lies_above():
    xy = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    drawing = scatter("t", xy, np.array([0, 1, -1]), ["a", "b", "c"], {7: (0.0, 0.0)}, "UMAP")
    found = dict(
        (name, (float(x), float(y)))
        for x, y, name in re.findall(r'<circle cx="(.*?)" cy="(.*?)".*?<title>(.)', drawing)
    )
    if not found:  # the title stands before or after, as the element has it
        pytest.fail(drawing[:500])
    assert found["b"][0] - found["a"][0] == pytest.approx(2 * (found["a"][1] - found["c"][1]), abs=0.3)
    assert found["c"][1] < found["a"][1]
    assert ">7</text>" in drawing


def test_shades_rise_from_nothing_to_full():
    assert [shade(x) for x in (-1, 0, 0.25, 1, 2)] == [0, 0, 0.5, 1, 1]


# Colours --------------------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
SEEN = {
    "all cones": np.eye(3),
    "no red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ rgb.clip(0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out_in_both_schemes(scheme):
    for ground in ("page", "card"):
        for name in ("text", "soft", "link", "right", "wrong"):
            assert contrast(scheme[name], scheme[ground]) >= 4.5, (name, ground)
        for name in [f"c{i}" for i in range(COLOURS)] + ["seq"]:
            assert contrast(scheme[name], scheme[ground]) >= 3, (name, ground)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("seen", SEEN)
def test_hues_differ_for_colour_blind_readers(scheme, seen):
    hues = [lab(SEEN[seen] @ linear(scheme[f"c{i}"])) for i in range(COLOURS)]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(hues, 2)) > 10


def test_both_schemes_have_the_same_colours():
    assert LIGHT.keys() == DARK.keys()
    assert set(re.findall(r"var\(--(\w+)\)", stylesheet())) <= LIGHT.keys() | {"c"}
