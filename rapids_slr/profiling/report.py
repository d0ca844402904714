"""A profile on the screen: the table of stages, what the figures rest on, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from rapids_slr.profiling.compare import changes, verdict

PEAKS = ("most", "added")
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show(result: Mapping[str, Any], other: Mapping[str, Any] | None = None, console: Console | None = None) -> None:
    """The table of a profile, the notes beneath it, and beside another profile what changed."""
    console = console or Console(markup=False, highlight=False)
    for title, (heads, rows) in tables(result).items():
        console.print(_table(title, heads, rows))
    for note in notes(result):
        console.print(note, soft_wrap=True)
    if other is not None:
        heads, rows = change_table(result, other)
        console.print(_table("compared: this profile / the other", heads, rows))
        for line in verdict(result, other):
            console.print(line, soft_wrap=True)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table


# Tables and notes, for the screen and the page ------------------------------------------------------------------------

Rows = tuple[Sequence[str], Sequence[Sequence[str]]]


def tables(result: Mapping[str, Any]) -> dict[str, Rows]:
    """Title -> heads and rows: time and work of every stage, and on CUDA what the device did."""
    title = (
        f"{result['spec']['name']} on {result['environment']['device']}: {result['images']:,} images, "
        f"D = {result['dim']:,}, {result['weights']} weights, median of {result['repetitions']}"
    )
    found = {title: _time_table(result), "memory of the process, and work": _work_table(result)}
    if on_device := {name: stage["device"] for name, stage in result["stages"].items() if stage["device"]}:
        found["what the device did"] = _device_table(on_device)
    return found


def _time_table(result: Mapping[str, Any]) -> Rows:
    stages, walls = result["stages"], result["wall_seconds"]
    total = sum(stage["seconds"]["median"] for stage in stages.values())
    rows: list[Sequence[str]] = [
        (
            name,
            milliseconds(stage["seconds"]["median"]),
            _spread(stage["seconds"]["low"], stage["seconds"]["high"]),
            f"{100 * stage['seconds']['median'] / total:.1f}",
            f"{amount(stage['per_second']).strip()} {stage['unit']}",
        )
        for name, stage in stages.items()
    ]
    rows.append(("between them", milliseconds(median(walls) * (1 - result["accounted"])), "", "", ""))
    rows.append(("measured part", milliseconds(median(walls)), _spread(min(walls), max(walls)), "", ""))
    return ("stage", "ms", "spread", "%", "a second"), rows


def _work_table(result: Mapping[str, Any]) -> Rows:
    rows = [
        (
            name,
            *("–" if stage["host_peak_mb"] is None else f"{stage['host_peak_mb'][which]:,.0f}" for which in PEAKS),
            amount(stage["flop"]),
            amount(stage["bytes"]),
            share(stage),
        )
        for name, stage in result["stages"].items()
    ]
    return ("stage", "peak MB", "+ MB", "FLOP", "bytes", "% of roofline"), rows


def _device_table(done_by_stage: Mapping[str, Mapping[str, Any]]) -> Rows:
    ways = ("to_device", "to_host")
    named = [f"{what} {way.replace('_', ' ')}" for way in ways for what in ("copies", "bytes", "largest")]
    rows = [
        (
            name,
            milliseconds(done["seconds"]),
            f"{done['kernels']:,}",
            *(
                cell
                for way in ways
                for cell in (f"{done[way]['count']:,}", amount(done[way]["bytes"]), amount(done[way]["largest"]))
            ),
            *(f"{done['peak_mb'][which]:,.0f}" for which in PEAKS),
        )
        for name, done in done_by_stage.items()
    ]
    return ("stage", "ms", "kernels", *named, "peak MB", "+ MB"), rows


def _spread(low: float, high: float) -> str:
    return f"{milliseconds(low)} – {milliseconds(high)}"


def change_table(result: Mapping[str, Any], other: Mapping[str, Any]) -> Rows:
    """Heads and rows of a comparison; ratios are this profile's figure divided by the other's."""
    rows = [
        (
            name,
            *("–" if row[what] is None else f"{row[what]:.2f}" for what in ("seconds", "memory", "flop", "bytes")),
            row["change"],
        )
        for name, row in changes(result, other).items()
    ]
    return ("stage", "time x", "peak memory x", "FLOP x", "bytes x", "beyond the spreads"), rows


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the figures rest on, a line each."""
    roof, costs = result["roofline"], result["overhead"]
    products = ", ".join(f"{amount(speed)}FLOP/s in {name}" for name, speed in roof["flop_per_second"].items())
    under_profiler = sum(stage["traced_seconds"] for stage in result["stages"].values())
    lines = [
        f"stages add up to {100 * result['accounted']:.1f} % of the measured part; spread: lowest and highest of "
        f"{result['repetitions']} repetitions after {result['warm_up']} that does not count",
        f"this machine, probed: {products} (matrix product), {amount(roof['bytes_per_second'])}B/s (triad), "
        f"{result['environment']['threads']} threads",
        f"with marks the label stages take {milliseconds(costs['label_seconds'])} ms, without "
        f"{milliseconds(costs['label_seconds_unmarked'])} ms (fastest of {costs['pairs']} each, in turn); a mark costs "
        f"{1e6 * costs['seconds_a_mark']:.0f} us, the {costs['marks']} of a repetition {100 * costs['share']:.2f} % of "
        "it; a run that is not profiled has none inside its stages",
        f"under the profiler, for trace.json, the one repetition took {milliseconds(under_profiler)} ms "
        f"({100 * costs['traced_share']:+.0f} %); the times above are without it",
    ]
    if result["weights"] == "random":
        lines.append(
            "the weights are random: clusters, and the times of label stages, are not those of a trained network"
        )
    if not any(stage["device"] for stage in result["stages"].values()):
        lines.append(f"no device columns: the engine is {result['engine']} ({result['why']})")
    return lines


def milliseconds(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}" if ms >= 1 else f"{ms:.2g}"


def amount(value: float | None) -> str:
    """A number with three digits and a letter for its size: 1.23 G."""
    if value is None:
        return "–"
    # From 0.9995 on three digits would be 1000 of the letter before. The blank at the end is for a unit to follow.
    for size, letter in UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} " if value % 1 else f"{value:.0f} "


def share(stage: Mapping[str, Any]) -> str:
    """Part of the roofline in percent, and what bounds it."""
    if stage["roofline_share"] is None:
        return "–"
    percent = 100 * stage["roofline_share"]
    return f"{percent:.0f} ({stage['bound']})" if percent >= 10 else f"{percent:.2g} ({stage['bound']})"
