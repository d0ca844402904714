"""profile.html: a time line, the roofline and the tables, in one file without scripts that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapids_slr.profiling.compare import verdict
from rapids_slr.profiling.report import amount, change_table, milliseconds, notes, share, tables
from rapids_slr.reports.drawings import WIDTH, linear, svg, swatches, ticks
from rapids_slr.reports.markup import Html, el, join
from rapids_slr.reports.pieces import document, figure, table

LANE = 22
"""Height of a stage in the time line."""
OF_NETWORKS = ("embed", "training step", "EMA", "memory update", "evaluation")
KINDS = {"images": (2, ("decode",)), "network": (0, OF_NETWORKS), "labels": (1, ())}
"""Kinds of stages: hue, and stages; those of no other kind are labels."""
NOT_LABELS = {stage for _, stages in KINDS.values() for stage in stages}
ZOOMED = 0.2
"""Share of a repetition below which the label stages are drawn again, larger."""
RULES = """
.panels{grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:14px;margin:18px 0;
align-items:start}
.notes{padding-left:18px;max-width:96ch}
.notes li{overflow-wrap:anywhere}
.tables{display:flex;flex-wrap:wrap;gap:26px 44px;margin:26px 0}
.tables section{min-width:0;max-width:100%}
@media (max-width:500px){td,th{padding-right:8px;font-size:12px}}
th:first-child{position:sticky;left:0;background:var(--page)}
"""


def page_of(result: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> Html:
    """The whole file.

    Args:
        other: a profile to compare with.
    """
    name, environment = result["spec"]["name"], result["environment"]
    title = f"Profile of {name}"
    about = (
        f"{environment['device']} · {result['images']:,} images, D = {result['dim']:,} · {result['weights']} weights · "
        f"{environment['date']} · commit {environment['commit']}"
    )
    sections = [table(heading, *rows) for heading, rows in tables(result).items()]
    if other is not None:
        verdicts = el("ul", [el("li", line) for line in verdict(result, other)], class_="notes soft")
        sections.append(join([table("compared: this profile / the other", *change_table(result, other)), verdicts]))
    sections.append(_ways(result))
    facts = [(key, str(value)) for key, value in environment.items()]
    sections.append(table("machine and versions", ("what", "value"), facts, text=True))
    body = [
        el("header", el("h1", title), el("p", about, class_="soft")),
        el("ul", [el("li", note) for note in notes(result)], class_="notes soft"),
        el("div", _time_figure(result), _roofline_figure(result), class_="panels"),
        el("div", [el("section", section) for section in sections], class_="tables"),
        el("footer", f"Made by rapids_slr {result['version']}. trace.json opens in ui.perfetto.dev."),
    ]
    return document(f"{title} – rapids_slr", body, RULES)


def _hue(stage: str) -> str:
    return next((f"c{hue}" for hue, stages in KINDS.values() if stage in stages), "c1")


def _kinds() -> Html:
    return swatches((hue, kind) for kind, (hue, _) in KINDS.items())


# The time line --------------------------------------------------------------------------------------------------------


def _time_figure(result: Mapping[str, Any]) -> Html:
    """The stages of one repetition in time; the label stages again, larger, where the whole leaves them a sliver."""
    spans, names = result["timeline"], list(result["stages"])
    body = [_kinds(), _lanes(spans, names)]
    labels = [name for name in names if name not in NOT_LABELS]
    short = [span for span in spans if span["stage"] in labels]
    if short and _end(short) - _start(short) < ZOOMED * _end(spans):
        body += [el("h4", "The label stages alone"), _lanes(short, labels)]
    note = "The repetition whose whole time is the median. A training step holds its EMA or memory update."
    return figure("time-line", "Time line", join(body), note=note)


def _start(spans: Sequence[Mapping[str, Any]]) -> float:
    return min(span["start"] for span in spans)


def _end(spans: Sequence[Mapping[str, Any]]) -> float:
    return max(span["start"] + span["seconds"] for span in spans)


def _lanes(spans: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Html:
    """A lane for each stage, from the first span to the end of the last, and next to it its milliseconds."""
    first, last = _start(spans), _end(spans)
    size, unit = (1.0, "seconds") if last - first >= 1 else (1e-3, "milliseconds")
    left, right = 96, WIDTH - 56
    x_of = linear(first, last, left, right)
    top, bottom = 20, 20 + LANE * len(names)
    parts: list[Html] = []
    for tick in (tick for tick in ticks(0, (last - first) / size) if first + tick * size <= last):
        x = x_of(first + tick * size)
        parts.append(el("line", x1=x, x2=x, y1=top - 4, y2=bottom, class_="rule"))
        parts.append(el("text", f"{tick:g}", x=x, y=bottom + 16, text_anchor="middle"))
    parts.append(el("text", unit, x=right, y=bottom + 32, text_anchor="end", class_="name"))
    parts.append(el("text", "ms", x=WIDTH - 4, y=12, text_anchor="end", class_="name"))
    for lane, name in enumerate(names):
        y = top + LANE * lane
        own = [span for span in spans if span["stage"] == name]
        parts.append(el("text", name, x=left - 8, y=y + 14, text_anchor="end", class_="name"))
        for span in own:
            tip = f"{name}: {milliseconds(span['seconds'])} ms from {span['start']:.3f} s"
            wide = max(1.5, x_of(first + span["seconds"]) - left)  # at least to be seen
            parts.append(
                el("rect", el("title", tip), x=x_of(span["start"]), y=y + 3, width=wide, height=LANE - 6,
                   class_=_hue(name))
            )  # fmt: skip
        seconds = sum(span["seconds"] for span in own)
        parts.append(el("text", milliseconds(seconds), x=WIDTH - 4, y=y + 14, text_anchor="end"))
    label = f"Time line of one repetition, in {unit}: " + ", ".join(
        f"{span['stage']} from {(span['start'] - first) / size:.3g} for {span['seconds'] / size:.3g}" for span in spans
    )
    return svg(WIDTH, bottom + 38, label, parts)


# The roofline ---------------------------------------------------------------------------------------------------------


ROOF_LEFT, ROOF_RIGHT, ROOF_TOP, ROOF_BOTTOM, ROOF_HEIGHT = 50, WIDTH - 12, 22, 286, 330
"""The frame of the roofline, and the height of the drawing."""


@dataclass(frozen=True)
class Roofline:
    """What the machine was seen to do, the stages beneath it, and decades around both.

    Args:
        placed: stage -> FLOP a byte, FLOP a second, and what else is known of it.
        x_decades, y_decades: first and last power of ten.
    """

    bandwidth: float
    peaks: Mapping[str, float]
    placed: Mapping[str, tuple[float, float, Mapping[str, Any]]]
    x_decades: tuple[int, int]
    y_decades: tuple[int, int]

    def x_of(self, power: float) -> float:
        return linear(*self.x_decades, ROOF_LEFT, ROOF_RIGHT)(power)

    def y_of(self, power: float) -> float:
        return linear(*self.y_decades, ROOF_BOTTOM, ROOF_TOP)(power)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where FLOP a byte and FLOP a second lie."""
        return self.x_of(math.log10(x)), self.y_of(math.log10(y))


