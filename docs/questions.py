"""Write the figures of docs/questions.md, from the files in benchmarks/results/.

python docs/questions.py
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
from results import (
    ABLATIONS,
    ABMT,
    DOCS,
    FOLDER,
    METHODS,
    NOISE,
    OURS,
    Found,
    Lines,
    Parts,
    _mean,
    _texts,
    all_differences,
    build,
    by_section,
    finished,
    of_file,
    read,
    table,
)

from rapids_slr.sweep.folder import Results
from rapids_slr.sweep.table import headline_of, score_figure

SPEED = "labels-cpu"
"""The file of benchmarks/labels.py."""
EVIDENCE, HOSTS, CLASSIFICATION = "evidence", "hosts", "classification"
"""Sweeps with the defaults of this program."""
ARGMAX = "hard-hard=argmax"
"""The method of the ablations that takes the largest entry of a soft label."""


def beyond_people(found: Found) -> Lines:
    """Refined labels against the clusters as they are: on characters by the paper's settings, on all else by ours."""
    lines = of_file(METHODS, partial(_gain, "The paper's settings, `abmt`", OURS, ABMT))(found)
    if EVIDENCE in found and finished(found[EVIDENCE]):
        lines += _gain("The defaults, `abmt`", "soft", "unrefined", found[EVIDENCE])
    if HOSTS in found and finished(found[HOSTS]):
        for host in ("cluster_contrast", "spcl", "mmt"):
            lines += _gain(f"The defaults, `{host}`", f"{OURS}-host={host}", f"none-host={host}", found[HOSTS])
    if CLASSIFICATION in found and finished(found[CLASSIFICATION]):
        lines += _gain("Images of classes", OURS, "none", found[CLASSIFICATION])
    return lines


def _gain(title: str, method: str, other: str, results: Results) -> Lines:
    headline = headline_of(results)
    found = all_differences(results, method, other, score_figure(headline.key))
    name = f"{method.partition('-')[0]} − {other.partition('-')[0]}"
    return [f"{title}:", *table([{f"{headline.name}, points": name} | by_section(results, _texts(found))])]


def _of_the_growth(row: Found) -> bool:
    """Whether figures are those of features that cluster, with an exact search."""
    return (row["features"], row["k1"], row["dim"], row.get("search")) == ("clustered", 30, 512, None)


def cost(found: Found) -> Lines:
    """Time and memory of refinement beside clustering, by N, and its share of the epochs of the runs."""
    lines: Lines = []
    if SPEED in found:
        rows = [row for row in found[SPEED] if _of_the_growth(row)]
        lines += table(
            {
                "N": f"{row['samples']:,}",
                "clusters": f"{row['clusters']:,}",
                "distinct soft labels": f"{row['distinct_soft_labels']:,}",
                "clustering, ms": f"{1000 * row['seconds']['total']:,.0f}",
                "refinement, ms": f"{1000 * row['seconds']['refine']:.2f}",
                "share": f"{row['seconds']['refine'] / row['seconds']['total']:.2%}",
            }
            for row in rows
        )
        made = rows[0]["environment"]
        commits = ", ".join(dict.fromkeys(row["environment"]["commit"] for row in rows))
        lines += [f"{made['device']}, {made['threads']} threads, commits {commits}, D = {rows[0]['dim']}.", ""]
    if METHODS in found:
        runs = [run for run in finished(found[METHODS]) if run["method"] == OURS]
        shares = [run["stage_seconds"]["refinement"] / run["stage_seconds"]["epoch"] for run in runs]
        if shares:
            share = f"{np.median(shares):.3%} of an epoch's time (median of {len(shares)} runs, one CPU thread)"
            lines += [f"In the runs of `{OURS}` on Omniglot refinement took {share}.", ""]
    return lines


def recounts(bench: dict[str, Any]) -> Lines:
    """What the projection and the labels become where the number of clusters changes at once."""
    return table(
        {
            "clusters before → now": f"{row['clusters_before']:.0f} → {row['clusters_now']:.0f}",
            "entries of a row of P": f"{row['entries_a_row']:.1f}",
            "largest entry": f"{row['largest_entry']:.2f}",
            "refined clusters": f"{row['refined_clusters']:.0f}",
            "left out, of 5,000": f"{row['left_out']:.0f}",
            "agreement with the clusters now": f"{row['agreement_with_now']:.2f}",
        }
        for row in bench.get("recount", [])
    )


