"""profile.html: a time line, the roofline and the tables, in one file without scripts that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rapids_slr.profiling.compare import verdict
from rapids_slr.profiling.report import Rows, amount, change_table, milliseconds, notes, share, tables

WIDTH = 440
"""Of a drawing, as on a phone; larger screens put two side by side."""
LEFT, RIGHT = 96, 12
LANE = 22
LIGHT = {"page": "#fff", "card": "#f6f7f9", "edge": "#d5dae0", "text": "#1a2027", "soft": "#56606b", "grid": "#dfe3e8"}
DARK = {
    "page": "#0f1318",
    "card": "#171c23",
    "edge": "#323a45",
    "text": "#e7ebf0",
    "soft": "#a3adb9",
    "grid": "#2a313b",
}
KINDS = {
    "data": ("#0a5c3c", "#35e0a0", ("decode", "evaluation")),
    "network": ("#0a6fc2", "#5b9dff", ("embed", "training step", "EMA")),
    "labels": ("#d04a02", "#e8892b", ()),
}
"""Kinds of stages: colour on light, on dark, and stages; those of no other kind are labels."""
RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:1400px;padding:24px clamp(12px,3vw,36px) 48px;background:var(--page);color:var(--text);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:25px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:17px;line-height:1.3;margin:0 0 4px}
p{margin:4px 0;max-width:84ch;overflow-wrap:anywhere}
.soft,li{color:var(--soft);font-size:13.5px}
ul{margin:6px 0;padding-left:18px;max-width:96ch}
li{overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:14px;margin:16px 0}
figure,.card{margin:0 0 14px;background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:14px;
 min-width:0}
.grid figure{margin:0}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:11.5px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .name{fill:var(--text);font-size:12px}
svg .halo{fill:var(--text);paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
.rule{stroke:var(--grid)}
.roof{fill:none;stroke:var(--soft);stroke-width:1.6;stroke-linejoin:round}
.bar,.mark{fill:var(--c)}
.mark{stroke:var(--card)}
.drop{stroke:var(--c);stroke-dasharray:2 3}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:0 0 6px;padding:0}
.legend i{display:inline-block;width:14px;height:11px;border-radius:2px;background:var(--c);margin-right:6px}
.scroll{overflow-x:auto}
.scroll:focus-visible{outline:2px solid var(--text)}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:4px 14px 4px 0;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap;font-weight:400}
th:first-child{text-align:left;position:sticky;left:0;background:var(--card)}
thead th{font-weight:600;color:var(--text)}
footer{margin-top:24px;color:var(--soft);font-size:12.5px}
"""


class Html(str):
    """Text that is HTML already."""


