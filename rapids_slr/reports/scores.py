"""The tables of a report: scores, settings that differ, epochs in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rapids_slr.record.columns import WHOLE, Column, column_of, columns_in
from rapids_slr.record.folder import best_row
from rapids_slr.reports.gather import Run
from rapids_slr.reports.markup import Html, el, join
from rapids_slr.reports.pieces import NO_EPOCH, UNTESTED, table

NOTHING = "–"
ORIGINS = el(
    "p",
    "direct: the pre-trained network; direct_bn: the same with BatchNorm re-estimated on the target. Neither was "
    "trained on the target. A run ends with the network that its guard has picked, else with the last epoch: labels "
    "of the target pick neither.",
    class_="note",
)


def last_scores(run: Run) -> dict[str, float]:
    """Scores of the last evaluated epoch; empty before."""
    # The summary comes at the end; until then the rows tell.
    return run.summary.get("last") or next((row for row in reversed(run.epochs) if run.headline in row), {})


def best_scores(run: Run) -> Mapping[str, float]:
    """The evaluated epoch with the highest headline; empty before."""
    return best_row(run.epochs, run.headline) or {}


def cell(row: Mapping[str, float], column: Column) -> str:
    return column.text(row[column.key]) if column.key in row else NOTHING


def change_in(row: Mapping[str, float], before: Column, after: Column) -> str:
    """Two figures of an epoch beside each other."""
    return f"{cell(row, before)} → {cell(row, after)}" if after.key in row else NOTHING


def score_table(runs: Sequence[Run]) -> Html:
    """Scores before adaptation and after, of one run in rows; of several a row a run."""
    if len(runs) == 1 and runs[0].untested:
        return el("p", UNTESTED)
    shown = table_of_one(runs[0]) if len(runs) == 1 else table_of_many(runs)
    return join([shown, ORIGINS])


def table_of_one(run: Run) -> Html:
    best = best_scores(run)
    rows = {
        "direct": run.start.get("direct", {}),
        "direct_bn": run.start.get("direct_bn", {}),
        "last epoch" if run.finished else "last evaluated": last_scores(run),
        f"best epoch ({best['epoch']:g})" if best else "best epoch": best,
    }
    if picked := run.summary.get("picked"):
        rows[f"picked by the guard ({picked['epoch']:g})"] = picked
    heads = ("network", *(column.head for column in run.scores))
    body = [(name, *(cell(row, column) for column in run.scores)) for name, row in rows.items()]
    return table("Scores on the test split of the target", heads, body)


def table_of_many(runs: Sequence[Run]) -> Html:
    scores = dict.fromkeys(column for run in runs for column in run.scores)
    headline, ari, clusters = column_of(runs[0].headline), ("raw_ari", "ari"), ("clusters", "refined_clusters")
    body = []
    for run in runs:
        last, best, before = last_scores(run), best_scores(run), run.start.get("direct_bn", {})
        both = headline.key in last and headline.key in before
        gain = f"{100 * (last[headline.key] - before[headline.key]):+.1f}" if both else NOTHING
        body.append(
            (
                run.name,
                cell(before, headline),
                *(cell(last, column) for column in scores),
                gain,
                f"{cell(best, headline)} ({best['epoch']:g})" if best else NOTHING,
                change_in(run.last, *map(column_of, ari)),
                change_in(run.last, *map(column_of, clusters)),
                # From 0.0: whole numbers are written without decimals, also the 0 of no epoch.
                column_of(WHOLE).text(sum((row.get(WHOLE, 0.0) for row in run.epochs), 0.0)),
                run.state,
            )
        )
    heads = (
        "run",
        f"direct_bn {headline.head}",
        *(f"last {column.head}" for column in scores),
        "gain, points",
        f"best {headline.head} (epoch)",
        "ARI raw → refined",
        "clusters raw → refined",
        "adaptation, s",
        "state",
    )
    return table("Scores on the test split of the target", heads, body)


def settings_that_differ(runs: Sequence[Run]) -> Html:
    """The keys of the specs that are not the same in all runs."""
    flat = [flattened(run.spec.model_dump()) for run in runs]
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if key != "name"]
    body = [(key, *values) for key in keys if len(set(values := [one.get(key, "–") for one in flat])) > 1]
    if not body:
        return el("p", "All settings are the same.")
    return table("Settings that differ", ("key", *(run.name for run in runs)), body, text=True)


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as text."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = "none" if value is None else str(value)
    return found


EPOCH_KEYS = (
    *("clusters", "refined_clusters", "outliers", "rescued", "rescued_rightly", "left_out"),
    *("raw_ari", "ari", "raw_nmi", "nmi", "purity", "false_pairs", "missed_pairs", "ari_prev"),
    *("cluster_images", "cluster_cameras", WHOLE),
)
"""Columns of the table of epochs, after those of the task."""


def epoch_table(run: Run) -> Html:
    """All epochs in numbers, folded."""
    columns = [column_of("epoch"), *columns_in(run.epochs, "scores"), *map(column_of, EPOCH_KEYS)]
    shown = [column for column in columns if any(column.key in row for row in run.epochs)]
    body = [tuple(cell(row, column) for column in shown) for row in run.epochs]
    content = table(f"Epochs of {run.name}", [column.head for column in shown], body) if body else el("p", NO_EPOCH)
    return el("details", el("summary", f"All epochs of {run.name} in numbers"), content)