def large_gap(results: Results) -> Lines:
    """What shows in the figures of a run, with and without a large gap."""
    columns = {
        "clusters": ("clusters", "{:.0f}"),
        "outliers": ("outliers", "{:.0f}"),
        "agreement between epochs": ("raw_ari_prev", "{:.2f}"),
        "confidence": ("cluster_confidence", "{:.2f}"),
        "ARI (needs identities)": ("raw_ari", "{:.2f}"),
        "rescued rightly (needs identities)": ("rescued_rightly", "{:.0%}"),
    }
    return table(
        {"pair": pair}
        | {
            name: form.format(_mean(results, pair, OURS, slice(1, 6), column))
            for name, (column, form) in columns.items()
        }
        for pair in results["pairs"]
    )


def stability(found: Found) -> Lines:
    """Agreement of refined labels between epochs: HDBSCAN, argmax and the raw labels."""
    lines: Lines = []
    if ABLATIONS in found and finished(found[ABLATIONS]):
        results = found[ABLATIONS]
        ways = {
            "raw labels": (OURS, "raw_ari_prev"),
            "argmax": (ARGMAX, "ari_prev"),
            "hierarchical clustering": (OURS, "ari_prev"),
        }
        lines += ["On Omniglot, mean over the epochs from the second on and three seeds:"]
        lines += table(
            {"agreement": way}
            | {pair: f"{_mean(results, pair, method, slice(1, None), key):.3f}" for pair in results["pairs"]}
            for way, (method, key) in ways.items()
        )
    if HOSTS in found and finished(found[HOSTS]):
        lines += ["In every host, with soft labels that are trained on, by their argmax:", *_of_hosts(found[HOSTS])]
    cases = found[NOISE]["independent"] if NOISE in found else []
    if cases and "ari_prev" in cases[0]["raw"]:
        level = 0.2
        of_level = [case for case in cases if case["noise"] == level]
        lines += [f"On labels with errors drawn anew every epoch, noise {level:g}:"]
        names = {"raw labels": "raw", "argmax": "hard argmax", "hierarchical clustering": "default"}
        lines += table(
            {"agreement": way} | {case["kind"]: f"{case[name]['ari_prev']:.3f}" for case in of_level}
            for way, name in names.items()
        )
    return lines


def _of_hosts(results: Results) -> Lines:
    rows = []
    for host in ("abmt", "cluster_contrast", "spcl", "mmt"):
        for name, column in (("raw labels", "raw_ari_prev"), ("soft labels", "ari_prev")):
            means = {
                pair: _mean(results, pair, f"{OURS}-host={host}", slice(1, None), column) for pair in results["pairs"]
            }
            rows.append({"agreement": f"{host}, {name}"} | {pair: f"{mean:.3f}" for pair, mean in means.items()})
    return table(rows)


def convergence(results: Results) -> Lines:
    """Purity and agreement of the refined labels at some epochs."""
    epochs = (2, 4, 8, 12)
    return table(
        {"refined labels": f"{pair}, {name}"}
        | {f"epoch {epoch}": f"{_mean(results, pair, OURS, slice(epoch - 1, epoch), column):.3f}" for epoch in epochs}
        for pair in results["pairs"]
        for name, column in (("purity", "purity"), ("agreement", "ari_prev"))
    )


PARTS: Parts = {
    "beyond people": beyond_people,
    "cost": cost,
    "recounts": of_file(NOISE, recounts),
    "large gap": of_file(METHODS, large_gap),
    "stability": stability,
    "convergence": of_file(METHODS, convergence),
}


def files() -> Found:
    paths = (FOLDER / f"{name}.json" for name in (SPEED, EVIDENCE, HOSTS, CLASSIFICATION))
    return {**read(FOLDER), **{it.stem: json.loads(it.read_text(encoding="utf-8")) for it in paths if it.exists()}}


def main() -> None:
    page = DOCS / "questions.md"
    page.write_text(build(page.read_text(encoding="utf-8"), files(), PARTS, "questions"), encoding="utf-8")


if __name__ == "__main__":
    main()
