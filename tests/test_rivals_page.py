"""What docs/rivals.py writes is what the files of its sweeps hold; its tables against counting by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rapids_slr.sweep.plan import load_sweep
from tests.test_results_page import cells, in_words, script

DOCS = Path(__file__).parents[1] / "docs"
CHOSEN_ON = {100, 101, 102}
METHODS = ("none-host=abmt", "none-host=spcl", "slr-host=abmt", "slr-host=spcl", "elr-host=abmt")
PAIRS = ("forward", "shops")


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return script("rivals")


def run_of(pair: str, method: str, seed: int, draw: np.random.Generator) -> dict[str, Any]:
    names = ("mAP", "rank1", "source_classifier", "knn", "linear", "ari")
    scores = {stage: {name: float(draw.uniform()) for name in names} for stage in ("direct", "direct_bn", "picked")}
    return {
        "pair": pair, "method": method, "seed": seed, "state": "done", "device": "CPU", "commit": "abc", "changes": {},
        "versions": {"python": "3.11"}, "result": "picked", "scores": scores | {"last": scores["picked"]},
        "epochs": [{"epoch": n, "ari": float(draw.uniform()), "nmi": float(draw.uniform())} for n in (1, 2, 3)],
    }  # fmt: skip


@pytest.fixture
def hosts() -> dict[str, Any]:
    """Invented: two hosts, two pairs, four seeds; a refiner that one host lacks."""
    draw = np.random.default_rng(5)
    runs = [run_of(*cell, draw) for cell in itertools.product(PAIRS, METHODS, range(4))]
    axes = {"pairs": list(PAIRS), "methods": list(METHODS), "seeds": [0, 1, 2, 3]}
    return {"format": 1, "name": "hosts", "baseline": "none-host=abmt", "base": {}, **axes, "runs": runs}


def scores(results: dict[str, Any], pair: str, method: str, stage: str = "picked", name: str = "mAP") -> list[float]:
    runs = [run for run in results["runs"] if (run["pair"], run["method"]) == (pair, method)]
    return [run["scores"][stage][name] for run in sorted(runs, key=lambda run: run["seed"])]


@pytest.mark.parametrize("name", ["results", "classification"])
def test_the_pages_are_those_of_the_results(page, name):
    text = (DOCS / f"{name}.md").read_text()
    assert page.build(text, page.read(), page.PAGES[name], "rivals") == text, "run python docs/rivals.py"


def test_the_results_are_those_of_the_sweeps_on_seeds_that_chose_nothing(page):
    for name, results in page.read().items():
        plan = load_sweep(name)
        assert not CHOSEN_ON & set(results["seeds"])
        assert all(tuple(results[axis]) == getattr(plan, axis) for axis in ("pairs", "methods", "seeds"))


def test_a_host_is_compared_with_the_network_it_began_with(page, hosts):
    lines = page.above_the_start(hosts)
    ends = scores(hosts, "shops", "slr-host=spcl")
    gains = np.subtract(ends, scores(hosts, "shops", "slr-host=spcl", "direct_bn")).tolist()
    assert cells(lines, "spcl | slr | mAP, %")[1] == f"{100 * np.mean(ends):.1f} ± {100 * np.std(ends, ddof=1):.1f}"
    assert cells(lines, "spcl | slr | − direct_bn")[1] == in_words(gains)


def test_a_refiner_is_compared_with_none_in_its_own_host(page, hosts):
    gains = np.subtract(scores(hosts, "forward", "slr-host=spcl"), scores(hosts, "forward", "none-host=spcl"))
    lines = page.refiners(hosts)
    assert cells(lines, "slr − none", 1)[0] == in_words(gains.tolist())
    others = np.subtract(scores(hosts, "forward", "slr-host=abmt"), scores(hosts, "forward", "none-host=abmt"))
    assert cells(page.over_hosts(hosts), "slr − none")[0] == in_words(((gains + others) / 2).tolist())
    alone = np.subtract(scores(hosts, "shops", "elr-host=abmt"), scores(hosts, "shops", "none-host=abmt"))
    assert cells(page.over_hosts(hosts), "elr − none")[1] == in_words(alone.tolist())


def test_labels_are_those_of_the_epochs_that_have_one_before_them(page, hosts):
    runs = [run for run in hosts["runs"] if (run["pair"], run["method"]) == ("shops", "elr-host=abmt")]
    by_seed = [np.mean([row["ari"] for row in run["epochs"][1:]]) for run in runs]
    expected = f"{np.mean(by_seed):.3f} ± {np.std(by_seed, ddof=1):.3f}"
    assert cells(page.labels(hosts), "abmt | elr")[1] == expected


def test_classification_shows_every_pair_by_its_own_scores(page, hosts):
    names = {"none-host=abmt": "none", "slr-host=abmt": "slr"}
    runs = [run | {"method": names[run["method"]]} for run in hosts["runs"] if run["method"] in names]
    hosts |= {"name": "classification", "methods": ["none", "slr"], "baseline": "none", "runs": runs}
    hosts["base"] = {"task": "classification"}
    lines = page.with_and_without(hosts)
    assert [line for line in lines if line.startswith("### ")] == [
        "### forward",
        "### shops",
        "### Beyond the start",
        "### Labels",
    ]
    assert any("source classifier" in line for line in lines)
    ends, starts = (scores(hosts, "shops", "slr", stage, "source_classifier") for stage in ("picked", "direct_bn"))
    assert cells(lines, "slr − direct_bn")[1] == in_words(np.subtract(ends, starts).tolist())
    by_seed = [np.mean([row["ari"] for row in run["epochs"][1:]]) for run in runs if run["method"] == "slr"][-4:]
    assert cells(lines, "ARI | slr")[1] == f"{np.mean(by_seed):.3f} ± {np.std(by_seed, ddof=1):.3f}"


def test_without_results_it_says_how_to_get_them(page):
    assert all(
        "Not measured yet" in line for parts in page.PAGES.values() for part in parts.values() for line in part({})
    )
