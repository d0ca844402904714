"""Draw docs/performance.svg, and write the tables of docs/performance.md, from the results of benchmarks/labels.py.

python docs/performance.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results" / "labels-cpu.json"
START, END = "<!-- written by docs/performance.py -->\n", "<!-- end -->\n"

FAISS = "lists by faiss, all distances, scikit-learn DBSCAN"
SKLEARN_DBSCAN = "scikit-learn DBSCAN on the sparse graph"
HDBSCAN = "hdbscan on all soft labels"
SKLEARN_HDBSCAN = "scikit-learn HDBSCAN on all soft labels"
COMPARED = ("dense way, s", "dense peak, MB", "faiss and all distances, s", "their peak, MB", "labels")
DIM = 512
"""Dimensions of the features that the plot and the comparisons show."""
KINDS = {
    "clustered": "Of other dimensions",
    "isotropic": "Isotropic noise, which has no clusters (see below)",
    "collapsed": "All images nearly alike, as of a network that has collapsed",
    "pre-trained": "Real images (Omniglot characters) by a network that was pre-trained on another domain",
    "untrained": "The same images by a new network",
}
APPROXIMATE = "An approximate search of features in a file, clustered as above"
OURS, DENSE, BARE, OTHERS = "#1b6ca8", "#c0562c", "#8a8a8a", ("#5b9a4b", "#8e5ea2", "#c9a227")

Result = dict[str, Any]
"""What rapids_slr.bench.bench_labels gives, with `others`."""


def seconds(stage: str) -> Callable[[Result], float | None]:
    return lambda result: result["seconds"].get(stage)


def peak_mb(stage: str) -> Callable[[Result], float | None]:
    return lambda result: result.get("stage_peak_mb", {}).get(stage)


def other(name: str, figure: str = "seconds") -> Callable[[Result], float | None]:
    return lambda result: result.get("others", {}).get(name, {}).get(figure)


def tables(results: list[Result]) -> str:
    """The figures as Markdown: the label engine beside the dense way, and beside other implementations."""
    engine: dict[str, Callable[[Result], float | str | None]] = {
        "product, s": seconds("product"),
        "raw labels, s": seconds("total"),
        "× product": lambda result: result["ratio"],
        "after the search, s": lambda result: result["after_neighbours"],
        "peak, MB": lambda result: result["peak_mb"],
        "distances an image": lambda result: result["distances_an_image"],
        "dense way, s": seconds("dense_labels"),
        "dense peak, MB": peak_mb("dense_labels"),
        "faiss and all distances, s": other(FAISS),
        "their peak, MB": other(FAISS, "peak_mb"),
        "labels": lambda result: result["equal"] and ("equal" if all(result["equal"].values()) else "differ"),
    }
    steps: dict[str, Callable[[Result], float | str | None]] = {
        "DBSCAN, s": seconds("dbscan"),
        "scikit-learn DBSCAN, same graph, s": other(SKLEARN_DBSCAN),
        "refinement, s": seconds("refine"),
        "distinct soft labels": lambda result: result["distinct_soft_labels"],
        "`hdbscan` on all images, s": other(HDBSCAN),
        "scikit-learn HDBSCAN on all images, s": other(SKLEARN_HDBSCAN),
    }
    approximate: dict[str, Callable[[Result], float | str | None]] = {
        "D": lambda result: result["dim"],
        "raw labels, s": seconds("total"),
        "memory of the process, MB": lambda result: result["process_mb"],
        "recall": lambda result: f"{result['recall']:.4f}",
        "clusters": lambda result: result["clusters"],
        "identities": lambda result: result["identities"],
        "outliers": lambda result: result["outliers"],
        "ARI": lambda result: f"{result['ari']:.4f}",
    }
    hard = {name: engine[name] for name in engine if name not in COMPARED}
    exact = [result for result in results if result.get("search") != "approximate"]
    wide = [result for result in exact if result["dim"] == DIM]
    text = f"k1 = {results[0]['k1']}; {'; '.join(machines(results))}.\n"
    text += f"\nD = {DIM}, features that cluster:\n"
    text += _table(of(wide, "clustered"), engine) + _table(of(wide, "clustered"), steps)
    for features, title in KINDS.items():
        if found := [result for result in of(exact, features) if features != "clustered" or result["dim"] != DIM]:
            text += f"\n{title}:\n" + _table(found, {"D": lambda result: result["dim"], **hard})
    if found := [result for result in results if result not in exact]:
        text += f"\n{APPROXIMATE}:\n" + _table(found, approximate)
    return text


def of(results: list[Result], features: str) -> list[Result]:
    """The results on one kind of features."""
    return [result for result in results if result.get("features", "clustered") == features]


def _table(results: list[Result], columns: dict[str, Callable[[Result], float | str | None]]) -> str:
    lines = ["", "| N | " + " | ".join(columns) + " |", "|---:" * (len(columns) + 1) + "|"]
    for result in results:
        cells = [f"{result['samples']:,}", *(_cell(value(result)) for value in columns.values())]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: float | str | None) -> str:
    """Three digits that matter; a dash for what was not measured."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value >= 0.001 else f"{value:.5f}"


