"""The plot of a sweep: differences to the baseline with their intervals and seeds, and mAP over epochs.

One SVG, of the drawings of the report; a column of panels for every pair of domains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapids_slr.files import write_text
from rapids_slr.reports.drawings import (
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Line,
    curve_parts,
    hue,
    linear,
    mark_of,
    mark_path,
    percent,
    ticks,
)
from rapids_slr.reports.markup import Html, el
from rapids_slr.reports.style import drawing_stylesheet
from rapids_slr.sweep.folder import Results
from rapids_slr.sweep.table import (
    Difference,
    difference_of,
    difference_text,
    differences,
    epoch_means,
    headline_of,
    scores_of,
    sections,
    spread_of,
)

GREY = COLOURS - 1
"""Hue of the baseline."""
DIAMOND = 3
"""Mark of a mean."""
ROW, LETTER, HEADING, AXIS = 24, 7.2, 34, 50
"""Pixels: height of a method, width of a letter, room for the name of a pair, and for the axis of the differences."""
LINEAR = 5
"""Points of mAP either way that are drawn to scale where some differences lie far beyond; logarithmic from there."""
TICKS = (-50, -20, -10, -5, -2, 0, 2, 5, 10, 20, 50)


def draw(results: Results, path: Path) -> None:
    """Write the plot as SVG; the same results give the same file."""
    plot = plot_of(results)
    write_text(path, plot)


def plot_of(results: Results) -> Html:
    """The whole file."""
    names, methods = sections(results), baseline_first(results)
    found = {section: differences_in(results, section) for section in names}
    curves = {section: curves_in(results, section) for section in names}
    levels = {section: level_of(results, section) for section in names}
    axis = axis_of([value for rows in found.values() for row in rows for value in row.values()])
    span = span_of(curves.values(), levels.values())
    # Names stand left of the first panel, which has LEFT for them already.
    left = max(0.0, LETTER * max(map(len, methods)) - LEFT + 20)
    below = HEADING + ROW * len(methods[1:]) + AXIS
    parts = []
    for place, section in enumerate(names):
        x = left + WIDTH * place
        parts.append(el("text", section, x=x + LEFT, y=22, class_="name strong"))
        shown = [*difference_parts(found[section], axis, len(methods) - 1, axis_label(results, axis))]
        parts.append(el("g", shown, transform=f"translate({x:g} {HEADING})"))
        shown = [*epoch_parts(curves[section], levels[section], span, headline_of(results).name)]
        parts.append(el("g", shown, transform=f"translate({x:g} {below})"))
    for row, name in enumerate(methods[1:]):
        y = HEADING + ROW * (row + 0.5) + 4
        parts.append(el("text", name, x=left + LEFT - 8, y=y, text_anchor="end", class_="name"))
    width = left + WIDTH * len(names)
    # A method has its hue in every panel, so one legend serves all.
    drawn = {line.name: line for lines in curves.values() for line in lines}
    lines = [drawn[name] for name in methods if name in drawn]
    keys, height = legend_parts(lines, any(level is not None for level in levels.values()), width, below + HEIGHT)
    return sheet(width, height + 8, summary(results, found), [*parts, *keys])


def sheet(width: float, height: float, label: str, parts: Iterable[Html]) -> Html:
    """A drawing that is a file of its own; `label` is read out in its stead."""
    ground = el("rect", width=width, height=height, class_="ground")
    return el(
        "svg",
        el("style", Html(drawing_stylesheet())),
        ground,
        parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


# Differences to the baseline ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A method less the baseline, in points."""

    name: str
    colour: int
    place: int
    """From above."""
    by_seed: Mapping[int, float]
    mean: Difference

    def values(self) -> list[float]:
        """All that the axis has to show."""
        interval = [100 * self.mean.low, 100 * self.mean.high] if self.mean.n > 1 else []
        return [*(100 * value for value in self.by_seed.values()), *interval]


@dataclass(frozen=True)
class Axis:
    """Where points of mAP lie from left to right, the same in all panels."""

    ticks: Sequence[float]
    x_of: Callable[[float], float]
    logarithmic: bool
    """Beyond LINEAR."""


def baseline_first(results: Results) -> list[str]:
    return [results["baseline"], *(name for name in results["methods"] if name != results["baseline"])]


def colour_of(place: int) -> int:
    """Hue of a method by its place after the baseline, which has GREY to itself."""
    # Over the baseline's grey, on to the next round of the palette.
    return GREY if place == 0 else place - 1 + (place > GREY)


def differences_in(results: Results, section: str) -> list[Row]:
    """The methods that share a seed with the baseline."""
    baseline = scores_of(results, section, results["baseline"], headline_of(results).key)
    rows = []
    for place, name in enumerate(baseline_first(results)[1:]):
        if by_seed := differences(scores_of(results, section, name, headline_of(results).key), baseline):
            rows.append(Row(name, colour_of(place + 1), place, by_seed, difference_of(by_seed)))
    return rows


