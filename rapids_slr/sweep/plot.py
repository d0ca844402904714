"""The plot of a sweep: differences to the baseline with their intervals and seeds, and mAP over epochs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rapids_slr.files import write_atomically
from rapids_slr.sweep.folder import Results
from rapids_slr.sweep.table import ALL_PAIRS, difference_of, differences, scores_of, sections, spread_of

STYLE: Any = {"svg.hashsalt": "rapids_slr", "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8}
COLOURS = ("#8a8a8a", "#1b6ca8", "#c0562c", "#5b9a4b", "#8e5ea2", "#c9a227", "#2a9d9d", "#b5477a")
"""Of the methods in their order, again from the first if there are more."""
PANEL = 3.3
"""Width of a panel, inches."""
LINEAR = 5
"""Points of mAP either way that are drawn to scale where some differences lie far beyond; logarithmic from there."""
TICKS = (-50, -20, -10, -5, -2, 0, 2, 5, 10, 20, 50)


def draw(results: Results, path: Path) -> None:
    """Write the plot as SVG; the same results give the same file."""
    names = sections(results)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(_baseline_first(results))}
    compared = [name for name in results["methods"] if name != results["baseline"]]
    heights = (1.1 + 0.3 * len(compared), 3.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1 + PANEL * len(names), sum(heights) + 0.4), layout="constrained", facecolor="white")
        panels = figure.subplots(2, len(names), squeeze=False, height_ratios=heights, sharey="row")
        for above, below, section in zip(*panels, names, strict=True):
            draw_differences(above, results, section, compared, colours)
            draw_epochs(below, results, section, colours)
            for axes in (above, below):
                axes.grid(alpha=0.25, linewidth=0.6)
                axes.spines[["top", "right"]].set_visible(False)
        share_scale(panels[0])
        panels[1, 0].set_ylabel("mAP, %")
        handles, labels = panels[1, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, frameon=False, ncols=6, loc="outside lower center")
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="svg", metadata={"Date": None}))


def draw_differences(axes: Axes, results: Results, section: str, compared: list[str], colours: dict[str, str]) -> None:
    """A line a method: seeds as dots, their mean and its interval."""
    baseline = scores_of(results, section, results["baseline"], "mAP")
    for height, name in enumerate(compared):
        found = differences(scores_of(results, section, name, "mAP"), baseline)
        if not found:
            continue
        axes.plot(
            100 * np.array(list(found.values())), [height] * len(found), "o", color=colours[name], alpha=0.35, ms=4
        )
        mean = difference_of(found)
        if mean.n > 1:
            axes.plot([100 * mean.low, 100 * mean.high], [height] * 2, color=colours[name], linewidth=2)
        axes.plot(100 * mean.mean, height, "D", color=colours[name], ms=6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(title=section, xlabel=f"mAP − {results['baseline']}, points", ylim=(max(len(compared), 1) - 0.5, -0.5))
    axes.set_yticks(range(len(compared)), compared)


def share_scale(panels: Sequence[Axes]) -> None:
    """One scale for the differences of all panels."""
    limits = np.array([axes.get_xlim() for axes in panels])
    low, high = float(limits[:, 0].min()), float(limits[:, 1].max())
    for axes in panels:
        axes.set_xlim(low, high)
        if max(-low, high) > 2 * LINEAR:
            axes.set_xscale("symlog", linthresh=LINEAR)
            axes.set_xlim(min(1.2 * low, -LINEAR), max(1.2 * high, LINEAR))
            ticks = [tick for tick in TICKS if low <= tick <= high]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel(f"{axes.get_xlabel()}, logarithmic beyond {LINEAR}")


def draw_epochs(axes: Axes, results: Results, section: str, colours: dict[str, str]) -> None:
    """The mean over seeds of mAP after every epoch; dotted, where adaptation starts."""
    for name, colour in colours.items():
        curve = epoch_means(results, section, name)
        if curve:
            axes.plot(list(curve), [100 * value for value in curve.values()], color=colour, linewidth=1.4, label=name)
    start = scores_of(results, section, results["baseline"], "mAP", "direct_bn")
    if start:
        axes.axhline(100 * spread_of(start).mean, color="black", linewidth=0.8, linestyle=":", label="direct_bn")
    axes.set_xlabel("epoch")


def epoch_means(results: Results, section: str, method: str, column: str = "mAP") -> dict[int, float]:
    """Mean over seeds of a column of metrics.jsonl by epoch; over all pairs, of the seeds that are done in each."""
    pairs = list(results["pairs"]) if section == ALL_PAIRS else [section]
    seeds = scores_of(results, section, method, "mAP")
    values: dict[int, list[float]] = defaultdict(list)
    for run in results["runs"]:
        if run["state"] == "done" and run["method"] == method and run["pair"] in pairs and run["seed"] in seeds:
            for row in run["epochs"]:
                if column in row:
                    values[row["epoch"]].append(row[column])
    return {epoch: float(np.mean(values[epoch])) for epoch in sorted(values)}


def _baseline_first(results: Results) -> list[str]:
    return [results["baseline"], *(name for name in results["methods"] if name != results["baseline"])]