def machines(results: list[Result]) -> list[str]:
    """What the results were taken on: a line for each device and set of versions, with the commits and days."""
    packages = ("python", "torch", "numpy", "numba", "scikit-learn", "hdbscan")
    found: dict[str, dict[str, None]] = {}  # ordered
    for environment in (result["environment"] for result in results):
        versions = [f"{name} {environment[name]}" for name in packages if name in environment]
        machine = ", ".join([f"{environment['device']}, {environment['threads']} threads", *versions])
        day = environment.get("date", "")[:10]
        found.setdefault(machine, {})[f"commit {environment['commit']}" + (f", run {day}" if day else "")] = None
    return [", ".join([machine, *when]) for machine, when in found.items()]


def line(axes, results: list[Result], value: Callable[[Result], float | None], label: str, **style) -> None:
    points = [(result["samples"], value(result)) for result in results if value(result)]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, marker="o", markersize=3.5, linewidth=1.4, **style)


def draw(results: list[Result], path: Path) -> None:
    """Time and peak memory over N of features that cluster, both on logarithmic scales."""
    exact = [result for result in results if result["dim"] == DIM and result.get("search") != "approximate"]
    results = of(exact, "clustered")
    plt.rcParams |= {"svg.hashsalt": "rapids_slr", "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8}
    figure, (time, memory) = plt.subplots(1, 2, figsize=(11, 5.2), layout="constrained", facecolor="white")
    line(time, results, seconds("product"), "bare matrix product", color=BARE, linestyle="--")
    line(time, results, seconds("total"), "features to raw labels", color=OURS)
    line(time, results, lambda result: result["after_neighbours"], "of which after the search", color=OURS, alpha=0.55)
    line(time, results, seconds("refine"), "refinement", color=OURS, linestyle=":")
    line(time, results, seconds("dense_labels"), "dense way to raw labels", color=DENSE)
    for name, colour in zip((SKLEARN_DBSCAN, HDBSCAN, SKLEARN_HDBSCAN), OTHERS, strict=True):
        line(time, results, other(name), name, color=colour)
    line(memory, results, lambda result: 4 * result["samples"] ** 2 / 2**20, "one N × N matrix, float32",
         color=BARE, linestyle="--")  # fmt: skip
    line(memory, results, lambda result: result["peak_mb"], "features to raw labels", color=OURS)
    line(memory, results, peak_mb("dense_labels"), "dense way to raw labels", color=DENSE)
    for axes, title in ((time, "seconds"), (memory, "peak memory beyond the features, MB")):
        axes.set(title=title, xlabel="images", xscale="log", yscale="log")
        axes.set_xticks([result["samples"] for result in results], [f"{result['samples']:,}" for result in results])
        axes.tick_params(axis="x", rotation=35)
        axes.minorticks_off()
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def insert(page: str, text: str) -> str:
    """The page with `text` between its marks."""
    before, mark, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"the page needs the lines {START!r} and {END!r}, between which the tables go")
    return before + START + text + END + after


def main() -> None:
    results = json.loads(RESULTS.read_text())
    draw(results, DOCS / "performance.svg")
    page = DOCS / "performance.md"
    page.write_text(insert(page.read_text(), tables(results)))


if __name__ == "__main__":
    main()
