"""The drawings of a report: numbers in, SVG out. Colours are variables of the page, so that dark mode has its own.

A drawing is laid out at the size it has on a phone; wider screens put several side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rapids_slr.reports.clusters import Flow, Matrix, Stream
from rapids_slr.reports.markup import Html, el

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 30, 42
COLOURS = 8
"""Hues of the palette, --c0 to --c7; the ninth line has the first again, with another mark."""
KINDS = {
    "stable": (0, "stable: most of one cluster is most of the other"),
    "split": (1, "split: images that leave most of their cluster"),
    "merged": (6, "merged: a cluster that joins a larger one"),
    "joined": (4, "joined: outliers last epoch, clustered now"),
    "rescued": (2, "rescued: outliers that refinement gives a cluster"),
    "dropped": (3, "dropped: clustered images that become outliers or are left out"),
    "outside": (7, "outside: outliers before and after"),
}
"""Kinds of streams: colour and meaning."""


@dataclass(frozen=True)
class Line:
    """A curve with a mark at every point.

    Args:
        points: (x, y), ascending in x.
        colour: number of its hue.
        dashed: for what is set beside a solid line of the same hue.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Scale:
    """How the y axis is written: its label with the unit, and how a value is."""

    label: str
    say: Callable[[float], str]
    tick: Callable[[float], str]
    from_zero: bool = False
    logarithmic: bool = False


def percent(label: str, from_zero: bool = False) -> Scale:
    return Scale(f"{label}, %", lambda y: f"{100 * y:.1f} %", lambda y: f"{100 * y:.4g}", from_zero)


def counts(label: str) -> Scale:
    return Scale(label, lambda y: f"{y:,.0f}", lambda y: f"{y:,.4g}", from_zero=True)


def plain(label: str, logarithmic: bool = False) -> Scale:
    return Scale(label, lambda y: f"{y:.3g}", lambda y: f"{y:.4g}", logarithmic=logarithmic)


# Curves ---------------------------------------------------------------------------------------------------------------


def curves(title: str, lines: Sequence[Line], scale: Scale, x_label: str = "epoch", level: float | None = None) -> Html:
    """Lines over epochs.

    Args:
        title: what the drawing shows, for those who cannot see it; the values of every line follow.
        level: a value to compare with, drawn across.
    """
    ends = "; ".join(
        f"{line.name} {scale.say(line.points[0][1])} at {x_label} {line.points[0][0]:g}, "
        f"{scale.say(line.points[-1][1])} at {x_label} {line.points[-1][0]:g}"
        for line in lines
    )
    ys = [y for line in lines for _, y in line.points] + ([] if level is None else [level])
    parts = curve_parts(lines, scale, (min(ys), max(ys)), x_label, level)
    return svg(WIDTH, HEIGHT, f"{title}. {ends}", parts)


