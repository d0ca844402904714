"""docs/adaptation.md says what benchmarks/results/evidence.json holds; its tables against counting by hand."""

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
METHODS = ("abmt", "unrefined", "hdbscan", "soft", "identities")


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return script("adaptation")


@pytest.fixture
def results() -> dict[str, Any]:
    """Invented: two pairs, four seeds, three epochs."""
    draw = np.random.default_rng(7)
    runs = []
    for pair, method, seed in itertools.product(("mid", "shops"), METHODS, range(4)):
        looks = ("source", "views", "heads", "density")
        epochs = [
            {"epoch": epoch, "mAP": float(draw.uniform(0.3, 0.6))}
            | {f"guard/{look}": float(draw.uniform()) for look in looks}
            for epoch in (1, 2, 3)
        ]
        scores = {"direct": {"mAP": 0.4}, "direct_bn": {"mAP": float(draw.uniform(0.4, 0.5))}, "last": epochs[-1]}
        scores |= {"guard": {f"guard/{look}": float(draw.uniform()) for look in looks}, "picked": epochs[1]}
        bn = method != "abmt"
        runs.append(
            {
                "pair": pair, "method": method, "seed": seed, "state": "done", "device": "CPU", "commit": "abc",
                "versions": {"python": "3.11"}, "changes": {"features.bn_recalibrate": True} if bn else {},
                "result": "last" if method in ("abmt", "identities") else "picked", "scores": scores, "epochs": epochs,
            }
        )  # fmt: skip
    axes = {"pairs": ["mid", "shops"], "methods": list(METHODS), "seeds": [0, 1, 2, 3]}
    return {"format": 1, "name": "evidence", "baseline": "abmt", "base": {}, **axes, "runs": runs}


def ends(results: dict[str, Any], pair: str, method: str) -> list[float]:
    found = [run for run in results["runs"] if (run["pair"], run["method"]) == (pair, method)]
    return [run["scores"][run["result"]]["mAP"] for run in sorted(found, key=lambda run: run["seed"])]


def test_the_page_is_that_of_the_results(page):
    text = (DOCS / "adaptation.md").read_text()
    assert page.build(text, page.read(), page.PARTS, "adaptation") == text, "run python docs/adaptation.py"
    results, plan = page.read()["evidence"], load_sweep("evidence")
    assert not CHOSEN_ON & set(results["seeds"])
    assert all(tuple(results[axis]) == getattr(plan, axis) for axis in ("pairs", "methods", "seeds"))


def test_differences_are_paired(page, results):
    gains = np.subtract(ends(results, "shops", "soft"), ends(results, "shops", "abmt")).tolist()
    assert cells(page.scores(results), "soft − abmt")[1] == in_words(gains)
    on_top = np.subtract(ends(results, "mid", "soft"), ends(results, "mid", "unrefined")).tolist()
    assert cells(page.refinement(results), "soft − unrefined")[0] == in_words(on_top)


def test_a_run_is_compared_with_its_start(page, results):
    runs = [run for run in results["runs"] if (run["pair"], run["method"]) == ("mid", "soft")]
    gains = [run["scores"]["picked"]["mAP"] - run["scores"]["direct_bn"]["mAP"] for run in runs]
    lines = page.start(results)
    assert cells(lines, "soft − its start")[0] == in_words(gains)
    assert cells(lines, "the worst seed")[0] == f"{100 * min(gains):+.1f}"


def test_the_way_is_a_ratio_of_means(page, results):
    low, high, here = (np.mean(ends(results, "mid", name)) for name in ("abmt", "identities", "soft"))
    expected = f"{100 * (here - low) / (high - low):.0f}" if high > low else "–"
    assert cells(page.way(results), "soft")[0] == expected


def test_choices_of_the_guard_are_counted_over_all_runs(page, results):
    runs = [run for run in results["runs"] if run["method"] != "identities"]
    harmed = harm_avoided = near = 0
    for run in runs:
        start = run["scores"]["direct_bn" if run["changes"] else "direct"]["mAP"]
        mAP = [start] + [row["mAP"] for row in run["epochs"]]
        source = [run["scores"]["guard"]["guard/source"]] + [row["guard/source"] for row in run["epochs"]]
        chosen = max(range(4), key=lambda place: source[place])
        near += mAP[chosen] >= max(mAP) - 0.01
        if mAP[-1] < start - 0.01:
            harmed += 1
            harm_avoided += mAP[chosen] >= start - 0.01
    row = cells(page.guard(results), "source, highest")
    assert row[1] == f"{near} of {len(runs)}"
    assert row[3] == f"{harm_avoided} of {harmed}"


@pytest.mark.parametrize(
    ("source", "place"), [([0.5, 0.6, 0.7], 2), ([0.5, 0.7, 0.6], 1), ([0.5, 0.4], 0), ([0.5, 0.48], 1)]
)
def test_the_rule_is_that_of_the_product(page, source, place):
    rows = [{"guard/source": score} for score in source]
    assert page.latest_that_kept("guard/source")(rows) == place
    assert page.highest("guard/source")(rows) == max(range(len(source)), key=lambda i: source[i])


def test_the_quickstart_is_shown_run_by_run(page):
    made = {"device": "CPU", "commit": "abc", "versions": {"python": "3.11"}}
    runs = [{"seed": 3, "threads": 2, "direct_bn": 0.5, "last": 0.625, "epochs": [0.375, 0.75, 0.625], **made}]
    lines = page.quickstart({"quickstart": runs})
    assert cells(lines, "2 | 3") == ["50.0", "37.5", "-12.5", "62.5", "+12.5"]


def test_without_results_it_says_how_to_get_them(page):
    assert all("Not measured yet" in line for part in page.PARTS.values() for line in part({})[:1])
