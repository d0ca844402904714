"""A target without identities, query and gallery: what a run on it says, leaves and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from rapids_slr import run
from rapids_slr.cli import main
from rapids_slr.data.drawn.synth import synth_domain
from rapids_slr.errors import InputError
from rapids_slr.record.folder import RunFolder
from rapids_slr.reports import maps, write_report
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import dump_spec
from rapids_slr.sweep.folder import record_of
from rapids_slr.sweep.plan import Run
from rapids_slr.sweep.plot import plot_of
from rapids_slr.sweep.table import markdown
from tests.conftest import TINY
from tests.reports.conftest import Page
from tests.test_run import changed, metrics_without_times


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> Path:
    """bounding_box_train/ alone, with names that tell nothing."""
    folder = tmp_path_factory.mktemp("crops")
    (folder / "bounding_box_train").mkdir()
    domain = synth_domain(RunSpec.model_validate(TINY).data.target.synth)
    for number, name in enumerate(domain.train.names):
        domain.open(name).save(folder / "bounding_box_train" / f"crop-{number}.png")
    return folder


@pytest.fixture(scope="module")
def spec(crops) -> RunSpec:
    tiny = RunSpec.model_validate(TINY)
    target = {"path": str(crops), "synth": None}
    return changed(tiny, data={"target": target}, evaluation={"guard": True, "pick": "guard"})


@pytest.fixture(scope="module")
def adapted(spec, tmp_path_factory) -> Path:
    return run.train(spec, tmp_path_factory.mktemp("runs") / "crops")


SAID = "the target has no images that test a network (query and gallery), so nothing to evaluate on"


def test_a_run_leaves_figures_that_need_no_labels(adapted, spec):
    rows = metrics_without_times(adapted)
    assert len(rows) == spec.training.epochs
    for row in rows:
        assert {"clusters", "refined_clusters", "outliers", "left_out", "guard/views", "guard/epochs"} <= row.keys()
        assert not {"mAP", "rank1", "ari", "raw_nmi", "purity", "false_pairs", "identities"} & row.keys()
    assert {"ari_prev", "raw_ari_prev"} <= rows[-1].keys()
    summary = json.loads((adapted / "summary.json").read_text())
    assert summary["direct"] == summary["direct_bn"] == summary["last"] == {}
    assert "best" not in summary
    assert summary["picked"].keys() == {"guard/source", "epoch", "by"}
    table = pd.read_parquet(adapted / "labels/epoch-003.parquet")
    assert set(table["camera"]) == {1}
    assert len(table) == 48


def test_it_is_said_before_anything_trains(spec, tmp_path, capsys, monkeypatch):
    class Reached(Exception):
        pass

    def pretrain_network(session):
        raise Reached

    monkeypatch.setattr(run, "pretrain_network", pretrain_network)
    with pytest.raises(Reached):
        run.train(spec, tmp_path / "run")
    assert SAID in " ".join(capsys.readouterr().err.split())


def test_the_same_run_in_parts_and_resumed(adapted, spec, tmp_path):
    out = run.pretrain(spec, tmp_path / "run")
    run.adapt(spec, out)
    assert metrics_without_times(out) == metrics_without_times(adapted)
    assert run.train(spec, out, resume=True) == out


def test_there_is_nothing_to_evaluate(adapted, spec):
    with pytest.raises(InputError, match=r"nothing to evaluate on; give one that does with --set data\.target\.path="):
        run.evaluate(spec, adapted)


def test_its_report_has_no_empty_scores(adapted, monkeypatch):
    monkeypatch.setattr(maps, "FEWEST", 10**9)
    text = write_report([adapted], adapted.parent / "report.html").read_text()
    page = Page(text)
    assert "so nothing was evaluated" in page.text["results"]
    assert "so nothing was evaluated" in page.text["scores"]
    assert "no query and gallery images" in page.text["run1-retrieval"]
    assert "mAP, last epoch" not in text
    assert "agreement of views" in page.text["guard"]
    assert "No pictures" not in text
    both = Page(write_report([adapted, adapted], adapted.parent / "both.html").read_text())
    assert "so nothing was evaluated" in both.text["scores"]


def test_a_sweep_shows_figures_that_need_no_labels(adapted, spec):
    records = [record_of(Run("pair", method, 0, spec, {}), RunFolder(adapted)) for method in ("abmt", "slr")]
    axes = {"name": "crops", "baseline": "abmt", "pairs": ["pair"], "methods": ["abmt", "slr"], "seeds": [0]}
    results = {"format": 1, **axes, "base": {}, "runs": records}
    text = markdown(results)
    last = metrics_without_times(adapted)[-1]
    assert f"| abmt | 1 | {last['clusters']:.1f} |" in text
    assert "agreement of views, %" in text
    assert "figures that need no labels" in text
    assert "No run is finished yet" not in text
    assert "No run has a score yet" in plot_of(results)


def test_what_needs_labels_is_refused_before_anything_trains(spec, crops, tmp_path):
    with pytest.raises(InputError, match=r"training\.labels: identities needs those of the target"):
        run.train(changed(spec, training={"labels": "identities"}), tmp_path / "run")
    backwards = changed(spec, data={"source": {"path": str(crops), "synth": None}})
    with pytest.raises(InputError, match=r"data\.source: .* tells no identity of its images; give a labelled source"):
        run.train(backwards, tmp_path / "other")
    assert not (tmp_path / "run/pretrain.jsonl").exists()
    assert not (tmp_path / "other/pretrain.jsonl").exists()


def test_data_check_says_what_such_data_serve_for(crops, spec, tmp_path, capsys):
    assert main(["data", "check", str(crops)]) == 0
    out = capsys.readouterr().out
    assert "serves as a target and not as a source" in out
    assert "there is nothing to evaluate on" in out
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    assert main(["data", "check", str(tmp_path / "spec.yaml")]) == 0
    assert capsys.readouterr().out.count("nothing to evaluate on") == 1


def test_any_images_with_their_cameras_are_adapted_to(spec, crops, tmp_path):
    for number, photo in enumerate(sorted((crops / "bounding_box_train").iterdir())):
        place = tmp_path / "photos" / f"site {number % 3}" / photo.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(photo.read_bytes())
    target = {"path": str(tmp_path / "photos"), "layout": "images", "camera_level": 1}
    out = run.train(changed(spec, data={"target": target}, training={"epochs": 1}), tmp_path / "run")
    assert set(pd.read_parquet(out / "labels/epoch-001.parquet")["camera"]) == {1, 2, 3}