def curve_parts(
    lines: Sequence[Line], scale: Scale, span: tuple[float, float], x_label: str = "epoch", level: float | None = None
) -> Iterable[Html]:
    """The parts of `curves`, for a drawing that holds several.

    Args:
        lines: at least one.
        span: least and most of all that the y axis has to show.
    """
    xs = [x for line in lines for x, _ in line.points]
    x_of = linear(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    if scale.logarithmic:
        y_ticks = _decades(*span)
        to_y = linear(math.log10(y_ticks[0]), math.log10(y_ticks[-1]), HEIGHT - BOTTOM, TOP)
        y_of = lambda y: to_y(math.log10(y))  # noqa: E731
    else:
        y_ticks = ticks(0.0 if scale.from_zero else span[0], span[1])
        y_of = linear(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    x_ticks = [x for x in ticks(min(xs), max(xs), whole=True) if min(xs) <= x <= max(xs)]
    yield from _axes(x_ticks, y_ticks, x_of, y_of, scale.label, x_label, scale.tick)
    if level is not None:
        yield el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y_of(level), y2=y_of(level), class_="level")
    for line in sorted(lines, key=lambda line: not line.dashed):  # solid ones lie above
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        yield el("polyline", points=path, class_=f"line {hue(line.colour)}{' dashed' if line.dashed else ''}")
        small = len(line.points) > 30
        for x, y in line.points:
            tip = el("title", f"{line.name}, {x_label} {x:g}: {scale.say(y)}")
            mark = mark_path(mark_of(line), x_of(x), y_of(y), 2.2 if small else 3.4)
            # Unseen, and larger than the mark: room for a pointer or a finger.
            hit = el("circle", cx=x_of(x), cy=y_of(y), r=4 if small else 9, class_="hit")
            yield el("g", tip, mark, hit, class_=hue(line.colour) + (" hollow" if line.dashed else ""))


def mark_of(line: Line) -> int:
    """Which mark a line has: that of its hue, and another one for every further round of the palette."""
    return line.colour % COLOURS + line.colour // COLOURS


def mark_path(mark: int, x: float, y: float, size: float) -> Html:
    """A mark of one of eight shapes around a point."""
    # Corners and the angle of the first, pi/4 and the like: square, triangle, diamond, triangle on its tip, pentagon,
    # hexagon, octagon. y counts downwards, so -pi/2 is up.
    corners = [(4, 0.785), (3, -1.571), (4, 0.0), (3, 1.571), (5, -1.571), (6, 0.0), (8, 0.393)]
    shape = mark % (len(corners) + 1)
    if shape == 0:
        return el("circle", cx=x, cy=y, r=size, class_="mark")
    sides, turn = corners[shape - 1]
    points = (
        (
            x + 1.25 * size * math.cos(turn + 2 * math.pi * i / sides),
            y + 1.25 * size * math.sin(turn + 2 * math.pi * i / sides),
        )
        for i in range(sides)
    )
    return el("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in points), class_="mark")


def legend(lines: Iterable[Line], level: str | None = None) -> Html:
    """The names of lines beside a piece of each."""
    items = [
        el(
            "li",
            el(
                "svg",
                el("line", x1=1, x2=27, y1=7, y2=7, class_=f"line{' dashed' if line.dashed else ''}"),
                mark_path(mark_of(line), 14, 7, 3.4),
                viewBox="0 0 28 14",
                class_=f"swatch {hue(line.colour)}{' hollow' if line.dashed else ''}",
                aria_hidden="true",
            ),
            line.name,
        )
        for line in lines
    ]
    if level is not None:
        rule = el("line", x1=1, x2=27, y1=7, y2=7, class_="level")
        items.append(el("li", el("svg", rule, viewBox="0 0 28 14", class_="swatch", aria_hidden="true"), level))
    return el("ul", items, class_="legend")


def swatches(items: Iterable[tuple[int, str]]) -> Html:
    """A legend of areas: hue and name."""
    return el("ul", [el("li", el("i", class_=hue(colour)), name) for colour, name in items], class_="legend")


# Columns --------------------------------------------------------------------------------------------------------------


def columns(
    title: str,
    names: Sequence[str],
    series: Sequence[tuple[str, int, Sequence[int]]],
    x_label: str,
    y_label: str,
) -> Html:
    """Counts in groups of columns.

    Args:
        names: of the groups, from left to right.
        series: name, hue and a count for every group.
    """
    highest = max(max(values) for _, _, values in series)
    y_ticks = ticks(0, max(highest, 1), whole=True)
    y_of = linear(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(names)
    # A fifth of a step is the gap between two groups.
    wide = step * 0.8 / len(series)
    # A letter takes up to 7.6; where names do not fit, only every second or third is written.
    every = max(1, math.ceil(max(map(len, names)) * 7.6 / step))
    parts = [*_axes([], y_ticks, lambda x: x, y_of, y_label, x_label, lambda y: f"{y:,.4g}")]
    for group, name in enumerate(names):
        middle = LEFT + step * (group + 0.5)
        if group % every == 0:
            parts.append(el("text", name, x=middle, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
        for number, (which, colour, values) in enumerate(series):
            value, left = values[group], middle + wide * (number - len(series) / 2)
            if not value:
                continue
            top = min(y_of(value), HEIGHT - BOTTOM - 1.5)  # a count of 1 beside thousands can be seen
            tip = el("title", f"{which}: {value:,} {y_label} ({x_label}: {name})")
            parts.append(
                el("rect", tip, x=left, y=top, width=wide * 0.94, height=HEIGHT - BOTTOM - top, class_=hue(colour))
            )
            # Only where its digits fit over the column.
            if wide >= 7 * len(f"{value:,}"):
                parts.append(
                    el("text", f"{value:,}", x=left + wide / 2, y=top - 4, text_anchor="middle", class_="value")
                )
    values_of_series = "; ".join(
        f"{which}, {y_label} by {x_label}: "
        + ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True) if value)
        for which, _, values in series
    )
    return svg(WIDTH, HEIGHT, f"{title}. {values_of_series}", parts)


# Matrices -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axes:
    """What is written at a matrix.

    Args:
        what: what it is, for those who cannot see it.
        rows, columns: what its axes are.
        names: of the rows; without, they are counted.
        counted: whether columns are.
    """

    what: str
    rows: str
    columns: str
    names: Sequence[str] = ()
    counted: bool = True


PROJECTION = Axes(
    "Projection matrix", "last epoch’s clusters, largest first", "this epoch’s clusters, in matching order"
)
NAME_LETTERS = 16
"""Of the name of a row, after which it is cut."""


def matrix(drawn: Matrix, axes: Axes = PROJECTION) -> Html:
    """Shares as squares, darker for more, the first row at the top; rows with names are as high as these."""
    P, K = drawn.shape
    named = bool(axes.names) and drawn.pooled == 1
    side, left, top = 440, 122 if named else 54, 34
    across = down = side / max(P, K, 1)
    if named:
        across, down = min(side / max(K, 1), 24), 17.0
    wide, high = K * across, P * down
    parts = [el("rect", x=left, y=top, width=wide, height=high, class_="ground")]
    for cell_row, cell_column, value, tip in drawn.cells:
        parts.append(
            el(
                "rect",
                el("title", tip),
                x=left + cell_column * across,
                y=top + cell_row * down,
                width=max(across, 1.2),  # or it could not be seen
                height=max(down, 1.2),
                class_="cell",
                fill_opacity=shade(value),
            )
        )
    parts += _row_labels(drawn, axes.names if named else (), left, top, down)
    # Ticks count what a square holds `pooled` of a side.
    for x in ticks(0, max(K * drawn.pooled, 1), whole=True) if axes.counted else ():
        if x <= K * drawn.pooled:
            parts.append(
                el("text", f"{x:,.0f}", x=left + x * across / drawn.pooled, y=top + high + 16, text_anchor="middle")
            )
    parts.append(el("text", axes.rows, x=4, y=18, class_="name"))
    if axes.counted:
        below, label = (left + wide, 36, "end"), f"{axes.what}, {P * drawn.pooled} by {K * drawn.pooled} clusters"
    else:  # from the left, as the words may be longer than the squares are wide
        below, label = (4, 20, "start"), axes.what
    x, down_to, anchor = below
    parts.append(el("text", axes.columns, x=x, y=top + high + down_to, text_anchor=anchor, class_="name"))
    return svg(left + side + 16, top + high + 46, f"{label}; {drawn.summary}", parts, "square")


def _row_labels(drawn: Matrix, names: Sequence[str], left: float, top: float, down: float) -> Iterable[Html]:
    P = drawn.shape[0]
    for row, name in enumerate(names):
        cut = name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}…"
        yield el("text", el("title", name), cut, x=left - 6, y=top + (row + 0.5) * down + 4, text_anchor="end")
    for y in ticks(0, max(P * drawn.pooled, 1), whole=True) if not names else ():
        if y <= P * drawn.pooled:
            yield el("text", f"{y:,.0f}", x=left - 6, y=top + y * down / drawn.pooled + 4, text_anchor="end")


def shade(value: float) -> float:
    """Opacity of a share of 0 to 1; its root, so that small shares can be seen."""
    return round(math.sqrt(min(max(value, 0.0), 1.0)), 3)


def shades() -> Html:
    """The legend of `shade`."""
    steps = [
        # 25 steps of 11.2 are 280, so a percent is 2.8 in the marks below.
        el("rect", x=4 + 11.2 * i, y=0, width=11.2, height=12, class_="cell", fill_opacity=shade((i + 0.5) / 25))
        for i in range(25)
    ]
    marks = [
        el(
            "text",
            f"{share} %",
            x=4 + 2.8 * share,
            y=27,
            text_anchor="start" if not share else "end" if share == 100 else "middle",
        )
        for share in (0, 25, 50, 75, 100)
    ]
    return svg(290, 32, "Scale of the shades, from 0 to 100 %", [*steps, *marks], "scale")


# Flow -----------------------------------------------------------------------------------------------------------------


FLOW_WIDTH, FLOW_TOP, BAR = 660, 46, 10
"""Width of the drawing, where its columns begin, and the width of a cluster."""
# 150 right of the last column is for its names, which stand right of their nodes.
FLOW_LEFT = (12, FLOW_WIDTH / 2 - BAR / 2 - 20, FLOW_WIDTH - BAR - 150)
"""Where clusters of last epoch, of this epoch, and refined ones stand."""


def flow(drawn: Flow, names: tuple[str, str, str]) -> Html:
    """Three columns of clusters and the streams of images between them."""
    heights = [_node_height(drawn, number) for number in range(len(drawn.nodes))]
    tops, bottom = _stacked(drawn, heights)
    parts = [*_stream_parts(drawn, tops), *_node_parts(drawn, tops, heights)]
    for x, name in zip(FLOW_LEFT, names, strict=True):
        parts.append(el("text", name, x=x, y=18, class_="name"))
        parts.append(el("text", "cluster · images", x=x, y=34))
    total: dict[str, int] = {}
    for stream in drawn.streams:
        total[stream.kind] = total.get(stream.kind, 0) + stream.images
    kinds = ", ".join(f"{kind} {images}" for kind, images in total.items())
    label = f"Flow of images between {names[0]}, {names[1]} and {names[2]}. Images by kind of stream: {kinds}"
    return svg(FLOW_WIDTH, bottom + 4, label, parts, "wide")


def _height(drawn: Flow, stream: Stream) -> float:
    height = max(stream.images * drawn.scale, 1.2)
    return min(height, drawn.cap) if stream.pooled else height


def _node_height(drawn: Flow, number: int) -> float:
    """As high as what leaves a node or what comes to it, whichever is more."""
    leaving = sum(_height(drawn, stream) for stream in drawn.streams if stream.start == number)
    coming = sum(_height(drawn, stream) for stream in drawn.streams if stream.end == number)
    return max(leaving, coming, 1.0)


def _stacked(drawn: Flow, heights: Sequence[float]) -> tuple[list[float], float]:
    """The top of every node, one below another in its column, and the bottom of the longest column."""
    # A name takes the pitch, however thin its node.
    gap, pitch = 5.0, 22.0
    next_top, tops = [float(FLOW_TOP)] * 3, []
    for node, height in zip(drawn.nodes, heights, strict=True):
        tops.append(next_top[node.column])
        next_top[node.column] += max(height + gap, pitch)
    return tops, max(next_top)


def _stream_parts(drawn: Flow, tops: Sequence[float]) -> Iterable[Html]:
    """Streams that leave a node, and those that come to one, lie beside each other in the order of their other ends."""
    # Where the next stream of each node begins. Ends are laid out first, as their order is another one.
    leaves, comes = list(tops), list(tops)
    ends = {}
    for stream in sorted(drawn.streams, key=lambda stream: (tops[stream.end], tops[stream.start])):
        ends[stream] = comes[stream.end]
        comes[stream.end] += _height(drawn, stream)
    for stream in sorted(drawn.streams, key=lambda stream: (tops[stream.start], tops[stream.end])):
        start, end = drawn.nodes[stream.start], drawn.nodes[stream.end]
        x0, x1, thick = FLOW_LEFT[start.column] + BAR, FLOW_LEFT[end.column], _height(drawn, stream)
        y0, y1, bend = leaves[stream.start], ends[stream], (x1 - x0) / 2
        leaves[stream.start] += thick
        # A band: its upper curve, down its right end, its lower curve back.
        shape = (
            f"M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
            f"V{y1 + thick:.1f}C{x1 - bend:.1f} {y1 + thick:.1f} "
            f"{x0 + bend:.1f} {y0 + thick:.1f} {x0:.1f} {y0 + thick:.1f}Z"
        )
        tip = f"{stream.kind}: {stream.images:,} images, {start.name} → {end.name}"
        yield el("path", el("title", tip), d=shape, class_=f"stream {hue(KINDS[stream.kind][0])}")


def _node_parts(drawn: Flow, tops: Sequence[float], heights: Sequence[float]) -> Iterable[Html]:
    for node, y, height in zip(drawn.nodes, tops, heights, strict=True):
        x, tip = FLOW_LEFT[node.column], f"{node.name}: {node.images:,} images"
        yield el("rect", el("title", tip), x=x, y=y, width=BAR, height=height, class_="node")
        name = f"{node.name} · {node.images:,}"
        # In the middle of a node, but near the top of a long one.
        yield el("text", name, x=x + BAR + 4, y=y + min(height / 2, 60) + 4, class_="halo")


# Map ------------------------------------------------------------------------------------------------------------------


def scatter(
    title: str,
    xy_N2: np.ndarray,
    hue_N: np.ndarray,
    tips: Sequence[str],
    names: dict[int, tuple[float, float]],
    axis: str,
) -> Html:
    """Points of the map, and numbers of clusters where they lie.

    Args:
        xy_N2: float positions.
        hue_N: hue of every point, -1 for grey.
        tips: what is shown where the pointer rests on a point.
        names: cluster -> where its name stands, at the bottom of the text.
        axis: name of the axes, without a number.
    """
    wide, high, left, bottom = 640, 520, 30, 34
    margin = 26  # room for a name above the highest cluster
    middle = (xy_N2.min(axis=0) + xy_N2.max(axis=0)) / 2
    width, height = np.ptp(xy_N2, axis=0)  # 0 where all points are one
    scale = min((wide - left - 2 * margin) / (width or 1.0), (high - bottom - 2 * margin) / (height or 1.0))

    def place(x: float, y: float) -> tuple[float, float]:
        # One scale for both axes, as distances have to look alike; y counts downwards in SVG.
        return ((wide + left) / 2 + (x - middle[0]) * scale, (high - bottom) / 2 - (y - middle[1]) * scale)

    order = np.argsort(hue_N, kind="stable")  # grey ones lie below
    parts = [el("rect", x=left, y=1, width=wide - left - 1, height=high - bottom, class_="ground")]
    for i in order:
        x, y = place(*xy_N2[i])
        parts.append(
            el(
                "circle",
                el("title", tips[i]),
                cx=round(x, 1),
                cy=round(y, 1),
                r=2 if hue_N[i] < 0 else 3,
                class_=f"dot {hue(int(hue_N[i])) if hue_N[i] >= 0 else 'grey'}",
            )
        )
    taken: list[tuple[float, float]] = []
    for name, at in names.items():
        x, y = place(*at)
        # A name of a few digits takes 24 by 14; of two that meet, the first, that of the larger cluster, is written.
        if all(abs(x - a) > 24 or abs(y - b) > 14 for a, b in taken):
            taken.append((x, y))
            parts.append(el("text", name, x=x, y=y - 4, text_anchor="middle", class_="halo strong"))
    parts.append(el("text", f"{axis} 1, no unit", x=wide - 2, y=high - 12, text_anchor="end", class_="name"))
    parts.append(
        el("text", f"{axis} 2, no unit", x=18, y=4, text_anchor="end", transform="rotate(-90 18 4)", class_="name")
    )
    return svg(wide, high, title, parts, "wide")


# What drawings share --------------------------------------------------------------------------------------------------


def svg(width: float, height: float, label: str, parts: Iterable[Html], kind: str = "chart") -> Html:
    """A drawing that scales with its place; `label` is read out in its stead."""
    return el("svg", parts, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_=kind)


def ticks(low: float, high: float, about: int = 5, whole: bool = False) -> list[float]:
    """Round numbers, evenly apart, from at or below `low` to at or above `high`; at least two."""
    largest = max(abs(low), abs(high))
    # A flat line lies in the middle of some room.
    if high - low <= max(1e-9, 1e-6 * largest):
        margin = 1.0 if whole else 0.1 * largest if largest > 1e-6 else 0.5
        low, high = low - margin, high + margin
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    # A little less than `rough` will do, or rounding would take the next step for a range of round numbers.
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]  # 0.3, not 0.30000000000000004


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten around a range above 0."""
    marks = [factor * 10.0**power for power in range(-12, 7) for factor in (1, 2, 5)]
    # With room for rounding, so that a value on a mark begins or ends there.
    first = max((mark for mark in marks if mark <= low * 1.0001), default=marks[0])
    last = min((mark for mark in marks if mark >= high * 0.9999), default=marks[-1])
    found = [mark for mark in marks if first <= mark <= last]
    return found if len(found) > 1 else [found[0], found[0] * 2]


def linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A straight scale; a range of nothing lies in the middle."""
    if high == low:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def hue(colour: int) -> str:
    return f"c{colour % COLOURS}"


def _axes(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
    y_label: str,
    x_label: str,
    y_tick: Callable[[float], str],
) -> Iterable[Html]:
    """Lines and numbers of both axes, their labels with units."""
    for y in y_ticks:
        yield el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y_of(y), y2=y_of(y), class_="rule")
        # Text stands on its y; 4 is half of a digit.
        yield el("text", y_tick(y), x=LEFT - 6, y=y_of(y) + 4, text_anchor="end")
    for x in x_ticks:
        yield el("text", f"{x:g}", x=x_of(x), y=HEIGHT - BOTTOM + 16, text_anchor="middle")
    yield el("text", y_label, x=4, y=14, class_="name")
    yield el("text", x_label, x=WIDTH - RIGHT, y=HEIGHT - 8, text_anchor="end", class_="name")