def _roofline_of(result: Mapping[str, Any]) -> Roofline:
    bandwidth, peaks = result["roofline"]["bytes_per_second"], result["roofline"]["flop_per_second"]
    placed = {
        name: (stage["flop"] / stage["bytes"], stage["flop"] / stage["seconds"]["median"], stage)
        for name, stage in result["stages"].items()
        if stage["flop"] and stage["bytes"]
    }
    # With the ridges, where a slope meets its level part.
    xs = [x for x, _, _ in placed.values()] + [peak / bandwidth for peak in peaks.values()]
    ys = [y for _, y, _ in placed.values()] + list(peaks.values())
    x_decades = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs) * 2))
    return Roofline(
        bandwidth, peaks, placed, x_decades, (math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys) * 1.2)))
    )


def _roofline_figure(result: Mapping[str, Any]) -> Html:
    """FLOP a second over FLOP a byte, logarithmic, under what the machine was seen to do."""
    roof = _roofline_of(result)
    labels = Labels()
    # In this order words take their places: those of the roofs before those of the stages.
    parts = [*_decades(roof), *_roofs(roof, labels), *_stages(roof, labels)]
    described = "; ".join(f"{name} {amount(y)}FLOP/s at {x:.3g} FLOP a byte" for name, (x, y, _) in roof.placed.items())
    drawing = svg(WIDTH, ROOF_HEIGHT, f"Roofline: {described}", parts)
    note = "On the slope memory bounds a stage, under the level part arithmetic does; the distance is what is left."
    if missing := [name for name in result["stages"] if name not in roof.placed]:
        note += f" Not in it, for want of a count of FLOP: {', '.join(missing)}."
    return figure("roofline", "Roofline", join([_kinds(), drawing]), note=note)


