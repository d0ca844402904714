"""Write the tables of docs/adaptation.md from benchmarks/results/evidence.json.

python docs/adaptation.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from results import (
    DOCS,
    FOLDER,
    MAP,
    NOTHING,
    Found,
    Lines,
    Parts,
    _origin,
    _texts,
    all_differences,
    beyond_chance,
    build,
    by_section,
    finished,
    of_sweep,
    table,
    versions_of,
)

from rapids_slr.guard import FORGOTTEN
from rapids_slr.sweep.folder import Results
from rapids_slr.sweep.table import STARTS, figures_of, score_figure, scores_of, sections, spread_of, spread_text

EVIDENCE, QUICKSTART = "evidence", "quickstart"
ABMT, UNREFINED, PAPER, DEFAULT, TRUTH = "abmt", "unrefined", "hdbscan", "soft", "identities"
"""Methods of the sweep; DEFAULT is the one whose settings are those of a run, PAPER has refined hard labels."""
NEAR, HARM = 0.01, 0.01
"""Fractions of mAP: within which a choice counts as good as the best, and below the start from which it is harm."""

Record = Mapping[str, Any]
"""A finished run of results.json."""
Choice = Callable[[list[Mapping[str, float]]], int]
"""From the rows of a run, the first of them the start, to the place of the one that is chosen."""


def runs(results: Results) -> Lines:
    return [*table([_origin(EVIDENCE, results)]), versions_of(finished(results))]


def scores(results: Results) -> Lines:
    """mAP of all methods by pair, then what each has beyond the fair baseline."""
    stages = [(stage, results["baseline"], stage) for stage in STARTS]
    stages += [(method, method, "result") for method in results["methods"]]
    rows = []
    for name, method, stage in stages:
        found = {section: scores_of(results, section, method, "mAP", stage) for section in sections(results)}
        cells = {section: spread_text(spread_of(seeds)) for section, seeds in found.items() if seeds}
        rows.append({"mAP, %": name} | by_section(results, cells))
    others = [method for method in results["methods"] if method != ABMT]
    return table(rows) + table(
        {"mAP, points": f"{method} − {ABMT}"} | by_section(results, _texts(all_differences(results, method, ABMT, MAP)))
        for method in others
    )


def start(results: Results) -> Lines:
    """What a run of the defaults ends with, less what it began with, and the worst seed."""
    begun = score_figure("mAP", "direct_bn")
    found = all_differences(results, DEFAULT, DEFAULT, MAP, begun)
    worst = {}
    for pair in results["pairs"]:
        ends, starts = figures_of(results, pair, DEFAULT, MAP), figures_of(results, pair, DEFAULT, begun)
        if ends:
            worst[pair] = f"{100 * min(ends[seed] - starts[seed] for seed in ends):+.1f}"
    return table(
        [
            {"mAP, points": f"{DEFAULT} − its start"} | by_section(results, _texts(found)),
            {"mAP, points": "the worst seed"} | by_section(results, worst),
        ]
    )


def way(results: Results) -> Lines:
    """The part of the way from the fair baseline to true identities that is gone, by means over equal seeds."""
    rows = []
    for method in (UNREFINED, DEFAULT):
        cells = {}
        for section in sections(results):
            low, high, here = (figures_of(results, section, name, MAP) for name in (ABMT, TRUTH, method))
            seeds = low.keys() & high.keys() & here.keys()
            if seeds:
                gone, whole = (np.mean([other[seed] - low[seed] for seed in seeds]) for other in (here, high))
                cells[section] = f"{100 * gone / whole:.0f}" if whole > 0 else NOTHING
        rows.append({f"of the way from {ABMT} to {TRUTH}, %": method} | by_section(results, cells))
    return table(rows)


def refinement(results: Results) -> Lines:
    """Refinement on top of all else, against the same runs without it."""
    methods = [method for method in (DEFAULT, PAPER) if method in results["methods"]]
    found = {method: all_differences(results, method, UNREFINED, MAP) for method in methods}
    lines = table(
        {"mAP, points": f"{method} − {UNREFINED}"} | by_section(results, _texts(differences))
        for method, differences in found.items()
    )
    return lines + [
        f"- {method} − {UNREFINED}: intervals that exclude 0: {beyond_chance(differences)}."
        for method, differences in found.items()
    ]


# The guard ------------------------------------------------------------------------------------------------------------


def rows_with_start(run: Record) -> list[Mapping[str, float]]:
    """The start, with its mAP and what the guard saw of it, then the epochs."""
    begun = run["scores"]["direct_bn" if run["changes"].get("features.bn_recalibrate") else "direct"]
    return [{**run["scores"]["guard"], "mAP": begun["mAP"], "epoch": 0}, *run["epochs"]]


def highest(column: str) -> Choice:
    return lambda rows: int(np.argmax([row[column] for row in rows]))


def latest_that_kept(column: str) -> Choice:
    """The rule of the product."""

    def choose(rows: list[Mapping[str, float]]) -> int:
        best, chosen = rows[0][column], 0
        for place, row in enumerate(rows):
            best = max(best, row[column])
            if row[column] >= (1 - FORGOTTEN) * best:
                chosen = place
        return chosen

    return choose


CHOICES: Mapping[str, Choice] = {
    "the last epoch": lambda rows: len(rows) - 1,
    "the start": lambda _: 0,
    "source, latest within a twentieth": latest_that_kept("guard/source"),
    "source, highest": highest("guard/source"),
    "agreement of views, highest": highest("guard/views"),
    "agreement of heads, highest": highest("guard/heads"),
    "density, highest": highest("guard/density"),
}
"""Ways to choose among the start and the epochs; none sees an identity of the target."""


def guard(results: Results) -> Lines:
    """How good each choice is over all runs but those on true identities, and over those that did harm."""
    looked = [
        rows_with_start(run)
        for run in finished(results)
        if run["method"] != TRUTH and "guard/source" in run["scores"].get("guard", {})
    ]
    harmed = [rows for rows in looked if rows[-1]["mAP"] < rows[0]["mAP"] - HARM]
    lines = []
    for name, choose in CHOICES.items():
        chosen = [(rows[choose(rows)]["mAP"], rows) for rows in looked]
        near = sum(mAP >= max(row["mAP"] for row in rows) - NEAR for mAP, rows in chosen)
        kept = sum(rows[choose(rows)]["mAP"] >= rows[0]["mAP"] - HARM for rows in harmed)
        below = sum(mAP < rows[0]["mAP"] - HARM for mAP, rows in chosen)
        lines.append(
            {
                "choice": name,
                "mean mAP, %": f"{100 * np.mean([mAP for mAP, _ in chosen]):.2f}" if chosen else NOTHING,
                "within a point of the best": f"{near} of {len(looked)}",
                "a point below the start": f"{below} of {len(looked)}",
                "harm avoided": f"{kept} of {len(harmed)}",
            }
        )
    return table(lines)


# The quick-start ------------------------------------------------------------------------------------------------------


def quickstart(found: Found) -> Lines:
    """What each run begins with, its lowest epoch and its last one; a row for each seed and number of threads."""
    runs = found.get(QUICKSTART, [])
    if not runs:
        command = f"python benchmarks/quickstart.py --out runs/{QUICKSTART} > benchmarks/results/{QUICKSTART}.json"
        return [f"Not measured yet: `{command}`."]
    rows = table(
        {
            "threads": str(run["threads"]),
            "seed": str(run["seed"]),
            "direct_bn, mAP %": f"{100 * run['direct_bn']:.1f}",
            "lowest epoch": f"{100 * min(run['epochs']):.1f}",
            "− direct_bn": f"{100 * (min(run['epochs']) - run['direct_bn']):+.1f}",
            "last": f"{100 * run['last']:.1f}",
            "last − direct_bn": f"{100 * (run['last'] - run['direct_bn']):+.1f}",
        }
        for run in runs
    )
    commits = ", ".join(dict.fromkeys(run["commit"] for run in runs))
    return [*rows, f"On the CPU, commit {commits}. {versions_of(runs)}"]


PARTS: Parts = {
    "runs": of_sweep(EVIDENCE, runs),
    "scores": of_sweep(EVIDENCE, scores),
    "start": of_sweep(EVIDENCE, start),
    "way": of_sweep(EVIDENCE, way),
    "refinement": of_sweep(EVIDENCE, refinement),
    "guard": of_sweep(EVIDENCE, guard),
    "quickstart": quickstart,
}


def read() -> Found:
    paths = (FOLDER / f"{name}.json" for name in (EVIDENCE, QUICKSTART))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()}


def main() -> None:
    page = DOCS / "adaptation.md"
    page.write_text(build(page.read_text(encoding="utf-8"), read(), PARTS, "adaptation"), encoding="utf-8")


if __name__ == "__main__":
    main()
