"""Runs that start without a source: from given weights, or random ones."""

from __future__ import annotations

import json

import pytest
import torch

from rapids_slr import run
from rapids_slr.cli import main
from rapids_slr.errors import InputError
from rapids_slr.networks.checkpoint import load_trained, new_network
from rapids_slr.profiling.stages import Workload, short
from rapids_slr.reports import maps, write_report
from rapids_slr.session import Session
from rapids_slr.settings.specfile import SpecError, dump_spec, load_spec
from rapids_slr.sweep.plan import load_sweep
from tests.reports.conftest import Page
from tests.test_run import changed, metrics_without_times


def without_source(tiny, **sections):
    return changed(tiny, data={"source": None}, pretrain=None, training={"epochs": 1, "source": None}, **sections)


def backbone_of(network) -> dict[str, torch.Tensor]:
    """The weights as another program might have them: under the backbone's names, with a head of its own."""
    parts = {
        **network.trunk.state_dict(),
        **{f"layer3.{name}": x for name, x in network.branches[0].state_dict().items()},
    }
    return {
        "state_dict": {f"module.{name}": x for name, x in parts.items()} | {"module.classifier.weight": torch.ones(3)}
    }


def test_a_run_starts_from_given_weights(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(maps, "FEWEST", 10**9)
    held = backbone_of(new_network(tiny))
    torch.save(held, tmp_path / "theirs.pth")
    spec = without_source(tiny, model={"weights": str(tmp_path / "theirs.pth")})
    out = run.train(spec, tmp_path / "run")
    start = load_trained(out / "checkpoints/pretrained.pt").network.trunk.state_dict()
    assert torch.equal(start["layer1.0.conv1.weight"], held["state_dict"]["module.layer1.0.conv1.weight"])
    assert "left out: state_dict.module.classifier.weight" in caplog.text
    assert not (out / "pretrain.jsonl").exists()
    assert json.loads((out / "summary.json").read_text()).keys() >= {"direct", "direct_bn", "last", "best"}
    page = Page(write_report([out]).read_text())
    assert "There was no pre-training; the network started from weights: " in page.text["pretraining"]


def test_random_weights_depend_on_the_seed_alone_and_the_stage_alone_is_the_same(tiny, tmp_path):
    spec = without_source(tiny)
    whole = run.train(spec, tmp_path / "whole")
    alone = run.adapt(spec, tmp_path / "alone")
    assert metrics_without_times(whole) == metrics_without_times(alone)
    assert run.train(spec, whole, resume=True) == whole
    other = load_trained(run.adapt(changed(spec, seed=4), tmp_path / "other") / "checkpoints/pretrained.pt").network
    first = load_trained(whole / "checkpoints/pretrained.pt").network
    assert not torch.equal(first.trunk.conv1.weight, other.trunk.conv1.weight)


def test_there_is_nothing_to_pretrain(tiny, tmp_path):
    with pytest.raises(InputError, match="pretrain: none leaves nothing to pre-train; `rapids-slr train` or `adapt`"):
        run.pretrain(without_source(tiny), tmp_path / "run")


def test_bad_weights_stop_a_run_before_it_trains(tiny, tmp_path):
    with pytest.raises(InputError, match=r"there is no file gone\.pth"):
        run.train(without_source(tiny, model={"weights": "gone.pth"}), tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_spec_says_none_and_comes_back(tiny, tmp_path, capsys):
    spec = without_source(tiny)
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    assert "pretrain: none" in dump_spec(spec)
    assert load_spec(tmp_path / "spec.yaml") == spec
    assert load_spec(tmp_path / "spec.yaml", ["pretrain.checkpoint=x.pt"]).checkpoint == "x.pt"
    assert main(["spec", "check", str(tmp_path / "spec.yaml")]) == 0
    with pytest.raises(SpecError, match=r"data\.source is missing: .* or start without one by pretrain: none"):
        load_spec(tmp_path / "spec.yaml", ["pretrain={epochs: 3}"])
    with pytest.raises(SpecError, match=r"training\.source needs data\.source"):
        load_spec(tmp_path / "spec.yaml", ["training.source={}"])


def test_a_sweep_of_such_runs_shares_no_pretraining(tiny, tmp_path):
    (tmp_path / "spec.yaml").write_text(dump_spec(without_source(tiny)))
    (tmp_path / "sweep.yaml").write_text("spec: spec.yaml\nseeds: [0, 1]\nmethods: {abmt: {refine: none}, slr: {}}\n")
    assert [run.pretraining for run in load_sweep(tmp_path / "sweep.yaml").runs] == [None] * 4


def test_a_profile_takes_random_weights(tiny, tmp_path):
    with Session(short(without_source(tiny)), tmp_path) as session:
        assert Workload(session).weights == "random"