def el(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element; text among its children is escaped, a trailing underscore of an attribute is dropped."""
    stated = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{stated}>" + ("" if name == "meta" else "".join(map(_inner, children)) + f"</{name}>"))


def _inner(child: Any) -> str:
    if child is None or isinstance(child, Html):
        return child or ""
    if isinstance(child, str | int | float):
        return html.escape(_text(child), quote=False)
    return "".join(map(_inner, child))


def _text(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def page_of(result: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> Html:
    """The whole file.

    Args:
        other: a profile to compare with.
    """
    name, environment = result["spec"]["name"], result["environment"]
    title = f"Profile of {name}"
    kinds = [el("li", el("i", class_=kind), kind) for kind in KINDS]
    body: list[Any] = [
        el("h1", title),
        el(
            "p",
            f"{environment['device']} · {result['images']:,} images, D = {result['dim']:,} · {result['weights']} "
            f"weights · {environment['date']} · commit {environment['commit']}",
            class_="soft",
        ),
        el("ul", [el("li", note) for note in notes(result)]),
        el("div", _time_figure(result, kinds), _roofline_figure(result, kinds), class_="grid"),
        [_card(title, rows) for title, rows in tables(result).items()],
    ]
    if other is not None:
        body += [_card("Compared: this profile / the other", change_table(result, other), verdict(result, other))]
    body += [_card("How the work is counted", _ways(result)), _card("Machine and versions", _machine(environment))]
    body.append(el("footer", f"Made by rapids_slr {result['version']}. trace.json opens in ui.perfetto.dev."))
    head = [
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Html(_stylesheet())),
    ]
    return Html("<!DOCTYPE html>\n" + el("html", el("head", head), el("body", body), lang="en"))


def _stylesheet() -> str:
    def variables(colours: Mapping[str, str], scheme: int) -> str:
        stated = {**colours, **{kind: found[scheme] for kind, found in KINDS.items()}}
        return ":root{" + "".join(f"--{name}:{value};" for name, value in stated.items()) + "}"

    kinds = "".join(f".{kind}{{--c:var(--{kind})}}" for kind in KINDS)
    return f"{variables(LIGHT, 0)}@media (prefers-color-scheme:dark){{{variables(DARK, 1)}}}{kinds}{RULES}"


def _kind(stage: str) -> str:
    return next((kind for kind, (_, _, stages) in KINDS.items() if stage in stages), "labels")


# The time line --------------------------------------------------------------------------------------------------------


def _time_figure(result: Mapping[str, Any], kinds: Sequence[Html]) -> Html:
    """A lane for each stage of one repetition, and next to it the milliseconds of the repetition."""
    spans, names = result["timeline"], list(result["stages"])
    end = max(span["start"] + span["seconds"] for span in spans)
    right = WIDTH - RIGHT - 44
    x_of = _line(0, end, LEFT, right)
    top, bottom = 20, 20 + LANE * len(names)
    parts: list[Html] = []
    for tick in _ticks(end):
        x = x_of(tick)
        parts.append(el("line", x1=x, x2=x, y1=top - 4, y2=bottom, class_="rule"))
        parts.append(el("text", f"{tick:g}", x=x, y=bottom + 16, text_anchor="middle"))
    parts.append(el("text", "seconds", x=right, y=bottom + 32, text_anchor="end", class_="name"))
    parts.append(el("text", "ms", x=WIDTH - 4, y=12, text_anchor="end", class_="name"))
    for lane, name in enumerate(names):
        y = top + LANE * lane
        own = [span for span in spans if span["stage"] == name]
        parts.append(el("text", name, x=LEFT - 8, y=y + 14, text_anchor="end", class_="name"))
        for span in own:
            said = f"{name}: {milliseconds(span['seconds'])} ms from {span['start']:.3f} s"
            wide = max(1.5, x_of(span["seconds"]) - LEFT)
            parts.append(
                el("rect", el("title", said), x=x_of(span["start"]), y=y + 3, width=wide, height=LANE - 6,
                   class_=f"bar {_kind(name)}")
            )  # fmt: skip
        seconds = sum(span["seconds"] for span in own)
        parts.append(el("text", milliseconds(seconds), x=WIDTH - 4, y=y + 14, text_anchor="end"))
    told = "Time line of one repetition: " + ", ".join(
        f"{name} {milliseconds(stage['seconds']['median'])} ms" for name, stage in result["stages"].items()
    )
    note = "The repetition whose whole time is the median. A training step holds its EMA."
    return _figure("Time line", note, kinds, _svg(WIDTH, bottom + 38, told, parts))


def _ticks(end: float) -> list[float]:
    """Round seconds from 0 to `end`, four to eight of them."""
    power = 10.0 ** math.floor(math.log10(end / 4))
    step = max(power * factor for factor in (1, 2, 5) if power * factor <= end / 3)
    return [round(step * number, 9) for number in range(int(end / step) + 1)]


# The roofline ---------------------------------------------------------------------------------------------------------


def _roofline_figure(result: Mapping[str, Any], kinds: Sequence[Html]) -> Html:
    """FLOP a second over FLOP a byte, logarithmic, under what the machine was seen to do."""
    roof = result["roofline"]
    bandwidth, peaks = roof["bytes_per_second"], roof["flop_per_second"]
    placed = {
        name: (stage["flop"] / stage["bytes"], stage["flop"] / stage["seconds"]["median"], stage)
        for name, stage in result["stages"].items()
        if stage["flop"] and stage["bytes"]
    }
    ridges = [peak / bandwidth for peak in peaks.values()]
    xs = [x for x, _, _ in placed.values()] + ridges
    ys = [y for _, y, _ in placed.values()] + list(peaks.values())
    low_x, high_x = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs) * 2))
    low_y, high_y = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys) * 1.2))
    left, top, high = 50, 22, 330
    bottom = high - 44
    x_of, y_of = _line(low_x, high_x, left, WIDTH - RIGHT), _line(low_y, high_y, bottom, top)

    def place(x: float, y: float) -> tuple[float, float]:
        return x_of(math.log10(x)), y_of(math.log10(y))

    parts: list[Html] = []
    for power in range(low_x, high_x + 1):
        parts.append(el("line", x1=x_of(power), x2=x_of(power), y1=top, y2=bottom, class_="rule"))
        parts.append(el("text", f"{10.0**power:g}", x=x_of(power), y=bottom + 16, text_anchor="middle"))
    for power in range(low_y, high_y + 1):
        parts.append(el("line", x1=left, x2=WIDTH - RIGHT, y1=y_of(power), y2=y_of(power), class_="rule"))
        parts.append(el("text", amount(10.0**power).strip(), x=left - 6, y=y_of(power) + 4, text_anchor="end"))
    parts.append(el("text", "FLOP a second", x=4, y=12, class_="name"))
    parts.append(el("text", "FLOP a byte", x=WIDTH - RIGHT, y=bottom + 34, text_anchor="end", class_="name"))
    for name, peak in peaks.items():
        start = max(10.0**low_x, 10.0**low_y / bandwidth)
        corners = [place(start, start * bandwidth), place(peak / bandwidth, peak), place(10.0**high_x, peak)]
        parts.append(el("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners), class_="roof"))
        x, y = corners[2]
        parts.append(el("text", f"{amount(peak)}FLOP/s, {name}", x=x, y=y - 5, text_anchor="end", class_="halo"))
    taken: list[tuple[float, float, float]] = []
    for name, (x, y, stage) in sorted(placed.items(), key=lambda item: -item[1][1]):
        a, b = place(x, y)
        kind = _kind(name)
        said = f"{name}: {amount(y)}FLOP/s at {x:.3g} FLOP a byte, {share(stage)} % of the roofline"
        parts.append(el("circle", el("title", said), cx=a, cy=b, r=5, class_=f"mark {kind}"))
        wide = 6.2 * len(name)
        to_left = a + wide + 12 > WIDTH - RIGHT
        start = a - wide - 9 if to_left else a + 9
        line = b + 4
        while any(abs(line - v) < 13 and start < u + w and u < start + wide for u, v, w in taken):
            line += 13
        taken.append((start, line, wide))
        parts.append(el("text", name, x=start, y=line, class_="halo"))
    told = "Roofline: " + "; ".join(
        f"{name} {amount(y)}FLOP/s at {x:.3g} FLOP a byte" for name, (x, y, _) in placed.items()
    )
    missing = [name for name in result["stages"] if name not in placed]
    note = "On the slope memory bounds a stage, under the level part arithmetic does; the distance is what is left."
    if missing:
        note += f" Not in it, for want of a count of FLOP: {', '.join(missing)}."
    return _figure("Roofline", note, kinds, _svg(WIDTH, high, told, parts))


# Pieces ---------------------------------------------------------------------------------------------------------------


def _ways(result: Mapping[str, Any]) -> Rows:
    """How FLOP and bytes of each stage were counted."""
    return ("stage", "FLOP", "bytes", "compared with"), [
        (name, stage["flop_counted"] or "–", stage["bytes_counted"] or "–", stage["precision"])
        for name, stage in result["stages"].items()
    ]


def _machine(environment: Mapping[str, Any]) -> Rows:
    return ("what", "value"), [(name, str(value)) for name, value in environment.items()]


def _card(title: str, rows: Rows, words: Iterable[str] = ()) -> Html:
    heads, body = rows
    head = el("tr", [el("th", name, scope="col") for name in heads])
    lines = [el("tr", el("th", first, scope="row"), [el("td", cell) for cell in cells]) for first, *cells in body]
    table = el("table", el("thead", head), el("tbody", lines))
    scrolled = el("div", table, class_="scroll", tabindex=0, role="region", aria_label=title)
    return el("section", el("h2", title), [el("p", line, class_="soft") for line in words], scrolled, class_="card")


def _figure(title: str, note: str, kinds: Sequence[Html], drawing: Html) -> Html:
    return el(
        "figure",
        el("figcaption", el("h2", title), el("p", note, class_="soft")),
        el("ul", kinds, class_="legend"),
        drawing,
    )


def _svg(width: float, height: float, told: str, parts: Sequence[Html]) -> Html:
    return el("svg", parts, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=told)


def _line(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)
