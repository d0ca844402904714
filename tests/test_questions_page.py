"""docs/questions.md holds the figures of the result files, and can be written without any of them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def questions(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    yield importlib.import_module("questions")
    for name in ("questions", "results"):
        sys.modules.pop(name, None)


def test_the_page_is_that_of_the_result_files(questions):
    page = (DOCS / "questions.md").read_text(encoding="utf-8")
    assert questions.build(page, questions.files(), questions.PARTS, "questions") == page, "run docs/questions.py"


def test_every_question_has_its_place(questions):
    page = (DOCS / "questions.md").read_text(encoding="utf-8")
    assert page.count("\n## ") == 6 == len(questions.PARTS)
    empty = questions.build(page, {}, questions.PARTS, "questions")
    assert "Not measured yet" in empty


def test_changes_of_the_number_of_clusters_are_told_row_by_row(questions):
    row = {"clusters_before": 50.0, "clusters_now": 500.0, "entries_a_row": 10.0, "largest_entry": 0.1504}
    row |= {"refined_clusters": 387.0, "left_out": 676.5, "agreement_with_now": 0.9632}
    *_, line, _ = questions.recounts({"recount": [row]})
    assert line == "| 50 → 500 | 10.0 | 0.15 | 387 | 676 | 0.96 |"


def test_the_share_of_refinement_is_of_the_clustering_beside_it(questions):
    rows = json.loads((DOCS.parent / "benchmarks/results/labels-cpu.json").read_text(encoding="utf-8"))
    row = next(row for row in rows if "search" not in row)
    text = "\n".join(questions.cost({"labels-cpu": [row | {"seconds": {"total": 0.5, "refine": 0.005}}]}))
    assert "| 500 | 5.00 | 1.00% |" in text


def test_gains_of_every_sweep_are_paired_and_told_by_what_they_compare(questions):
    def run(pair: str, method: str, seed: int, score: float) -> dict:
        epochs = [{"epoch": 1}, {"epoch": 2, "ari_prev": score, "raw_ari_prev": score / 2}]
        return {"pair": pair, "method": method, "seed": seed, "state": "done", "result": "last", "epochs": epochs,
                "scores": {"last": {"mAP": score}}}  # fmt: skip

    names = [
        f"{refiner}-host={host}" for refiner in ("none", "slr") for host in ("abmt", "cluster_contrast", "spcl", "mmt")
    ]
    runs = [run("forward", name, seed, 0.5 + 0.01 * (name.startswith("slr"))) for name in names for seed in (0, 1)]
    results = {"pairs": ["forward"], "methods": names, "base": {}, "runs": runs}
    text = "\n".join(questions.beyond_people({"hosts": results}))
    assert text.count("| slr − none | +1.00 [+1.00, +1.00] 2/2 |") == 3
    assert "| spcl, raw labels | 0.255 |" in "\n".join(questions.stability({"hosts": results}))
