"""The charts that show all runs together: curves over epochs, and time by stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapids_slr.hosts.loop import adaptation_rate
from rapids_slr.record.columns import SECONDS, WHOLE, Column, column_of, columns_in
from rapids_slr.reports.drawings import COLOURS, Line, Scale, counts, curves, legend, percent, plain
from rapids_slr.reports.gather import Run
from rapids_slr.reports.markup import Html, el
from rapids_slr.reports.pieces import (
    NO_EPOCH,
    UNTESTED,
    absent,
    duration,
    figure,
    score,
    scrolled,
    seconds_text,
    share_text,
)

UNKNOWN = "The identities of the target are not known, so nothing can be compared with them."
COUNTED = ("clusters", "images")
"""Units of whole numbers; their axis begins at 0."""


@dataclass(frozen=True)
class Chart:
    """The curves of a group of columns: all of it that a run has."""

    id: str
    title: str
    note: str
    group: str
    quantity: str = ""
    """What the y axis shows; the unit of the columns without."""
    absent: str = UNKNOWN
    from_zero: bool = False
    logarithmic: bool = False


RAW = "Solid: refined labels. Dashed: the clusters before refinement."
CHARTS = (
    Chart(
        "scores",
        "Scores on the test split of the target",
        "Scores of the network by the protocol of its task; epoch 0 is the network before adaptation.",
        "scores",
        "score",
        "No epoch has been evaluated yet.",
    ),
    Chart("clusters", "Clusters over epochs", RAW, "clusters", absent=NO_EPOCH),
    Chart(
        "outliers",
        "Images outside of clusters",
        "Outliers of the clustering, those that refinement gives a cluster (rescued), and what training leaves out.",
        "outliers",
        absent=NO_EPOCH,
    ),
    Chart(
        "ari",
        "ARI: agreement of labels with identities",
        f"1 is perfect, 0 is chance; an outlier counts as a cluster of its own. {RAW}",
        "ari",
        "ARI",
    ),
    Chart(
        "nmi",
        "NMI: agreement of labels with identities",
        f"1 is perfect; an outlier counts as a cluster of its own. {RAW}",
        "nmi",
        "NMI",
    ),
    Chart(
        "agreement",
        "ARI with the labels of the epoch before",
        f"Near 1 the labels have come to rest. {RAW}",
        "agreement",
        "ARI",
        "It takes two finished epochs.",
    ),
    Chart(
        "errors",
        "False and missed pairs",
        f"False: pairs in a cluster that are two identities. Missed: pairs of an identity in no common cluster. {RAW}",
        "errors",
        "pairs",
        from_zero=True,
    ),
    Chart(
        "repeated",
        "Errors that were made the epoch before",
        f"Share of the false, and of the missed pairs, that repeat. {RAW}",
        "repeated",
        "pairs",
        "It takes two finished epochs and known identities.",
    ),
    Chart(
        "entropy",
        "Mean entropy of the soft labels",
        "0 bits: last epoch’s and this epoch’s cluster are the same; 1 bit: two clusters are equally likely.",
        "entropy",
        "entropy",
        "No epoch has finished yet, or label tables do not tell the soft labels (refine: none, clusters.also).",
    ),
    Chart(
        "right",
        "Right images in clusters",
        "Purity: clustered images of the main identity of their cluster. Rescued rightly: into a cluster of their own.",
        "right",
        "images",
    ),
    Chart("losses", "Losses of adaptation", "Means of an epoch, unweighted.", "loss", "loss", NO_EPOCH),
    Chart(
        "rate",
        "Learning rate of adaptation",
        "Adam starts afresh every epoch at the rate of the spec.",
        "rate",
        "learning rate",
        NO_EPOCH,
    ),
)
GUARD = Chart(
    "guard",
    "Whether adaptation helps, told without identities",
    "Of training images of the target, the same ones in every epoch; epoch 0 is the network before adaptation.",
    "guard",
    "share",
    "No epoch has been evaluated yet.",
)
"""Shown where a run has a guard."""
NO_PRETRAINING = "No epoch of pre-training has finished yet."
PRETRAINING = (
    Chart("pretraining", "Losses of pre-training on the source", "Means of an epoch.", "loss", "loss", NO_PRETRAINING),
    Chart(
        "pretraining-rate",
        "Learning rate of pre-training",
        "On a logarithmic scale.",
        "rate",
        "learning rate",
        NO_PRETRAINING,
        logarithmic=True,
    ),
)
FIGURES = (*(chart.id for chart in (*CHARTS, *PRETRAINING)), "time")
"""Figures of all runs together; their ids in the page."""


def charts_of(runs: Sequence[Run]) -> list[Chart]:
    """The curves of the adaptation that runs have a place for."""
    guarded = any(run.spec.evaluation.guard for run in runs)
    return [*CHARTS[:1], GUARD, *CHARTS[1:]] if guarded else list(CHARTS)


def rows_of(run: Run, chart: Chart) -> Sequence[Mapping[str, Any]]:
    """The epochs that a chart shows, rows of columns."""
    if chart in PRETRAINING:
        return run.pretraining
    if chart.group == "entropy":
        return [{"epoch": epoch, "entropy": value} for epoch, value in run.mean_entropy]
    if chart.group == "rate":
        # metrics.jsonl has none, as it follows from the spec.
        return [
            {"epoch": row["epoch"], "lr": adaptation_rate(run.spec.training, int(row["epoch"]))} for row in run.epochs
        ]
    if chart.group == "scores" and (start := starting_scores(run)):
        return [{"epoch": 0, **start}, *run.epochs]
    if chart is GUARD and "guard" in run.start:
        return [{"epoch": 0, **run.start["guard"]}, *run.epochs]
    return run.epochs


def points_of(run: Run, chart: Chart, column: Column) -> list[tuple[float, float]]:
    """The points of a curve: epoch and value, where there is one."""
    return [(float(row["epoch"]), float(row[column.key])) for row in rows_of(run, chart) if column.key in row]


def starting_scores(run: Run) -> dict[str, float]:
    """Scores of the network that the first epoch clusters with."""
    return run.start.get("direct_bn" if run.spec.features.bn_recalibrate else "direct", {})


def chart_figure(chart: Chart, runs: Sequence[Run]) -> Html:
    """One panel of all columns for a single run; for several a panel a column, with a line a run."""
    if panels := panels_of(chart, runs):
        return chart_of_one(chart, panels, runs[0]) if len(runs) == 1 else chart_of_many(chart, panels, runs)
    return absent(chart.id, chart.title, why_absent(chart, runs))


def why_absent(chart: Chart, runs: Sequence[Run]) -> str:
    """Why no run has anything that a chart shows."""
    if chart.id == "scores" and all(run.untested for run in runs):
        return UNTESTED
    if chart in PRETRAINING:
        if given := [run.spec.checkpoint for run in runs if run.spec.checkpoint is not None]:
            return f"The network was given: {given[0]}."
        if all(run.spec.pretrain is None for run in runs):
            return (
                f"There was no pre-training; the network started from weights: {runs[0].spec.model.weights or 'none'}."
            )
    return chart.absent


def panels_of(chart: Chart, runs: Sequence[Run]) -> list[list[Column]]:
    """The columns of a chart that any run has, each with those that are drawn beside it."""
    columns = columns_in((row for run in runs for row in rows_of(run, chart)), chart.group)
    # A figure of raw clusters whose refined one is not there has a panel of its own.
    keys = {column.key for column in columns}
    return [
        [column, *(other for other in columns if other.beside == column.key)]
        for column in columns
        if column.beside not in keys
    ]


def scale_of(chart: Chart, column: Column) -> Scale:
    """The y axis of columns that have one unit."""
    if column.unit in COUNTED:
        return counts(chart.quantity or column.unit)
    if column.unit == "%":
        return percent(chart.quantity, chart.from_zero)
    return plain(f"{chart.quantity}, {column.unit or 'no unit'}", chart.logarithmic)


def note_of(chart: Chart, columns: Iterable[Column]) -> str:
    """How to read a chart: its note, what its columns mean, and which way is better if all of them agree."""
    columns = list(columns)
    meanings = "; ".join(f"{column.name}: {column.meaning}" for column in columns if column.meaning)
    ways = {column.better for column in columns}
    better = f"{ways.pop().capitalize()} is better." if len(ways) == 1 and all(ways) else ""
    return " ".join(filter(None, (chart.note, meanings and f"{meanings}.", better)))


def chart_of_one(chart: Chart, panels: Sequence[Sequence[Column]], run: Run) -> Html:
    """All columns of a run in one panel."""
    scale = scale_of(chart, panels[0][0])
    lines = [
        Line(column.name, points_of(run, chart, column), hue, bool(column.beside))
        for hue, columns in enumerate(panels)
        for column in columns
    ]
    lead = "; ".join(f"{line.name} {change(line, scale)}" for line in lines if not line.dashed)
    level, name = level_of(chart, run)
    drawing = curves(chart.title, lines, scale, level=level)
    note = note_of(chart, (columns[0] for columns in panels))
    return figure(chart.id, chart.title, [legend(lines, name), drawing], lead, note)


def chart_of_many(chart: Chart, panels: Sequence[Sequence[Column]], runs: Sequence[Run]) -> Html:
    """A panel a column, with the same hue for a run in all of them."""
    scale = scale_of(chart, panels[0][0])
    shown: dict[int, str] = {}
    drawn: list[tuple[str, list[Line]]] = []
    for columns in panels:
        lines = [
            Line(f"{run.name}, {column.name}", points, number, bool(column.beside))
            for column in columns
            for number, run in enumerate(runs)
            if (points := points_of(run, chart, column))
        ]
        drawn.append((columns[0].name, lines))
        shown |= {line.colour: runs[line.colour].name for line in lines}
    # One level for all panels: only where the runs agree on it.
    levels = {level_of(chart, run) for run in runs} if chart.id == "clusters" else set()
    level, named = levels.pop() if len(levels) == 1 else (None, None)
    drawings = [
        el(
            "div",
            el("h4", name) if len(drawn) > 1 else None,
            curves(f"{chart.title}, {name}", lines, scale, level=level),
        )
        for name, lines in drawn
    ]
    key = legend([Line(name, [], number) for number, name in sorted(shown.items())], named)
    wide = {1: None, 2: "half"}.get(len(drawn), "full")
    note = note_of(chart, (columns[0] for columns in panels))
    return figure(chart.id, chart.title, [key, el("div", drawings, class_="panels")], None, note, wide)


def change(line: Line, scale: Scale) -> str:
    """First and last value of a line; where they are the same, the highest too."""
    values = [y for _, y in line.points]
    first, last, most = (scale.say(y) for y in (values[0], values[-1], max(values)))
    if len(values) == 1 or first == last == most:
        return first
    return f"{first} → {last}" if first != last else f"{first} → {last}, at most {most}"


def level_of(chart: Chart, run: Run) -> tuple[float | None, str | None]:
    """What a chart is compared with: a value and its name."""
    if chart.id == "scores" and (value := run.start.get("direct_bn", {}).get(run.headline)) is not None:
        return value, f"{column_of(run.headline).name} without training (direct_bn): {score(value)}"
    if chart.id == "clusters" and "identities" in run.last:
        return run.last["identities"], f"identities: {run.last['identities']:g}"
    return None, None


def time_figure(runs: Sequence[Run]) -> Html:
    """Seconds of every stage of the adaptation, as a table with bars."""
    title, hue = "Time by stage of the adaptation", {run.name: i for i, run in enumerate(runs)}
    stages: dict[str, dict[str, float]] = {}
    for run in runs:
        for row in run.epochs:
            for key, value in row.items():
                if key.startswith(SECONDS) and key != WHOLE:  # which is no stage
                    by_run = stages.setdefault(column_of(key).name, {})
                    by_run[run.name] = by_run.get(run.name, 0.0) + value
    if not stages:
        return absent("time", title, NO_EPOCH)
    totals = {run.name: sum(row.get(WHOLE, 0.0) for row in run.epochs) for run in runs}
    # 1 where nothing took any time, as bars are shares of it.
    longest = max(value for by_run in stages.values() for value in by_run.values()) or 1.0
    body = []
    for stage, by_run in sorted(stages.items(), key=lambda item: -max(item[1].values())):
        for name, value in by_run.items():
            bar = el(
                "td",
                el("i", class_=f"c{hue[name] % COLOURS}", style=f"width:{100 * value / longest:.2f}%"),
                class_="bar",
            )
            cells = [
                el("th", stage if len(runs) == 1 else f"{stage}, {name}", scope="row"),
                el("td", seconds_text(value)),
            ]
            body.append(el("tr", cells, el("td", share_text(value, totals[name])), bar))
    head = el("tr", [el("th", name, scope="col") for name in ("stage", "seconds", "% of all", "")])
    content = scrolled(el("table", el("thead", head), el("tbody", body), class_="fill"), title)
    lead = "; ".join(
        f"{name}: {duration(value)}" if len(runs) > 1 else f"{duration(value)} in all" for name, value in totals.items()
    )
    return figure(
        "time", title, content, lead, "Wall time of all epochs; evaluation included, pre-training not.", "full"
    )
