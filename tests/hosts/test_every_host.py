"""What every host of the table does: trains on all kinds of labels, resumes bit for bit, profiles and reports."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from rapids_slr import run
from rapids_slr.hosts.targets import Targets, hard_targets
from rapids_slr.networks.checkpoint import load_network, load_trained
from rapids_slr.profiling.profile import profile_run
from rapids_slr.profiling.stages import STAGES
from rapids_slr.record.columns import COLUMNS
from rapids_slr.reports import write_report
from rapids_slr.session import Session
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.tables import HOSTS
from tests.conftest import TINY
from tests.test_run import changed, metrics_without_times, stopped

OWN_STEPS = {"abmt": {"EMA"}, "cluster_contrast": {"memory update"}, "spcl": {"memory update"}, "mmt": {"EMA"}}
"""Steps of training that a host marks."""
BESIDE = {"spcl": {"clusters": TINY["clusters"] | {"reliable": {"independent": 1.0}}}}
"""What a host is used with."""


@pytest.fixture(scope="module", params=list(HOSTS))
def spec(request, tmp_path_factory) -> RunSpec:
    """A tiny spec of the host, with a network to begin from."""
    tiny = RunSpec.model_validate(TINY | {"host": request.param} | BESIDE.get(request.param, {}))
    checkpoint = run.pretrain(tiny, tmp_path_factory.mktemp(request.param)) / "checkpoints/pretrained.pt"
    return changed(tiny, pretrain={"checkpoint": str(checkpoint)})


def differing(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two nests of tensors and plain values differ, bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differing(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    return [] if type(one) is type(other) and one == other else [place]


@pytest.mark.parametrize(
    ("refine", "training"),
    [
        ("none", {}),
        ({}, {"source": None}),
        ({"hard": "hdbscan"}, {}),
        ({"hard": "argmax"}, {"weights": "confidence"}),
    ],
    ids=str,
)
def test_it_trains_on_labels_of_every_kind(spec, tmp_path, refine, training):
    refine = refine if refine == "none" else {**refine, "min_cluster_size": 3}
    made = changed(spec, refine=refine, training={"epochs": 2, "iterations": 2, **training})
    out = run.train(made, tmp_path / "run")
    rows = metrics_without_times(out)
    assert [row["epoch"] for row in rows] == [1, 2]
    losses = {key for key in rows[-1] if key.startswith("loss/")}
    assert losses
    assert all(COLUMNS[key].meaning for key in losses)
    assert any(key.startswith("loss/source") for key in losses) == (made.training.source is not None)
    trained = load_trained(out / "checkpoints/last.pt")
    assert trained.which == f"the {spec.host.embeds} after epoch 2"
    before = load_trained(Path(spec.checkpoint)).network.state_dict()
    assert differing(dict(before), dict(trained.network.state_dict()))


def test_soft_labels_and_weights_change_what_is_learnt(spec, tmp_path):
    label_N = torch.arange(48) % 4
    rows, weights_N = 0.8 * torch.eye(4) + 0.05, torch.linspace(0.1, 1, 48)
    ways = {
        "plain": Targets(label_N, 4),
        "soft": Targets(label_N, 4, rows, label_N),
        "weighed": Targets(label_N, 4, weights_N=weights_N),
        "evenly": Targets(label_N, 4, weights_N=torch.full((48,), 0.5)),
    }
    states = {}
    for name, targets in ways.items():
        with Session(spec, tmp_path / name) as session:
            host = spec.host.build()
            host.begin(load_network(Path(spec.checkpoint), spec), session)
            host.fit_epoch(host.embed(session.images.target), targets, 1)
            states[name] = host.state_dict()[spec.host.embeds]
    assert differing(states["plain"], states["soft"])
    assert differing(states["plain"], states["weighed"])
    torch.testing.assert_close(states["plain"], states["evenly"], rtol=1e-2, atol=1e-3)


def test_a_look_ahead_leaves_it_as_it_was(spec, tmp_path):
    """Twice in a row: in SpCL the second time has a memory to go back to."""
    with Session(spec, tmp_path / "ahead") as session:
        now = run.new_adaptation(session)
        now.host.begin(load_network(Path(spec.checkpoint), spec), session)
        for epoch in (1, 2):
            features_ND, clusters = run.embed_and_cluster(session, now, epoch)
            before = copy.deepcopy(now.host.state_dict())
            ahead_ND, ahead = run.look_ahead(session, now, epoch, features_ND, clusters)
            assert differing(before, dict(now.host.state_dict())) == []
            assert not torch.equal(features_ND, ahead_ND)
            assert ahead.labels_N.shape == clusters.labels_N.shape
            now.host.fit_epoch(features_ND, hard_targets(ahead.labels_N), epoch)


def test_it_resumes_bit_for_bit_profiles_and_reports(spec, tmp_path):
    whole = run.train(spec, tmp_path / "whole")
    stopped(run.train, spec, tmp_path / "parts", 1)
    parts = run.train(spec, tmp_path / "parts", resume=True)
    assert metrics_without_times(whole) == metrics_without_times(parts)
    one, other = (torch.load(folder / "checkpoints/last.pt", weights_only=True) for folder in (whole, parts))
    assert differing(one, other) == []
    for table in sorted((whole / "labels").iterdir()):
        pd.testing.assert_frame_equal(pd.read_parquet(table), pd.read_parquet(parts / "labels" / table.name))

    page = write_report([whole]).read_text()
    assert all(key.removeprefix("loss/") in page for key in metrics_without_times(whole)[-1] if "loss/" in key)
    stages = profile_run(spec, tmp_path / "profile", repetitions=1)[1]["stages"]
    own, others = OWN_STEPS[spec.host.choice()], set().union(*OWN_STEPS.values())
    unused = {"HDBSCAN"} | ({"reliability"} if spec.clusters.reliable is None else set())
    assert set(stages) == set(STAGES) - unused - (others - own)
    assert all(stages[step]["calls"] >= spec.training.iterations for step in own)
    assert json.loads((whole / "summary.json").read_text()).keys() >= {"direct", "direct_bn", "last", "best"}
