"""The figures of a sweep: scores of the networks that runs end with, and paired differences to the baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rapids_slr.record.columns import Column, column_of
from rapids_slr.settings.tables import task_of
from rapids_slr.sweep.folder import Results

RESULT = "result"
"""The scores of the network that a run ends with: the last epoch's, or where a guard picks, of the picked one."""
STARTS = ("direct", "direct_bn")
"""Scores before adaptation, which open a table; those of the baseline's runs."""
UNLABELLED = ("clusters", "refined_clusters", "outliers", "left_out", "ari_prev", "guard/views", "guard/start")
"""Columns of metrics.jsonl that are shown where there are no scores."""
UNSCORED = (
    "Last epoch: mean ± standard deviation over seeds. The targets have no images that test a network, so these are "
    "figures that need no labels."
)
CONFIDENCE = 0.95
ALL_PAIRS = "all pairs"

BySeed = Mapping[int, float]
"""A figure of every seed that has one."""
Figure = Callable[[Mapping[str, Any]], float | None]
"""A figure of a finished run, from its record; None if that has none."""


@dataclass(frozen=True)
class Spread:
    n: int
    mean: float
    sd: float
    """Standard deviation over seeds, with n - 1; nan for one seed."""


@dataclass(frozen=True)
class Difference:
    n: int
    """Seeds that both methods have."""
    mean: float
    low: float
    """95 % confidence interval of the mean by Student's t; nan for one seed."""
    high: float
    higher: int
    """Seeds in which it is above 0."""


def headline_of(results: Results) -> Column:
    """The score by which the sweep's task compares methods."""
    rows = (scores for run in results["runs"] for scores in run.get("scores", {}).values())
    return column_of(task_of(results["base"]).headline_in(rows))


def spread_of(scores: BySeed) -> Spread:
    values = np.array(list(scores.values()), float)
    sd = values.std(ddof=1) if len(values) > 1 else np.nan
    return Spread(len(values), float(values.mean()), float(sd))


def differences(scores: BySeed, baseline: BySeed) -> dict[int, float]:
    """`scores` less `baseline`, seed by seed."""
    return {seed: scores[seed] - baseline[seed] for seed in scores if seed in baseline}


def difference_of(found: BySeed) -> Difference:
    values = np.array(list(found.values()), float)
    mean, n = float(values.mean()), len(values)
    # Two-sided: half of what is left lies beyond either end.
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    return Difference(n, mean, mean - half, mean + half, int((values > 0).sum()))


def sections(results: Results) -> list[str]:
    """The pairs, and all of them together if there are several."""
    pairs = list(results["pairs"])
    return [*pairs, ALL_PAIRS] if len(pairs) > 1 else pairs


def scores_of(results: Results, section: str, method: str, score: str, stage: str = RESULT) -> dict[int, float]:
    """A score of every seed; over all pairs the mean of the seeds that are done in each of them."""
    return figures_of(results, section, method, score_figure(score, stage))


def figures_of(results: Results, section: str, method: str, figure: Figure) -> dict[int, float]:
    """A figure of every seed; over all pairs the mean of the seeds that have it in each of them."""
    if section != ALL_PAIRS:
        return {
            run["seed"]: value
            for run in results["runs"]
            if (run["pair"], run["method"], run["state"]) == (section, method, "done")
            and (value := figure(run)) is not None
        }
    # A seed that some pairs lack would move the mean by which pairs are done.
    pairs = [figures_of(results, pair, method, figure) for pair in results["pairs"]]
    return {seed: float(np.mean([pair[seed] for pair in pairs])) for seed in pairs[0] if all(seed in p for p in pairs)}


def score_figure(score: str, stage: str = RESULT) -> Figure:
    """A score of the network that a run ends with, or of another stage of its summary."""

    def figure(run: Mapping[str, Any]) -> float | None:
        # Records of 0.1.0 have no `result`.
        return run["scores"].get(run.get("result", "last") if stage == RESULT else stage, {}).get(score)

    return figure


def over_epochs(column: str, epochs: slice) -> Figure:
    """Mean of a column of metrics.jsonl over these epochs of a run (the first is 0); rows without it do not count."""

    def figure(run: Mapping[str, Any]) -> float | None:
        values = [row[column] for row in run["epochs"][epochs] if column in row]
        return float(np.mean(values)) if values else None

    return figure


def epoch_means(results: Results, section: str, method: str, column: str | None = None) -> dict[int, float]:
    """Mean over seeds of a column of metrics.jsonl, without one the headline, by epoch.

    Over all pairs it is the mean of the seeds that are done in each.
    """
    headline = headline_of(results).key
    column = headline if column is None else column
    pairs = list(results["pairs"]) if section == ALL_PAIRS else [section]
    seeds = scores_of(results, section, method, headline)
    # Every seed has every pair, so that the mean over runs is the mean of the seeds' own.
    values: dict[int, list[float]] = defaultdict(list)
    for run in results["runs"]:
        if run["state"] == "done" and run["method"] == method and run["pair"] in pairs and run["seed"] in seeds:
            for row in run["epochs"]:
                if column in row:
                    values[row["epoch"]].append(row[column])
    return {epoch: float(np.mean(values[epoch])) for epoch in sorted(values)}