def _decades(roof: Roofline) -> Iterable[Html]:
    """Both axes: a rule and a number for every power of ten, and their labels."""
    for power in range(roof.x_decades[0], roof.x_decades[1] + 1):
        x = roof.x_of(power)
        yield el("line", x1=x, x2=x, y1=ROOF_TOP, y2=ROOF_BOTTOM, class_="rule")
        yield el("text", f"{10.0**power:g}", x=x, y=ROOF_BOTTOM + 16, text_anchor="middle")
    for power in range(roof.y_decades[0], roof.y_decades[1] + 1):
        y = roof.y_of(power)
        yield el("line", x1=ROOF_LEFT, x2=ROOF_RIGHT, y1=y, y2=y, class_="rule")
        yield el("text", amount(10.0**power).strip(), x=ROOF_LEFT - 6, y=y + 4, text_anchor="end")
    yield el("text", "FLOP a second", x=4, y=12, class_="name")
    yield el("text", "FLOP a byte", x=ROOF_RIGHT, y=ROOF_BOTTOM + 34, text_anchor="end", class_="name")


def _roofs(roof: Roofline, labels: Labels) -> Iterable[Html]:
    """What memory and arithmetic allow, a line for every precision."""
    low_x, high_x = (10.0**power for power in roof.x_decades)
    # The slope begins where it enters the frame, at its left side or its bottom.
    start = max(low_x, 10.0 ** roof.y_decades[0] / roof.bandwidth)
    for name, peak in roof.peaks.items():
        corners = [(start, start * roof.bandwidth), (peak / roof.bandwidth, peak), (high_x, peak)]
        line = [roof.place(*corner) for corner in corners]
        yield el("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in line), class_="line c7")
        yield labels.beside(f"{amount(peak)}FLOP/s, {name}", line[2][0] + 9, line[2][1] - 6)


def _stages(roof: Roofline, labels: Labels) -> Iterable[Html]:
    """A point for every stage, the fastest first."""
    for name, (x, y, stage) in sorted(roof.placed.items(), key=lambda item: -item[1][1]):
        tip = f"{name}: {amount(y)}FLOP/s at {x:.3g} FLOP a byte, {share(stage)} % of the roofline"
        across, down = roof.place(x, y)
        yield el("circle", el("title", tip), cx=across, cy=down, r=5, class_=f"mark {_hue(name)}")
        yield labels.beside(name, across, down + 4)


class Labels:
    """Words in the roofline, none over another."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float]] = []

    def beside(self, words: str, x: float, y: float) -> Html:
        """Words beside a point, right of it rather than left, lower where others stand already."""
        # Letters are about 7.2 wide and lines 13 high, so a place is free if no words are that near.
        wide = 7.2 * len(words)
        places = ((start, y + down) for down in range(0, 200, 13) for start in (x + 9, x - wide - 9))
        start, y = next(
            (start, y)
            for start, y in places
            if ROOF_LEFT <= start <= ROOF_RIGHT - wide
            and all(
                abs(y - at) >= 13 or start >= other + length or start + wide <= other
                for other, at, length in self._taken
            )
        )
        self._taken.append((start, y, wide))
        return el("text", words, x=start, y=y, class_="halo")


# Pieces ---------------------------------------------------------------------------------------------------------------


def _ways(result: Mapping[str, Any]) -> Html:
    """How FLOP and bytes were counted, and for which stages."""
    stages = result["stages"].items()
    ways: dict[str, list[str]] = {}
    for kind, counted in (("FLOP", "flop_counted"), ("bytes", "bytes_counted")):
        for name, stage in stages:
            way = f"{kind}: {stage[counted]}" if stage[counted] else f"{kind} not counted"
            ways.setdefault(way, []).append(name)
    for name, stage in stages:
        if stage["flop"]:
            ways.setdefault(f"FLOP compared with the peak of {stage['precision']}", []).append(name)
    items = [el("li", f"{way} ({', '.join(names)})") for way, names in ways.items()]
    return join([el("h3", "How the work is counted"), el("ul", items, class_="notes soft")])
