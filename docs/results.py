"""Write the tables of docs/results.md, and draw docs/results.svg, from the files in benchmarks/results/.

python docs/results.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from matplotlib.figure import Figure as Drawing

from rapids_slr.sweep.folder import Results
from rapids_slr.sweep.table import (
    STARTS,
    Difference,
    Figure,
    compare,
    difference_text,
    epoch_means,
    figures_of,
    over_epochs,
    score_figure,
    scores_of,
    sections,
    spread_of,
    spread_text,
    table_lines,
)

DOCS = Path(__file__).parent
FOLDER = DOCS.parent / "benchmarks" / "results"
START, END = "<!-- {}: written by docs/{}.py -->\n", "<!-- end -->\n"

METHODS, ABLATIONS, BEYOND = SWEEPS = ("omniglot-methods", "omniglot-ablations", "omniglot-beyond")
"""Files of `rapids-slr sweep`, named after their sweep."""
NOISE = "label-noise"
"""The file of benchmarks/label_noise.py."""

ABMT, SIZED, OURS = "abmt", "abmt-sized", "slr"
PAIR_LIMIT, MEAN_LIMIT = -0.02, -0.01
"""How far SLR may lie below a baseline, as fractions of mAP: on a pair, and in the mean over the pairs."""
GOALS = {"outliers": (0.77, 0.95), "merges": (0.87, 0.92), "splits + merges": (0.81, 0.87), "all kinds": (0.45, 0.53)}
"""ARI of raw labels, and of refined ones to reach from there, by kind of error."""
COMPARED = slice(1, None)
"""The epochs that have one before them."""
LAST = slice(-1, None)
MAP, ARI = score_figure("mAP"), over_epochs("ari", COMPARED)
NOTHING = "–"
STYLE: Any = {"svg.hashsalt": "rapids_slr", "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8}
COLOURS = ("#8a8a8a", "#1b6ca8", "#c0562c", "#5b9a4b", "#8e5ea2", "#c9a227", "#2a9d9d", "#b5477a")
"""Of the methods in their order."""

Found = Mapping[str, Any]
"""What the files hold, by name; files that are not there are left out."""
Lines = list[str]
"""Of Markdown; several empty ones count as one."""
Parts = Mapping[str, Callable[[Found], Lines]]
"""What is written between which marks."""


def read(folder: Path) -> Found:
    paths = (folder / f"{name}.json" for name in (*SWEEPS, NOISE))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()}


def build(page: str, found: Found, parts: Parts | None = None, script: str = "results") -> str:
    """The page with every part written anew between its marks; the parts of docs/results.md if none are given."""
    for name, part in (PARTS if parts is None else parts).items():
        text = "\n".join(part(found)).strip("\n")
        page = insert(page, name, re.sub(r"\n{3,}", "\n\n", text) + "\n", script)
    return page


def insert(page: str, name: str, text: str, script: str = "results") -> str:
    """The page with `text` between the marks of a part."""
    start = START.format(name, script)
    before, mark, rest = page.partition(start)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"the page needs the lines {start!r} and {END!r}, between which a part of it goes")
    return before + start + text + END + after


def command_of(name: str) -> str:
    if name == NOISE:
        return "python benchmarks/label_noise.py"
    data = "--set data.source.path=source.zip --set data.target.path=target.zip"
    return f"rapids-slr sweep {name} {data} --out runs/{name}"


def of_file(name: str, part: Callable[[Any], Lines]) -> Callable[[Found], Lines]:
    """A part of the page from one file, which may be missing or, of a sweep, without a finished run."""

    def lines(found: Found) -> Lines:
        if name not in found:
            copy = "" if name == NOISE else f"; its `results.json` goes to `benchmarks/results/{name}.json`"
            return [f"Not measured yet: `{command_of(name)}`{copy}."]
        if name in SWEEPS and not finished(found[name]):
            return ["No run is finished yet."]
        return part(found[name])

    return lines


def of_sweep(name: str, part: Callable[[Results], Lines]) -> Callable[[Found], Lines]:
    """A part of a page from a sweep whose data lie where its file looks for them, or how to get what it needs."""

    def lines(found: Found) -> Lines:
        if name not in found or not finished(found[name]):
            copy = f"its `results.json` goes to `benchmarks/results/{name}.json`"
            return [f"Not measured yet: `rapids-slr sweep {name}` (see configs/sweeps/{name}.yaml); {copy}."]
        return part(found[name])

    return lines


def finished(results: Results) -> list[dict[str, Any]]:
    return [run for run in results["runs"] if run["state"] == "done"]


def table(rows: Iterable[Mapping[str, str]]) -> Lines:
    rows = list(rows)
    return ["", *table_lines(rows), ""] if rows else []


def by_section(results: Results, found: Mapping[str, str]) -> dict[str, str]:
    """The cells of a row: one for each pair and one for all of them."""
    return {section: found.get(section, NOTHING) for section in sections(results)}


# What was run ---------------------------------------------------------------------------------------------------------


def runs(found: Found) -> Lines:
    """Where the figures come from: the files, what they ran on, and how to make them again."""
    sweeps = {name: found[name] for name in SWEEPS if name in found}
    done = [run for results in sweeps.values() for run in finished(results)]
    failed = [
        f"{name}/{run['pair']}/{run['method']}/seed-{run['seed']}"
        for name, results in sweeps.items()
        for run in results["runs"]
        if run["state"] == "failed"
    ]
    lines = table(_origin(name, results) for name, results in sweeps.items())
    lines += [versions_of(done), ""] if done else []
    lines += [f"Failed: {', '.join(failed)}.", ""] if failed else []
    lines += ["```console"]
    for name in SWEEPS:
        lines += [command_of(name), f"cp runs/{name}/results.json benchmarks/results/{name}.json"]
    return [*lines, command_of(NOISE), "python docs/results.py", "```"]


def versions_of(runs: Iterable[Mapping[str, Any]]) -> str:
    """What finished runs were made with, in a sentence."""
    found = (", ".join(f"{name} {version}" for name, version in run["versions"].items()) for run in runs)
    return f"Versions: {'; '.join(dict.fromkeys(found))}."


def _origin(name: str, results: Results) -> dict[str, str]:
    done = finished(results)
    methods: dict[str, Lines] = {}
    for method in results["methods"]:
        seeds = _span(sorted({run["seed"] for run in done if run["method"] == method}))
        methods.setdefault(seeds, []).append(method)
    return {
        "file": f"[{name}.json](../benchmarks/results/{name}.json)",
        "pairs": ", ".join(results["pairs"]),
        "methods: seeds": "; ".join(f"{', '.join(names)}: {seeds}" for seeds, names in methods.items()),
        "finished runs": f"{len(done)} of {len(results['runs'])}",
        "on": "; ".join(dict.fromkeys(run["device"] for run in done)) or NOTHING,
        "commits": ", ".join(dict.fromkeys(run["commit"] for run in done)) or NOTHING,
    }


def _span(numbers: list[int]) -> str:
    """`0–7`, or the numbers one by one where some between are missing."""
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}–{numbers[-1]}"
    return ", ".join(map(str, numbers)) or NOTHING


# SLR and ABMT ---------------------------------------------------------------------------------------------------------


def scores(results: Results) -> Lines:
    """mAP and rank-1 of every method by pair, the differences of mAP between methods, and what follows from them."""
    stages = [(stage, results["baseline"], stage) for stage in STARTS]
    stages += [(method, method, "last") for method in results["methods"]]
    lines = []
    for score, title in (("mAP", "mAP, %"), ("rank1", "rank-1, %")):
        rows = []
        for name, method, stage in stages:
            found = {section: scores_of(results, section, method, score, stage) for section in sections(results)}
            numbers = {len(found[pair]) for pair in results["pairs"]}
            cells = {section: spread_text(spread_of(seeds)) for section, seeds in found.items() if seeds}
            span = "–".join(map(str, sorted({min(numbers), max(numbers)})))
            rows.append({title: name, "seeds": span} | by_section(results, cells))
        lines += table(rows)

    pairings = ((OURS, ABMT), (OURS, SIZED), (SIZED, ABMT))
    found = {both: all_differences(results, *both, MAP) for both in pairings if set(both) <= set(results["methods"])}
    lines += table(
        {"mAP, points": f"{method} − {other}"} | by_section(results, _texts(differences))
        for (method, other), differences in found.items()
    )
    for (method, other), differences in found.items():
        outcome = f"{within_limits(results, differences)}; " if method == OURS else ""
        lines.append(f"- {method} − {other}: {outcome}intervals that exclude 0: {beyond_chance(differences)}.")
    return lines


def all_differences(
    results: Results, method: str, other: str, figure: Figure, figure_of_other: Figure | None = None
) -> dict[str, Difference]:
    """`compare` for each pair and for all of them; without those where the methods share no seed."""
    found = ((name, compare(results, name, method, other, figure, figure_of_other)) for name in sections(results))
    return {name: difference for name, difference in found if difference is not None}


def within_limits(results: Results, found: Mapping[str, Difference]) -> str:
    """Whether the mean differences keep to the limits, for each pair and in the mean over the pairs."""
    if missing := [section for section in sections(results) if section not in found]:
        return f"not settled, as no common seed of {', '.join(missing)} is finished"
    mean = found[sections(results)[-1]].mean
    by_pair = {pair: found[pair].mean for pair in results["pairs"]}
    lowest = min(by_pair, key=lambda pair: by_pair[pair])
    below = [pair for pair, difference in by_pair.items() if difference < PAIR_LIMIT]
    below += ["the mean over the pairs"] if mean < MEAN_LIMIT else []
    so_far = "" if len(finished(results)) == len(results["runs"]) else "so far "
    outcome = f"**outside the limits** by {', '.join(below)}" if below else "**within the limits**"
    limits = f"{100 * PAIR_LIMIT:g} points on any pair, {100 * MEAN_LIMIT:g} in the mean over the pairs"
    figures = f"lowest {100 * by_pair[lowest]:+.2f} on {lowest}, mean {100 * mean:+.2f}"
    return f"{so_far}{outcome} ({limits}): {figures}"


def beyond_chance(found: Mapping[str, Difference]) -> str:
    """Where the interval excludes 0, on either side; there is none for one seed."""
    above = [section for section, difference in found.items() if difference.low > 0]
    below = [section for section, difference in found.items() if difference.high < 0]
    named = [f"{side} it on {', '.join(where)}" for side, where in (("above", above), ("below", below)) if where]
    return "; ".join(named) or "none"


def _texts(found: Mapping[str, Difference], scale: float = 100, digits: int = 2) -> dict[str, str]:
    return {section: difference_text(difference, scale, digits) for section, difference in found.items()}


# Controls -------------------------------------------------------------------------------------------------------------


def headroom(results: Results) -> Lines:
    """What true and shuffled labels give beyond the fair baseline."""
    return table(
        {"mAP, points": f"{name} − {SIZED}"} | by_section(results, _texts(all_differences(results, name, SIZED, MAP)))
        for name in ("identities", "shuffled")
    )


# Label quality --------------------------------------------------------------------------------------------------------


def quality(results: Results) -> Lines:
    """What clusters and refined labels are worth, over the epochs and at the end; and what refinement adds."""
    gains = {
        f"{OURS} refined − {OURS} raw": all_differences(results, OURS, OURS, ARI, over_epochs("raw_ari", COMPARED)),
        f"{OURS} refined − {SIZED}": all_differences(results, OURS, SIZED, ARI),
    }
    return [
        "Mean over the epochs from the second on:",
        *table(_quality_rows(results, COMPARED)),
        "Last epoch:",
        *table(_quality_rows(results, LAST)),
        "Differences in ARI, mean over the epochs from the second on:",
        *table({"ARI": name} | by_section(results, _texts(found, 1, 3)) for name, found in gains.items()),
        "![Label quality over the epochs](results.svg)",
    ]


def _quality_rows(results: Results, epochs: slice) -> Iterable[dict[str, str]]:
    for pair in results["pairs"]:
        for method in labelled(results):
            mean = partial(_mean, results, pair, method, epochs)
            if not np.isnan(mean("ari")):
                if refines(results, method):
                    yield {"pair": pair, "labels": f"{method} raw"} | _quality(mean, "raw_", "clusters", "outliers")
                    refined = {"rescued": _number(mean("rescued"), 1), "rightly, %": _percent(mean("rescued_rightly"))}
                    yield {"pair": pair, "labels": f"{method} refined"} | _quality(mean) | refined
                else:
                    yield {"pair": pair, "labels": method} | _quality(mean)


def _quality(
    mean: Callable[[str], float], start: str = "", clusters: str = "refined_clusters", outliers: str = "left_out"
) -> dict[str, str]:
    return {
        "ARI": _number(mean(f"{start}ari"), 3),
        "NMI": _number(mean(f"{start}nmi"), 3),
        "purity": _number(mean(f"{start}purity"), 3),
        "agreement": _number(mean(f"{start}ari_prev"), 3),
        "clusters / identities": f"{_number(mean(clusters), 1)} / {_number(mean('identities'), 0)}",
        "false pairs, %": _percent(mean(f"{start}false_pairs")),
        "false before, %": _percent(mean(f"{start}false_repeated")),
        "missed pairs, %": _percent(mean(f"{start}missed_pairs")),
        "missed before, %": _percent(mean(f"{start}missed_repeated")),
        "outliers": _number(mean(outliers), 1),
        "rescued": NOTHING,
        "rightly, %": NOTHING,
    }


def _mean(results: Results, pair: str, method: str, epochs: slice, column: str) -> float:
    """Of a column of metrics.jsonl over epochs, then over seeds; nan where no run has it."""
    by_seed = figures_of(results, pair, method, over_epochs(column, epochs))
    return spread_of(by_seed).mean if by_seed else float("nan")


def labelled(results: Results) -> Lines:
    """The methods that train on the labels whose quality is recorded: all but the controls."""
    controls = {run["method"] for run in results["runs"] if "training.labels" in run["changes"]}
    return [method for method in results["methods"] if method not in controls]


def refines(results: Results, method: str) -> bool:
    return all(run["changes"].get("refine") != "none" for run in results["runs"] if run["method"] == method)


def _number(value: float, digits: int) -> str:
    return NOTHING if np.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return _number(100 * value, 1)


def draw(results: Results, path: Path) -> None:
    """ARI, errors that repeat and agreement over the epochs, means over seeds; a column a pair."""
    figures = {
        "ari": "ARI",
        "false_repeated": "false pairs,\nshare false before",
        "missed_repeated": "missed pairs,\nshare missed before",
        "ari_prev": "agreement with\nthe epoch before",
    }
    pairs = list(results["pairs"])
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(1 + 2.6 * len(pairs), 8.5), layout="constrained", facecolor="white")
        panels = drawing.subplots(len(figures), len(pairs), squeeze=False, sharex=True, sharey="row")
        for row, column in zip(panels, figures, strict=True):
            row[0].set_ylabel(figures[column])
            for axes, pair in zip(row, pairs, strict=True):
                for method, colour in zip(labelled(results), COLOURS, strict=False):
                    refined = refines(results, method)
                    for start in ("raw_", "") if refined else ("",):
                        curve = epoch_means(results, pair, method, start + column)
                        name = f"{method} {'raw' if start else 'refined'}" if refined else method
                        line = ":" if start else "-"
                        axes.plot(curve.keys(), curve.values(), line, color=colour, linewidth=1.4, label=name)
                axes.grid(alpha=0.25, linewidth=0.6)
                axes.spines[["top", "right"]].set_visible(False)
        for above, below, pair in zip(panels[0], panels[-1], pairs, strict=True):
            above.set_title(pair)
            below.set_xlabel("epoch")
            below.xaxis.get_major_locator().set_params(integer=True)
        drawing.legend(*panels[0, 0].get_legend_handles_labels(), frameon=False, ncols=6, loc="outside lower center")
        drawing.savefig(path, format="svg", metadata={"Date": None})


# Other methods beside one ---------------------------------------------------------------------------------------------


def changes(baseline: str, results: Results) -> Lines:
    """Differences of all other methods to one, in mAP of the last epoch and in ARI of the refined labels."""
    if not any(run["method"] == baseline for run in finished(results)):
        return [f"No run of {baseline}, which the others are compared with, is finished yet."]
    lines = []
    for title, figure, scale, digits in (("mAP, points", MAP, 100, 2), ("ARI", ARI, 1, 3)):
        own = ((section, figures_of(results, section, baseline, figure)) for section in sections(results))
        level = {section: spread_text(spread_of(seeds), scale, digits) for section, seeds in own if seeds}
        rows = [{title: f"**{baseline}**", "change": NOTHING} | by_section(results, level)]
        certain = []
        for method in results["methods"]:
            found = all_differences(results, method, baseline, figure)
            if method == baseline or not found:
                continue
            change = changed(results, method, baseline)
            rows.append({title: method, "change": change} | by_section(results, _texts(found, scale, digits)))
            if (where := beyond_chance(found)) != "none":
                certain.append(f"{method} ({where})")
        lines += [*table(rows), f"Intervals that exclude 0: {', '.join(certain) or 'none'}."]
    return lines


def changed(results: Results, method: str, other: str) -> str:
    """What parts a method from another, as a sweep file has it; settings of the other alone are named."""
    pair = results["pairs"][0]
    here, there = (
        next(run["changes"] for run in results["runs"] if (run["pair"], run["method"]) == (pair, name))
        for name in (method, other)
    )
    own = {key: value for key, value in here.items() if key not in there or there[key] != value}
    named = [f"`{yaml.safe_dump(own, default_flow_style=True, sort_keys=False, width=1000).strip()}`"] if own else []
    named += [f"without `{key}`" for key in there if key not in here]
    return ", ".join(named) or NOTHING


# Labels with known errors ---------------------------------------------------------------------------------------------

Case = Mapping[str, Any]
"""What benchmarks/label_noise.py finds for one kind and level of noise."""


def noise(bench: Mapping[str, Any]) -> Lines:
    """ARI of raw and refined labels in the controlled bench, beside the goals."""
    made, settings = bench["environment"], list(bench["settings"])
    parts = [bench[name] for name in ("independent", "independent, more identities") if bench[name]]
    lines = [
        f"{made['device']}, rapids-slr {made['rapids-slr']}, commit {made['commit']}, {made['date'][:10]}.",
        *_goals(bench["independent"], settings),
    ]
    for cases in parts:
        lines += [f"ARI raw → refined with the default, by noise; {_size(cases[0])}:"]
        lines += table(
            {"errors": kind} | {f"{case['noise']:g}": _arrow(case) for case in of_kind}
            for kind, of_kind in by_kind(cases).items()
        )
    lines += ["<details><summary>Refined ARI with every setting</summary>", ""]
    for cases in parts:
        for level in dict.fromkeys(case["noise"] for case in cases):
            of_level = [case for case in cases if case["noise"] == level]
            lines += [f"Noise {level:g}; {_size(cases[0])}:"]
            lines += table(
                {"setting": name} | {case["kind"]: f"{case[name]['ari']:.3f}" for case in of_level}
                for name in ("raw", *settings)
                if name in of_level[0]
            )
    return [*lines, "</details>"]


def _goals(cases: list[Case], settings: list[str]) -> Lines:
    """Refined ARI with every setting where the raw labels are as good as those of a goal."""
    columns = {kind: f"{kind}, raw {raw:.2f}" for kind, (raw, _) in GOALS.items()}
    rows = [{"setting": "**goal**"} | {columns[kind]: f"**{goal:.2f}**" for kind, (_, goal) in GOALS.items()}]
    outcomes = []
    for name in settings:
        found = {kind: at_raw(by_kind(cases).get(kind, []), name, raw) for kind, (raw, _) in GOALS.items()}
        rows.append({"setting": name} | {columns[kind]: _number(value, 3) for kind, value in found.items()})
        short = [f"{kind} by {GOALS[kind][1] - value:.3f}" for kind, value in found.items() if value < GOALS[kind][1]]
        reached = sum(value >= GOALS[kind][1] for kind, value in found.items())
        outcomes.append(f"{reached} of {len(GOALS)} goals" + (f", short on {', '.join(short)}" if short else ""))
    return [*table(rows), f"The {settings[0]} reaches {outcomes[0]}.", ""]


def at_raw(cases: list[Case], setting: str, raw: float) -> float:
    """Refined ARI at an ARI of raw labels, linear between the two nearest cases; nan beyond the measured ones."""
    points = sorted((case["raw"]["ari"], case[setting]["ari"]) for case in cases)
    return float(np.interp(raw, *zip(*points, strict=True), left=np.nan, right=np.nan)) if points else float("nan")


def by_kind(cases: list[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case["kind"], []).append(case)
    return found


def _size(case: Case) -> str:
    size = f"{case['identities']} identities of {case['images']} images"
    return f"{size}, {case['seeds']} seeds, {case['epochs'] - 1} epochs"


def _arrow(case: Case) -> str:
    return f"{case['raw']['ari']:.3f} → {case['default']['ari']:.3f}"


def persistence(bench: Mapping[str, Any]) -> Lines:
    """What is left of the gain where errors repeat."""
    cases = by_kind(bench["persistent"])
    noises = ", ".join(dict.fromkeys(f"{case['noise']:g}" for case in bench["persistent"]))
    lines = [f"Noise {noises}. ARI that refinement adds, by the share that stays as it was an epoch before:"]
    for setting in ("default", "refined + noise"):
        lines += table(
            {setting: kind} | {f"{c['repeat']:g}": f"{c[setting]['ari'] - c['raw']['ari']:+.3f}" for c in of_kind}
            for kind, of_kind in cases.items()
        )
    lines += ["False / missed pairs of the raw labels that were so an epoch before, %:"]
    return lines + table(
        {"errors": kind} | {f"{case['repeat']:g}": _wrong_again(case) for case in of_kind}
        for kind, of_kind in cases.items()
    )


def _wrong_again(case: Case) -> str:
    again = (case["wrong_again"][error] for error in ("false", "missing"))
    return " / ".join(NOTHING if share is None else f"{100 * share:.0f}" for share in again)


def repeated(results: Results) -> Lines:
    """How far the errors of raw labels repeat in the runs."""

    def span(method: str, pair: str) -> str:
        start = "raw_" if refines(results, method) else ""
        found = (_mean(results, pair, method, COMPARED, f"{start}{error}_repeated") for error in ("false", "missed"))
        return " / ".join(_number(100 * share, 0) for share in found)

    return [
        "The same in the runs above, mean over the epochs from the second on:",
        *table(
            {"raw labels of": name} | {pair: span(name, pair) for pair in results["pairs"]}
            for name in labelled(results)
        ),
    ]


PARTS: Parts = {
    "runs": runs,
    "scores": of_file(METHODS, scores),
    "headroom": of_file(METHODS, headroom),
    "quality": of_file(METHODS, quality),
    "ablations": of_file(ABLATIONS, partial(changes, OURS)),
    "beyond": of_file(BEYOND, partial(changes, SIZED)),
    "noise": of_file(NOISE, noise),
    "persistence": of_file(NOISE, persistence),
    "repeated": of_file(METHODS, repeated),
}


def main() -> None:
    found = read(FOLDER)
    page = DOCS / "results.md"
    page.write_text(build(page.read_text(encoding="utf-8"), found), encoding="utf-8")
    if METHODS in found and finished(found[METHODS]):
        draw(found[METHODS], DOCS / "results.svg")


if __name__ == "__main__":
    main()