def axis_of(values: Sequence[float]) -> Axis:
    """An axis that shows these values and 0."""
    low, high = min([0.0, *values]), max([0.0, *values])
    if max(-low, high) <= 2 * LINEAR:
        marks = ticks(low, high)
        return Axis(marks, linear(marks[0], marks[-1], LEFT, WIDTH - RIGHT), False)
    low, high = min(1.2 * low, -LINEAR), max(1.2 * high, LINEAR)
    x_of = linear(bent(low), bent(high), LEFT, WIDTH - RIGHT)
    return Axis([tick for tick in TICKS if low <= tick <= high], lambda value: x_of(bent(value)), True)


def bent(value: float) -> float:
    """To scale up to LINEAR either way; from there a decade is as long as LINEAR."""
    if abs(value) <= LINEAR:
        return value
    # Joined without a step: log10(1) is 0 at LINEAR.
    return math.copysign(LINEAR * (1 + math.log10(abs(value) / LINEAR)), value)


def axis_label(results: Results, axis: Axis) -> str:
    far = f", logarithmic beyond {LINEAR}" if axis.logarithmic else ""
    return f"{headline_of(results).name} − {results['baseline']}, points{far}"


def difference_parts(rows: Sequence[Row], axis: Axis, places: int, label: str) -> Iterable[Html]:
    """A line a method: seeds as pale dots, their mean as a diamond, and its interval."""
    bottom = ROW * places
    for tick in axis.ticks:
        x = axis.x_of(tick)
        yield el("line", x1=x, x2=x, y1=0, y2=bottom + 4, class_="rule" if tick else "axis")
        yield el("text", f"{tick:g}", x=x, y=bottom + 18, text_anchor="middle")
    yield el("text", label, x=WIDTH - RIGHT, y=bottom + 35, text_anchor="end", class_="name")
    for row in rows:
        y = ROW * (row.place + 0.5)
        parts = [
            el("circle", el("title", f"{row.name}, seed {seed}: {100 * value:+.2f} points"), cx=axis.x_of(100 * value),
               cy=y, r=4, class_="mark", fill_opacity=0.35)
            for seed, value in row.by_seed.items()
        ]  # fmt: skip
        if row.mean.n > 1:
            low, high = axis.x_of(100 * row.mean.low), axis.x_of(100 * row.mean.high)
            parts.append(el("line", x1=low, x2=high, y1=y, y2=y, class_="line"))
        tip = el("title", f"{row.name}: {difference_text(row.mean)}")
        parts.append(el("g", tip, mark_path(DIAMOND, axis.x_of(100 * row.mean.mean), y, 4.5)))
        yield el("g", parts, class_=hue(row.colour))


def summary(results: Results, found: Mapping[str, Sequence[Row]]) -> str:
    """The differences in words."""
    parts = [
        f"{section}: " + ", ".join(f"{row.name} {difference_text(row.mean)}" for row in rows)
        for section, rows in found.items()
        if rows
    ]
    return (
        f"{results['name']}: {headline_of(results).name} less that of {results['baseline']}, points. {'; '.join(parts)}"
    )


# Epochs ---------------------------------------------------------------------------------------------------------------


def curves_in(results: Results, section: str) -> list[Line]:
    """The mean over seeds after every epoch, of the methods that have one."""
    means = {name: epoch_means(results, section, name, headline_of(results).key) for name in baseline_first(results)}
    return [Line(name, [*mean.items()], colour_of(place)) for place, (name, mean) in enumerate(means.items()) if mean]


def level_of(results: Results, section: str) -> float | None:
    """Where adaptation starts: the baseline's network with BatchNorm re-estimated."""
    start = scores_of(results, section, results["baseline"], headline_of(results).key, "direct_bn")
    return spread_of(start).mean if start else None


def span_of(curves: Iterable[Sequence[Line]], levels: Iterable[float | None]) -> tuple[float, float]:
    """Least and most of all panels, which share one scale."""
    ys = [y for lines in curves for line in lines for _, y in line.points]
    ys += [level for level in levels if level is not None]
    return min(ys, default=0.0), max(ys, default=1.0)


def epoch_parts(lines: Sequence[Line], level: float | None, span: tuple[float, float], score: str) -> Iterable[Html]:
    if not lines:
        return [el("text", "No run has a score yet.", x=LEFT, y=HEIGHT / 2)]
    return curve_parts(lines, percent(score), span, level=level)


def legend_parts(lines: Sequence[Line], level: bool, width: float, top: float) -> tuple[list[Html], float]:
    """The names of all lines in as many rows as it takes, and where they end."""
    parts: list[Html] = []
    x, y = float(LEFT), top + 16
    for name, line in [*((line.name, line) for line in lines), *([("direct_bn", None)] if level else [])]:
        # 26 of line, 6 before the name and 8 after it.
        room = 40 + LETTER * len(name)
        if x > LEFT and x + room > width:
            x, y = float(LEFT), y + 20
        rule = el("line", x1=x, x2=x + 26, y1=y - 4, y2=y - 4, class_="level" if line is None else "line")
        mark = None if line is None else mark_path(mark_of(line), x + 13, y - 4, 3.4)
        parts.append(el("g", rule, mark, class_=None if line is None else hue(line.colour)))
        parts.append(el("text", name, x=x + 32, y=y, class_="name"))
        x += room
    return parts, y
