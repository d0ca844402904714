"""Write what hosts, refiners and rivals give, in docs/results.md and docs/classification.md, from the files of their
sweeps in benchmarks/results/.

python docs/rivals.py
"""

from __future__ import annotations

import json

import numpy as np
from results import (
    DOCS,
    FOLDER,
    MAP,
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

from rapids_slr.sweep.folder import Results
from rapids_slr.sweep.table import (
    difference_of,
    difference_text,
    differences,
    figures_of,
    headline_of,
    over_epochs,
    rows_of,
    score_figure,
    sections,
    spread_of,
    spread_text,
)

HOSTS, IMAGENET, CLASSIFICATION = "hosts", "imagenet", "classification"
"""Sweeps, and their files in benchmarks/results/."""
NONE, OURS = "none", "slr"
"""What the clusters as they are, and SLR, are called in all of them."""
START = score_figure("mAP", "direct_bn")
WHOLE = slice(1, None)
"""The epochs that have one before them."""


def runs(results: Results) -> Lines:
    row = _origin(results["name"], results)
    methods = row.pop("methods: seeds").split("; ")
    return [*table([row]), *(f"- {line}" for line in methods), "", versions_of(finished(results))]


# Hosts and refiners ---------------------------------------------------------------------------------------------------


def by_host(results: Results) -> dict[str, dict[str, str]]:
    """The method of a host and a refiner, by these."""
    found: dict[str, dict[str, str]] = {}
    for method in results["methods"]:
        refiner, _, host = method.partition("-host=")
        found.setdefault(host, {})[refiner] = method
    return found


def above_the_start(results: Results) -> Lines:
    """What every host ends with beyond the network it began with, by SLR and with the clusters as they are."""
    rows, lines = [], []
    for host, methods in by_host(results).items():
        for refiner in (NONE, OURS):
            found = all_differences(results, methods[refiner], methods[refiner], MAP, START)
            ends = {
                section: spread_text(spread_of(seeds))
                for section in sections(results)
                if (seeds := figures_of(results, section, methods[refiner], MAP))
            }
            rows.append({"host": host, "refine": refiner, "": "mAP, %"} | by_section(results, ends))
            rows.append({"host": host, "refine": refiner, "": "− direct_bn"} | by_section(results, _texts(found)))
            lines.append(f"- {host}, {refiner}: intervals that exclude 0: {beyond_chance(found)}.")
    return [*table(rows), *lines]


def refiners(results: Results) -> Lines:
    """What every refiner gives in every host beyond the clusters as they are, and the mean over the hosts."""
    lines: Lines = []
    for host, methods in by_host(results).items():
        found = {
            name: all_differences(results, method, methods[NONE], MAP)
            for name, method in methods.items()
            if name != NONE
        }
        lines += table(
            {f"{host}: mAP, points": f"{name} − {NONE}"} | by_section(results, _texts(by_pair))
            for name, by_pair in found.items()
        )
    return lines + over_hosts(results)


def over_hosts(results: Results) -> Lines:
    """What a refiner gives beyond the clusters as they are; a seed counts with its mean over the hosts that have it."""
    hosts, rows = by_host(results), []
    for refiner in dict.fromkeys(name for methods in hosts.values() for name in methods if name != NONE):
        pairings = [(methods[refiner], methods[NONE]) for methods in hosts.values() if refiner in methods]
        gains = {}
        for section in sections(results):
            found = [
                differences(figures_of(results, section, method, MAP), figures_of(results, section, none, MAP))
                for method, none in pairings
            ]
            seeds = set.intersection(*map(set, found))
            if seeds:
                means = {seed: float(np.mean([by_seed[seed] for by_seed in found])) for seed in sorted(seeds)}
                gains[section] = difference_text(difference_of(means))
        rows.append({"mean over hosts: mAP, points": f"{refiner} − {NONE}"} | by_section(results, gains))
    return table(rows)


def label_quality(results: Results, method: str, score: str) -> dict[str, str]:
    """A score of the labels that a method trains on, for each pair and all of them."""
    found = {}
    for section in sections(results):
        by_seed = figures_of(results, section, method, over_epochs(score, WHOLE))
        if by_seed:
            found[section] = spread_text(spread_of(by_seed), 1, 3)
    return by_section(results, found)


def labels(results: Results) -> Lines:
    """ARI of what is trained on, mean over the epochs from the second on."""
    rows = [
        {"host": host, "refine": refiner} | label_quality(results, method, "ari")
        for host, methods in by_host(results).items()
        for refiner, method in methods.items()
    ]
    return ["ARI of the labels that are trained on, mean over the epochs from the second on:", *table(rows)]


# With SLR and without -------------------------------------------------------------------------------------------------


def with_and_without(results: Results) -> Lines:
    """The scores of every pair, with the differences that SLR makes."""
    lines = runs(results)
    for pair in results["pairs"]:
        lines += ["", f"### {pair}", *table(rows_of(results, pair))]
    headline = headline_of(results)
    end, start = score_figure(headline.key), score_figure(headline.key, "direct_bn")
    gains = {method: all_differences(results, method, method, end, start) for method in results["methods"]}
    lines += ["", "### Beyond the start"]
    lines += table(
        {f"{headline.name}, points": f"{method} − direct_bn"} | by_section(results, _texts(found))
        for method, found in gains.items()
    )
    rows = [
        {"labels that are trained on": score.upper(), "": method} | label_quality(results, method, score)
        for score in ("ari", "nmi")
        for method in results["methods"]
    ]
    return [*lines, "", "### Labels", "", "Mean over the epochs from the second on:", *table(rows)]


PAGES: dict[str, Parts] = {
    "results": {
        "hosts": of_sweep(HOSTS, runs),
        "hosts above the start": of_sweep(HOSTS, above_the_start),
        "refiners": of_sweep(HOSTS, refiners),
        "refiners' labels": of_sweep(HOSTS, labels),
        "imagenet": of_sweep(IMAGENET, with_and_without),
    },
    "classification": {"sweep": of_sweep(CLASSIFICATION, with_and_without)},
}
"""The parts of each page that are written here."""


def read() -> Found:
    paths = (FOLDER / f"{name}.json" for name in (HOSTS, IMAGENET, CLASSIFICATION))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()}


def main() -> None:
    found = read()
    for name, parts in PAGES.items():
        page = DOCS / f"{name}.md"
        page.write_text(build(page.read_text(encoding="utf-8"), found, parts, "rivals"), encoding="utf-8")


if __name__ == "__main__":
    main()
