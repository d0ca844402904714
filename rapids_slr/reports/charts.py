"""The charts that show all runs together: curves over epochs, and time by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rapids_slr.reports.drawings import COLOURS, Line, Scale, counts, curves, legend, percent, plain
from rapids_slr.reports.gather import Run
from rapids_slr.reports.markup import Html, el
from rapids_slr.reports.pieces import NO_EPOCH, absent, duration, figure, score, scrolled, seconds_text, share_text

UNKNOWN = "The identities of the target are not known, so nothing can be compared with them."


@dataclass(frozen=True)
class Metric:
    """A column of metrics.jsonl or pretrain.jsonl, as a curve."""

    key: str
    name: str
    dashed: bool = False
    """Drawn beside the metric before it, in the same panel and hue."""


@dataclass(frozen=True)
class Chart:
    """Curves that belong together."""

    id: str
    title: str
    note: str
    scale: Scale
    metrics: tuple[Metric, ...]
    absent: str = UNKNOWN


RAW = "Solid: refined labels. Dashed: the clusters before refinement."
CHARTS = (
    Chart(
        "scores",
        "Retrieval on the test split of the target",
        "mAP and rank-1 of the teacher by the Market-1501 protocol; epoch 0 is the network before adaptation.",
        percent("score"),
        (Metric("mAP", "mAP"), Metric("rank1", "rank-1")),
        "No epoch has been evaluated yet.",
    ),
    Chart(
        "clusters",
        "Clusters over epochs",
        RAW,
        counts("clusters"),
        (Metric("refined_clusters", "refined clusters"), Metric("clusters", "raw clusters", dashed=True)),
        NO_EPOCH,
    ),
    Chart(
        "outliers",
        "Images outside of clusters",
        "Outliers of the clustering, those that refinement gives a cluster (rescued), and what training leaves out.",
        counts("images"),
        (Metric("outliers", "outliers"), Metric("rescued", "rescued"), Metric("left_out", "left out")),
        NO_EPOCH,
    ),
    Chart(
        "ari",
        "ARI: agreement of labels with identities",
        f"1 is perfect, 0 is chance; an outlier counts as a cluster of its own. {RAW}",
        plain("ARI, no unit"),
        (Metric("ari", "refined"), Metric("raw_ari", "raw", dashed=True)),
    ),
    Chart(
        "nmi",
        "NMI: agreement of labels with identities",
        f"1 is perfect; an outlier counts as a cluster of its own. {RAW}",
        plain("NMI, no unit"),
        (Metric("nmi", "refined"), Metric("raw_nmi", "raw", dashed=True)),
    ),
    Chart(
        "agreement",
        "ARI with the labels of the epoch before",
        f"Near 1 the labels have come to rest. {RAW}",
        plain("ARI, no unit"),
        (Metric("ari_prev", "refined"), Metric("raw_ari_prev", "raw", dashed=True)),
        "It takes two finished epochs.",
    ),
    Chart(
        "errors",
        "False and missed pairs",
        f"False: pairs in a cluster that are two identities. Missed: pairs of an identity in no common cluster. {RAW}",
        percent("pairs", from_zero=True),
        (
            Metric("false_pairs", "false pairs"),
            Metric("raw_false_pairs", "false, raw", dashed=True),
            Metric("missed_pairs", "missed pairs"),
            Metric("raw_missed_pairs", "missed, raw", dashed=True),
        ),
    ),
    Chart(
        "repeated",
        "Errors that were made the epoch before",
        f"Share of the false, and of the missed pairs, that repeat. {RAW}",
        percent("pairs"),
        (
            Metric("false_repeated", "false pairs repeated"),
            Metric("raw_false_repeated", "false repeated, raw", dashed=True),
            Metric("missed_repeated", "missed pairs repeated"),
            Metric("raw_missed_repeated", "missed repeated, raw", dashed=True),
        ),
        "It takes two finished epochs and known identities.",
    ),
    Chart(
        "entropy",
        "Mean entropy of the soft labels",
        "0 bits: last epoch’s and this epoch’s cluster are the same; 1 bit: two clusters are equally likely.",
        plain("entropy, bits"),
        (Metric("entropy", "mean entropy"),),
        "No epoch has finished yet, or label tables do not tell the soft labels (refine: none, clusters.also).",
    ),
    Chart(
        "right",
        "Right images in clusters",
        "Purity: clustered images of the main identity of their cluster. Rescued rightly: into a cluster of their own.",
        percent("images"),
        (
            Metric("purity", "purity"),
            Metric("raw_purity", "purity, raw", dashed=True),
            Metric("rescued_rightly", "rescued rightly"),
        ),
    ),
    Chart(
        "losses",
        "Losses of adaptation",
        "Means of an epoch, unweighted: cross entropy with the labels (ce) and the teacher (soft), triplet loss.",
        plain("loss, no unit"),
        (Metric("loss/ce", "ce"), Metric("loss/soft", "soft"), Metric("loss/triplet", "triplet")),
        NO_EPOCH,
    ),
    Chart(
        "rate",
        "Learning rate of adaptation",
        "Adam starts afresh every epoch at the rate of the spec.",
        plain("learning rate, no unit"),
        (Metric("rate", "learning rate"),),
        NO_EPOCH,
    ),
)
NO_PRETRAINING = "No epoch of pre-training has finished yet."
PRETRAINING = (
    Chart(
        "pretraining",
        "Losses of pre-training on the source",
        "Means of an epoch.",
        plain("loss, no unit"),
        (Metric("loss/ce", "ce"), Metric("loss/triplet", "triplet")),
        NO_PRETRAINING,
    ),
    Chart(
        "pretraining-rate",
        "Learning rate of pre-training",
        "On a logarithmic scale.",
        plain("learning rate, no unit", logarithmic=True),
        (Metric("lr", "learning rate"),),
        NO_PRETRAINING,
    ),
)
FIGURES = (*(chart.id for chart in (*CHARTS, *PRETRAINING)), "time")
"""Figures of all runs together; their ids in the page."""


def points_of(run: Run, chart: Chart, key: str) -> list[tuple[float, float]]:
    """The points of a curve: epoch and value, where there is one."""
    if key == "entropy":
        return [(float(epoch), value) for epoch, value in run.mean_entropy]
    if key == "rate":
        return [(row["epoch"], run.spec.training.lr) for row in run.epochs]
    rows = run.pretraining if chart in PRETRAINING else run.epochs
    points = [(float(row["epoch"]), float(row[key])) for row in rows if key in row]
    if chart.id == "scores" and (start := starting_scores(run)):
        points.insert(0, (0.0, start[key]))
    return points


def starting_scores(run: Run) -> dict[str, float]:
    """Scores of the network that the first epoch clusters with."""
    return run.start.get("direct_bn" if run.spec.features.bn_recalibrate else "direct", {})


def chart_figure(chart: Chart, runs: Sequence[Run]) -> Html:
    """One panel of all metrics for a single run; for several a panel a metric, with a line a run."""
    drawn = chart_of_one(chart, runs[0]) if len(runs) == 1 else chart_of_many(chart, runs)
    if drawn is not None:
        return drawn
    given = [run.spec.pretrain.checkpoint for run in runs if run.spec.pretrain.checkpoint is not None]
    why = f"The network was given: {given[0]}." if chart in PRETRAINING and given else chart.absent
    return absent(chart.id, chart.title, why)


def panels_of(chart: Chart) -> list[list[Metric]]:
    """The metrics of a chart, each with what is drawn dashed beside it."""
    panels: list[list[Metric]] = []
    for metric in chart.metrics:
        if metric.dashed:
            panels[-1].append(metric)
        else:
            panels.append([metric])
    return panels


def chart_of_one(chart: Chart, run: Run) -> Html | None:
    """All metrics of a run in one panel; None without a point."""
    lines = [
        Line(metric.name, points, hue, metric.dashed)
        for hue, metrics in enumerate(panels_of(chart))
        for metric in metrics
        if (points := points_of(run, chart, metric.key))
    ]
    if not lines:
        return None
    said = "; ".join(f"{line.name} {change(line, chart.scale)}" for line in lines if not line.dashed)
    level, name = level_of(chart, run)
    drawing = curves(chart.title, lines, chart.scale, level=level)
    return figure(chart.id, chart.title, [legend(lines, name), drawing], said, chart.note)


def chart_of_many(chart: Chart, runs: Sequence[Run]) -> Html | None:
    """A panel a metric, with the same hue for a run in all of them; None without a point."""
    shown: dict[int, str] = {}
    panels: list[tuple[str, list[Line]]] = []
    for metrics in panels_of(chart):
        lines = [
            Line(f"{run.name}, {metric.name}", points, number, metric.dashed)
            for metric in metrics
            for number, run in enumerate(runs)
            if (points := points_of(run, chart, metric.key))
        ]
        if lines:
            panels.append((metrics[0].name, lines))
            shown |= {line.colour: runs[line.colour].name for line in lines}
    if not panels:
        return None
    levels = {level_of(chart, run) for run in runs} if chart.id == "clusters" else set()
    level, named = levels.pop() if len(levels) == 1 else (None, None)
    drawings = [
        el(
            "div",
            el("h4", name) if len(panels) > 1 else None,
            curves(f"{chart.title}, {name}", lines, chart.scale, level=level),
        )
        for name, lines in panels
    ]
    key = legend([Line(name, [], number) for number, name in sorted(shown.items())], named)
    wide = {1: None, 2: "half"}.get(len(panels), "full")
    return figure(chart.id, chart.title, [key, el("div", drawings, class_="panels")], None, chart.note, wide)


def change(line: Line, scale: Scale) -> str:
    """First and last value of a line; where they are the same, the highest too."""
    values = [y for _, y in line.points]
    first, last, most = (scale.say(y) for y in (values[0], values[-1], max(values)))
    if len(values) == 1 or first == last == most:
        return first
    return f"{first} → {last}" if first != last else f"{first} → {last}, at most {most}"


def level_of(chart: Chart, run: Run) -> tuple[float | None, str | None]:
    """What a chart is compared with: a value and its name."""
    if chart.id == "scores" and "direct_bn" in run.start:
        return run.start["direct_bn"][
            "mAP"
        ], f"mAP without training (direct_bn): {score(run.start['direct_bn']['mAP'])}"
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
                if key.startswith("seconds/") and key != "seconds/epoch":
                    by_run = stages.setdefault(key.removeprefix("seconds/"), {})
                    by_run[run.name] = by_run.get(run.name, 0.0) + value
    if not stages:
        return absent("time", title, NO_EPOCH)
    totals = {run.name: sum(row.get("seconds/epoch", 0.0) for row in run.epochs) for run in runs}
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
    said = "; ".join(
        f"{name}: {duration(value)}" if len(runs) > 1 else f"{duration(value)} in all" for name, value in totals.items()
    )
    return figure(
        "time", title, content, said, "Wall time of all epochs; evaluation included, pre-training not.", "full"
    )
