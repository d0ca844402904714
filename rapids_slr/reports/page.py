"""The page: what was gathered of one run or several, as one HTML file that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rapids_slr import __version__
from rapids_slr.record.columns import WHOLE
from rapids_slr.reports.charts import PRETRAINING, chart_figure, charts_of, time_figure
from rapids_slr.reports.drawings import Line, legend
from rapids_slr.reports.figures import (
    change_figures,
    contact_figure,
    flow_figure,
    map_figure,
    projection_figure,
    sizes_figure,
    soft_figure,
)
from rapids_slr.reports.gather import Run
from rapids_slr.reports.markup import Html, el, join
from rapids_slr.reports.pictures import report_of
from rapids_slr.reports.pieces import document, duration, notice, score, table, tile
from rapids_slr.reports.scores import epoch_table, last_scores, score_table, settings_that_differ

Section = tuple[str, str, Any]
"""Id, heading, content."""


def page_of(runs: Sequence[Run]) -> Html:
    """The whole file.

    Args:
        runs: at least one, with names of their own.
    """
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: " + ", ".join(run.name for run in runs)
    many = len(runs) > 1
    # All runs together first, then each by itself; several have their names in headings and links.
    groups = [("", list(together(runs)))] + [(run.name, list(alone(run, i))) for i, run in enumerate(runs, 1)]
    sections = [
        el("section", el("h2", f"{name}: {heading.lower()}" if many and name else heading), content, id=id)
        for name, group in groups
        for id, heading, content in group
    ]
    links = [
        el("p", f"{name}:" if many and name else None, [el("a", heading, href=f"#{id}") for id, heading, _ in group])
        for name, group in groups
    ]
    body = [
        el("header", *(opening_of_many(runs) if many else opening(runs[0]))),
        el("nav", links, aria_label="Sections"),
        el("main", sections),
        el(
            "footer",
            f"Made by rapids_slr {__version__} on {time.strftime('%Y-%m-%d %H:%M:%S %Z')}.",
        ),
    ]
    return document(f"{title} – rapids_slr report", body)


# The top --------------------------------------------------------------------------------------------------------------


def opening(run: Run) -> Iterable[Html | None]:
    """Name, state, headline figures and what is missing, of a single run."""
    yield el("h1", run.name)
    facts = [run.state[:1].upper() + run.state[1:], run.spec.refine.words, f"seed {run.spec.seed}", str(run.path)]
    yield el("p", " · ".join(facts), class_="soft")
    yield el("div", list(tiles(run)), class_="tiles")
    yield missing([run])


def opening_of_many(runs: Sequence[Run]) -> Iterable[Html | None]:
    yield el("h1", f"{len(runs)} runs side by side")
    yield el("p", "Colours and marks are the same in all charts; pictures of each run follow below.", class_="soft")
    yield legend([Line(run.name, [], number) for number, run in enumerate(runs)])
    yield missing(runs)


def tiles(run: Run) -> Iterable[Html]:
    """The headline figures of a run."""
    last, before = last_scores(run), run.start.get("direct_bn")
    for column in (column for column in run.scores if column.group == "scores" and not run.untested):
        key, name = column.key, column.name.capitalize() if column.name.islower() else column.name  # mAP stays mAP
        gain = (
            f"{100 * (last[key] - before[key]):+.1f} points on direct_bn"
            if key in last and before and key in before
            else "no score before it"
        )
        yield tile(f"{name}, last epoch" if run.finished else f"{name} so far", score(last.get(key)), gain)
    row = run.last
    clusters = f"{row['clusters']:g} → {row['refined_clusters']:g}" if row else "–"
    yield tile(
        "Clusters, raw → refined",
        clusters,
        f"{row['identities']:g} identities" if "identities" in row else "identities unknown",
    )
    images = f"of {len(run.labels):,} images, {row['rescued']:g} rescued" if run.labels and row else "no epoch yet"
    yield tile("Left out of training", f"{row['left_out']:g}" if "left_out" in row else "–", images)
    if "ari" in row:
        yield tile(
            "ARI, raw → refined",
            f"{row['raw_ari']:.3f} → {row['ari']:.3f}",
            f"NMI {row['raw_nmi']:.3f} → {row['nmi']:.3f}",
        )
    pretraining, adapting = (sum(row.get(WHOLE, 0.0) for row in rows) for rows in (run.pretraining, run.epochs))
    device = str(run.summary.get("device", "device told at the end"))
    detail = f"{duration(adapting)} of it adaptation · {device}" if pretraining else device
    yield tile("Time of all epochs", duration(pretraining + adapting), detail)


def missing(runs: Sequence[Run]) -> Html | None:
    """What is not in the report, and why."""
    items = []
    for run in runs:
        which = f"{run.name}: " if len(runs) > 1 else ""
        if not run.finished:
            items.append(f"{which}The run is not finished ({run.state}); scores and curves end there.")
        items += [which + fault for fault in run.faults]
    return notice("Not there yet" if all(not run.faults for run in runs) else "Not there", items)


def together(runs: Sequence[Run]) -> Iterable[Section]:
    """Scores, curves and times of all runs, each chart once."""
    scores = [score_table(runs)]
    if len(runs) > 1:
        scores.append(settings_that_differ(runs))
    yield "results", "Scores", scores
    curves = el("div", [chart_figure(chart, runs) for chart in charts_of(runs)], class_="grid")
    yield "curves", "Curves over epochs", [curves, *(epoch_table(run) for run in runs)]
    yield (
        "training",
        "Pre-training and time",
        el("div", [chart_figure(chart, runs) for chart in PRETRAINING], time_figure(runs), class_="grid two"),
    )


def alone(run: Run, place: int) -> Iterable[Section]:
    """Labels, images and settings of a run, the `place`-th of the page."""
    prefix, at = f"run{place}", f" of epoch {run.labels.epoch}" if run.labels else ""
    labels = [sizes_figure, soft_figure, projection_figure, flow_figure]
    yield f"{prefix}-labels", f"Labels{at}", el("div", [draw(run, prefix) for draw in labels], class_="grid two")
    images = [map_figure(run, prefix), contact_figure(run, prefix), *change_figures(run, prefix)]
    yield f"{prefix}-images", f"Images and clusters{at}", el("div", images, class_="grid")
    if (shown := report_of(run.spec.task)) is not None:
        yield f"{prefix}-answers", shown.HEADING, el("div", shown.figures(run, prefix), class_="grid")
    yield f"{prefix}-settings", "Settings and versions", settings_of(run)


def settings_of(run: Run) -> Html:
    """The resolved spec and what the run was made with, folded."""
    facts = [("folder", str(run.path)), ("state", run.state)]
    facts += [(name, str(run.summary[name])) for name in ("device", "refine", "seed") if name in run.summary]
    facts += [(name, str(version)) for name, version in run.summary.get("versions", {}).items()]
    return join(
        [
            el(
                "details",
                el("summary", "Machine and versions"),
                table(f"{run.name}: machine and versions", ("what", "value"), facts, text=True),
            ),
            el("details", el("summary", "spec.yaml, every default filled in"), el("pre", run.spec_text, tabindex=0)),
        ]
    )
