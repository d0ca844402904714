"""Runs of earlier versions go on: tests/older_runs/0.1.0 was written by 0.1.0, two epochs of three."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from rapids_slr import run
from rapids_slr.networks.checkpoint import load_network, load_trained
from rapids_slr.profiling.profile import profile_run
from rapids_slr.reports import write_report
from rapids_slr.settings.specfile import load_spec

OLDER = Path(__file__).parent / "older_runs" / "0.1.0"


@pytest.fixture
def older(tmp_path) -> Path:
    return Path(shutil.copytree(OLDER, tmp_path / "run"))


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_of_010_is_resumed_where_it_was(older):
    before, state = rows(older), torch.load(older / "checkpoints/last.pt", weights_only=True)
    assert (state["epoch"], "host" in state, "refiner" in state) == (2, False, False)
    run.train(load_spec(older / "spec.yaml", of_run=True), older, resume=True)
    after = rows(older)
    assert [row["epoch"] for row in after] == [1, 2, 3]
    assert after[:2] == before
    assert after[2].keys() == before[1].keys()
    second, third = (pd.read_parquet(older / "labels" / f"epoch-00{epoch}.parquet") for epoch in (2, 3))
    assert (third["previous"] == second["cluster"]).all()  # the memory of SLR
    now = torch.load(older / "checkpoints/last.pt", weights_only=True)
    assert now["step"] == 12  # the teacher's average goes on counting
    assert set(state) - set(now) == {"slr"}


def test_one_without_refinement_too(older):
    spec = older / "spec.yaml"
    text = spec.read_text()
    start, end = text.index("refine:"), text.index("training:")
    spec.write_text(text[:start] + "refine: none\n" + text[end:])
    state = torch.load(older / "checkpoints/last.pt", weights_only=True)
    torch.save(state | {"slr": None}, older / "checkpoints/last.pt")
    run.train(load_spec(spec, of_run=True), older, resume=True)
    third = pd.read_parquet(older / "labels" / "epoch-003.parquet")
    assert (third["refined"] == third["cluster"]).all()
    assert (third["previous"] == state["clusters_N"].numpy()).all()


def test_its_networks_are_read(older):
    spec, pretrained = (
        load_spec(older / "spec.yaml", of_run=True),
        torch.load(older / "checkpoints/pretrained.pt", weights_only=True),
    )
    network = load_network(older / "checkpoints/pretrained.pt", spec)
    assert all(torch.equal(network.state_dict()[name], x) for name, x in pretrained["network"].items())
    teacher = torch.load(older / "checkpoints/last.pt", weights_only=True)["teacher"]
    trained = load_trained(older)
    assert trained.which == "the teacher after epoch 2"
    assert all(torch.equal(trained.network.state_dict()[name], x) for name, x in teacher.items())
    assert (trained.data.height, trained.data.width, trained.data.mean) == (32, 16, [0.485, 0.456, 0.406])
    assert load_trained(older / "checkpoints/pretrained.pt").which == "the pre-trained network"


def test_it_is_evaluated_reported_and_profiled(older, tmp_path):
    spec = load_spec(older / "spec.yaml", of_run=True)
    assert run.evaluate(spec, older)["mAP"] == pytest.approx(rows(older)[-1]["mAP"], abs=1e-4)
    assert "adapting: 2 of 3 epochs are done" in write_report([older]).read_text()
    checkpoint = f"pretrain.checkpoint={older / 'checkpoints/pretrained.pt'}"
    result = profile_run(
        load_spec(older / "spec.yaml", [checkpoint], of_run=True), tmp_path / "profile", repetitions=1
    )[1]
    assert np.isfinite(result["stages"]["EMA"]["seconds"]["median"])