def compare(
    results: Results, section: str, method: str, other: str, figure: Figure, figure_of_other: Figure | None = None
) -> Difference | None:
    """A figure of a method less that of another (or less another figure), paired; None if they share no seed."""
    there = figures_of(results, section, other, figure_of_other or figure)
    found = differences(figures_of(results, section, method, figure), there)
    return difference_of(found) if found else None


def rows_of(results: Results, section: str) -> list[dict[str, str]]:
    """The table of a section, in percent; methods without a finished run, and scores that no run has, are left out.

    Without any score, of targets that nothing can be evaluated on, it shows what needs no labels.
    """
    baseline, methods = results["baseline"], list(results["methods"])
    shown = {column.key: column.name for column in task_of(results["base"]).shown()}
    shown = {key: name for key, name in shown.items() if any(scores_of(results, section, m, key) for m in methods)}
    rows = []
    for stage, method in [*((stage, baseline) for stage in STARTS), *((RESULT, name) for name in methods)]:
        found = {score: scores_of(results, section, method, score, stage) for score in shown}
        if not any(found.values()):
            continue
        row = {"method": method if stage == RESULT else stage, "seeds": str(max(map(len, found.values())))}
        for score, label in shown.items():
            compared = stage == RESULT and method != baseline
            against = compare(results, section, method, baseline, score_figure(score)) if compared else None
            row[label] = spread_text(spread_of(found[score])) if found[score] else "–"
            row[f"{label} − {baseline}"] = difference_text(against) if against else "–"
        rows.append(row)
    return rows or unlabelled_rows(results, section)


def unlabelled_rows(results: Results, section: str) -> list[dict[str, str]]:
    """Figures of the last epoch that need no labels, mean ± standard deviation; of the columns that any run has."""
    columns, rows = [column_of(key) for key in UNLABELLED], []
    for name in results["methods"]:
        figures = {
            column: figures_of(results, section, name, over_epochs(column.key, slice(-1, None))) for column in columns
        }
        if seeds := max(map(len, figures.values())):
            cells = {
                column.head: spread_text(
                    spread_of(found), *((100, 1) if column.unit == "%" else (1, 1 if column.unit else 3))
                )
                for column, found in figures.items()
                if found
            }
            rows.append({"method": name, "seeds": str(seeds), **cells})
    heads = dict.fromkeys(head for row in rows for head in row)  # a table has the same columns in all rows
    return [{head: row.get(head, "–") for head in heads} for row in rows]


def spread_text(spread: Spread, scale: float = 100, digits: int = 1) -> str:
    """`70.2 ± 1.3`, the mean alone for one seed."""
    sd = "" if spread.n < 2 else f" ± {scale * spread.sd:.{digits}f}"
    return f"{scale * spread.mean:.{digits}f}{sd}"


def difference_text(found: Difference, scale: float = 100, digits: int = 2) -> str:
    """`+1.20 [-0.30, +2.70] 6/8`: mean, interval, seeds above 0 of all; without the interval for one seed."""
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in (found.mean, found.low, found.high))
    interval = "" if found.n < 2 else f" [{low}, {high}]"
    return f"{mean}{interval} {found.higher}/{found.n}"


def legend(results: Results) -> list[str]:
    """What the columns mean, how far the sweep is, and what it ran on."""
    runs, baseline = results["runs"], results["baseline"]
    done = [run for run in runs if run["state"] == "done"]
    lines = [
        "Percent, last epoch, or where a guard picks the picked one: mean ± standard deviation over seeds. "
        "`direct` is the network before adaptation, `direct_bn` with BatchNorm re-estimated on the target.",
        f"− {baseline}: mean difference to {baseline} over equal seeds [95 % confidence interval, Student t] "
        "and in how many of these seeds it is higher.",
    ]
    if done and not any(run["scores"]["last"] for run in done):
        lines = [UNSCORED]
    if len(results["pairs"]) > 1:
        lines.append(f"{ALL_PAIRS.capitalize()}: a seed counts with its mean over the pairs, once all of them have it.")
    lines.append(f"{len(done)} of {len(runs)} runs are finished{_environments(done)}.")
    lines += [f"Failed: {_name(run)}: {run['fault'].splitlines()[0]}" for run in runs if run["state"] == "failed"]
    return lines


def _environments(done: Iterable[Mapping[str, Any]]) -> str:
    found = dict.fromkeys(f"{run['device']}, commit {run['commit']}" for run in done)
    return f" ({'; '.join(found)})" if found else ""


def _name(run: Mapping[str, Any]) -> str:
    return f"{run['pair']}/{run['method']}/seed-{run['seed']}"


def markdown(results: Results) -> str:
    """The tables as a page of Markdown."""
    lines = [f"# {results['name']}"]
    for section in sections(results):
        rows = rows_of(results, section)
        lines += ["", f"## {section}", ""]
        if not rows:
            lines.append("No run is finished yet.")
            continue
        lines += table_lines(rows)
    # Two blanks at its end break a line in Markdown.
    return "\n".join([*lines, "", *(f"{line}  " for line in legend(results))]) + "\n"


def table_lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows of the same columns as a table of Markdown."""
    return [_line(list(rows[0])), "|" + "---|" * len(rows[0]), *(_line(list(row.values())) for row in rows)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
