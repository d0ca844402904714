"""The guard of a run: what it leaves, how it resumes, what it picks; a run without it is as if there were none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from rapids_slr import guard, run
from rapids_slr.cli import main
from rapids_slr.errors import InputError
from rapids_slr.evaluation.guard import head_agreement, neighbour_agreement
from rapids_slr.guard import Guard
from rapids_slr.networks.checkpoint import load_trained
from rapids_slr.networks.embed import embed
from rapids_slr.record.columns import PICKS_BY
from rapids_slr.reports import write_report
from rapids_slr.session import Session
from rapids_slr.settings.spec import FeatureSpec, RunSpec
from rapids_slr.settings.specfile import load_spec
from tests.conftest import TINY
from tests.test_run import assert_same_run, changed, metrics_without_times, stopped

LOOKED = {"guard/source", "guard/views", "guard/heads", "guard/density"}
COMPARED = {"guard/epochs", "guard/start"}


def guarded(spec: RunSpec, **keys) -> RunSpec:
    return changed(spec, evaluation={"guard": True, "guard_images": 40, "pick": "guard", **keys})


def unguarded(spec: RunSpec) -> RunSpec:
    return changed(spec, evaluation={"guard": False, "pick": "last"})


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run without a guard."""
    return run.train(unguarded(RunSpec.model_validate(TINY)), tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The same with one."""
    return run.train(guarded(RunSpec.model_validate(TINY)), tmp_path_factory.mktemp("runs") / "guarded")


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


# What it leaves -------------------------------------------------------------------------------------------------------


def test_every_evaluated_epoch_and_the_start_have_scores(finished):
    rows, start = metrics_without_times(finished), summary_of(finished)["guard"]
    assert start.keys() == LOOKED
    for row in rows:
        assert {key for key in row if key.startswith("guard/")} == LOOKED | COMPARED
    assert all(0 <= row[key] <= 1 for row in [start, *rows] for key in row if key.startswith("guard/"))
    assert rows[0]["guard/epochs"] == rows[0]["guard/start"]  # before the first epoch there was the start
    assert rows[2]["guard/epochs"] != rows[2]["guard/start"]
    stages = summary_of(finished)["stage_seconds"]
    assert 0 < stages["guard"] < stages["epoch"]


def test_a_guard_changes_nothing_but_its_own(plain, finished):
    assert not (plain / "checkpoints/picked.pt").exists()
    assert summary_of(finished).keys() - summary_of(plain).keys() == {"guard", "picked"}
    theirs = [{key: row[key] for key in row if not key.startswith("guard/")} for row in metrics_without_times(finished)]
    assert theirs == metrics_without_times(plain)
    one, other = (torch.load(folder / "checkpoints/last.pt", weights_only=True) for folder in (plain, finished))
    assert other.keys() - one.keys() == {"guard"}
    assert other["start"].keys() - one["start"].keys() == {"guard"}
    assert all(torch.equal(one["teacher"][name], x) for name, x in other["teacher"].items())


def test_its_scores_are_those_of_the_network_that_a_checkpoint_holds(finished):
    trained, spec = load_trained(finished / "checkpoints/last.pt"), load_spec(finished / "spec.yaml")
    with Session(spec, finished) as session:
        looks = Guard(spec, session.images, None).seen
    assert [len(look.store) for look in looks] == [40] * 3
    features, one, other = (embed(trained.network, look.store, trained.data, FeatureSpec()) for look in looks)
    last = metrics_without_times(finished)[-1]
    assert last["guard/views"] == neighbour_agreement(one, other, guard.NEIGHBOURS)
    assert last["guard/heads"] == head_agreement(features, 2, guard.NEIGHBOURS)


def test_epochs_that_are_not_evaluated_are_not_looked_at(tiny, tmp_path, plain):
    checkpoint = str(plain / "checkpoints/pretrained.pt")
    spec = changed(guarded(tiny, every=2, pick="last"), pretrain={"checkpoint": checkpoint})
    rows = metrics_without_times(run.train(spec, tmp_path / "run"))
    assert ["guard/views" in row for row in rows] == [False, True, True]
    assert "picked" not in summary_of(tmp_path / "run")
    assert not (tmp_path / "run/checkpoints/picked.pt").exists()


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_guarded_run_resumes_bit_for_bit(finished, tiny, tmp_path, written):
    out = tmp_path / "run"
    for name in ("spec.yaml", "pretrain.jsonl", "checkpoints/pretrained.pt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished / name, out / name)
    stopped(run.adapt, guarded(tiny), out, written)
    run.adapt(guarded(tiny), out, resume=True)
    assert_same_run(finished, out)
    for key in ("guard", "picked"):
        assert summary_of(out)[key] == summary_of(finished)[key]
    one, other = (torch.load(folder / "checkpoints/picked.pt", weights_only=True) for folder in (finished, out))
    assert one["epoch"] == other["epoch"]
    assert all(torch.equal(weights, other["network"][name]) for name, weights in one["network"].items())


# What it picks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "picked"),
    [
        ([0.5, 0.6, 0.7], [0, 1, 2]),
        ([0.5, 0.48, 0.6], [0, 1, 2]),  # the latest of those that forgot little
        ([0.5, 0.47, 0.48], [0, 2]),
        ([0.5, 0.7, 0.6], [0, 1]),
        ([0.5, 0.7, 0.665, 0.66], [0, 1, 2]),  # as of the best, not of the one before
        ([0.5, 0.4, 0.3], [0]),
        ([0.5, None, 0.5], [0, 2]),  # an epoch that was not evaluated
        ([0.0, 0.0], [0, 1]),
    ],
)
def test_the_latest_network_that_forgot_little_is_picked(tiny, scores, picked):
    watch = Guard(guarded(tiny), None, None)
    looks = [(number, {} if x is None else {PICKS_BY: x}) for number, x in enumerate(scores)]
    assert [number for number, look in looks if watch.picks(number, look)] == picked
    again = Guard(guarded(tiny), None, None)
    again.load_state_dict(watch.state_dict())
    best = max(x for x in scores if x is not None)
    assert again.picks(8, {PICKS_BY: 0.951 * best})
    assert not again.picks(9, {PICKS_BY: 0.949 * best - 1e-9})


def test_a_guard_that_only_looks_picks_nothing(tiny):
    watch = Guard(guarded(tiny, pick="last"), None, None)
    assert not watch.picks(0, {PICKS_BY: 1.0})
    assert watch.picked is None


@pytest.mark.parametrize(("found", "epoch"), [([0.2, 0.4, 0.9, 0.1], 2), ([0.9, 0.4, 0.5, 0.6], 0)])
def test_the_picked_network_is_kept_and_named(tiny, tmp_path, monkeypatch, capsys, plain, found, epoch):
    """By scores that are made up: the start, then three epochs."""
    scores = iter(found)
    monkeypatch.setattr(Guard, "look", lambda self, embed: {PICKS_BY: next(scores)})
    spec = changed(guarded(tiny), pretrain={"checkpoint": str(plain / "checkpoints/pretrained.pt")})
    out = run.train(spec, tmp_path / "run")
    rows, summary = metrics_without_times(out), summary_of(out)
    expected = rows[epoch - 1] if epoch else summary["direct_bn"]
    picked = summary["picked"]
    assert (picked.pop("epoch"), picked.pop("by"), picked.pop(PICKS_BY)) == (epoch, PICKS_BY, max(found))
    assert picked == {key: expected[key] for key in ("mAP", "rank1", "rank5", "rank10")}
    file = out / "checkpoints/picked.pt"
    assert load_trained(file).which == f"the picked network, epoch {epoch}"
    assert summary["result"] == "picked"
    assert load_trained(out).which == load_trained(file).which
    assert run.evaluate(spec, out) == picked
    assert run.evaluate(spec, out, out / "checkpoints/last.pt") == summary["last"]
    said = capsys.readouterr().err
    assert f"the guard picked {f'epoch {epoch}' if epoch else 'the network before adaptation'}" in said
    assert "source  40.0" in said  # in the line of epoch 1
    text = write_report([out]).read_text()
    assert f"picked by the guard ({epoch})" in text
    assert 'id="guard"' in text


def test_the_command_line_evaluates_the_file_it_is_given(finished, tmp_path, capsys):
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    file = shutil.copy(out / "checkpoints/pretrained.pt", tmp_path / "other.pt")
    assert main(["evaluate", "--out", str(out), "--checkpoint", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == summary_of(out)["direct"]


def test_picking_needs_a_guard(tiny):
    with pytest.raises(ValueError, match="pick: guard needs guard: true"):
        changed(tiny, evaluation={"guard": False, "pick": "guard"})


def test_a_run_cannot_be_given_a_guard_halfway(plain, tiny):
    with pytest.raises(InputError, match=r"evaluation\.guard.*differ"):
        run.train(guarded(tiny), plain, resume=True)


# In the report --------------------------------------------------------------------------------------------------------


def test_the_report_shows_the_guard_where_there_is_one(plain, finished, tmp_path):
    text = write_report([finished], tmp_path / "one.html").read_text()
    start, last = summary_of(finished)["guard"], metrics_without_times(finished)[-1]
    assert f"agreement of views, epoch 0: {100 * start['guard/views']:.1f} %" in text
    assert f"agreement with start, epoch 3: {100 * last['guard/start']:.1f} %" in text
    assert 'id="guard"' not in write_report([plain], tmp_path / "other.html").read_text()
