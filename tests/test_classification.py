"""Runs whose task is classification: scores against plain references, every command, resume, and what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.linear_model import RidgeClassifier

from rapids_slr import run
from rapids_slr.cli import main
from rapids_slr.data.read import read_domain
from rapids_slr.data.store import load_images
from rapids_slr.errors import InputError
from rapids_slr.networks.checkpoint import load_trained
from rapids_slr.networks.embed import embed
from rapids_slr.reports import maps, write_report
from rapids_slr.session import Session
from rapids_slr.settings.spec import DomainSpec, FeatureSpec, RunSpec
from rapids_slr.settings.specfile import dump_spec
from rapids_slr.sweep.table import headline_of, rows_of
from tests.conftest import TINY
from tests.data.handmade import make_files
from tests.reference.classes import dealt_out, matched, nearest_class
from tests.reports.conftest import Page
from tests.test_run import assert_same_run, changed, metrics_without_times

COLOURS = {"blue": (40, 60, 220), "green": (30, 190, 60), "red": (210, 40, 40), "white": (230, 230, 230)}
SCORES = {"knn", "linear", "source_classifier"}


def write_classes(folder: Path, light: float, names=tuple(COLOURS), splits=("train", "test"), seed: int = 0) -> Path:
    """Noisy squares of a colour a class, in the light of a domain."""
    rng = np.random.default_rng(seed)
    for split in splits:
        for name in names:
            (folder / split / name).mkdir(parents=True)
            for number in range(8 if split == "train" else 4):
                pixels = light * np.array(COLOURS[name]) + rng.normal(0, 25, (32, 16, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """source/ has blue, green, red, white; target/ the first three, and owl, which the source lacks."""
    folder = tmp_path_factory.mktemp("classes")
    write_classes(folder / "source", 1.0)
    write_classes(folder / "target", 0.6, ("blue", "green", "red"), seed=1)
    for split in ("train", "test"):
        shutil.copytree(folder / "source" / split / "white", folder / "target" / split / "owl")
    return folder


@pytest.fixture(scope="module")
def spec(data) -> RunSpec:
    return changed(
        RunSpec.model_validate(TINY),
        task="classification",
        data={"source": {"path": str(data / "source")}, "target": {"path": str(data / "target")}},
        training={"epochs": 2, "source": {"identities": 3, "images": 2}},
    )


@pytest.fixture(scope="module")
def finished(spec, tmp_path_factory) -> Path:
    return run.train(spec, tmp_path_factory.mktemp("runs") / "finished")


def features_of(network, data, domain, split) -> tuple[np.ndarray, list[str]]:
    store, kept = load_images(domain, domain.split(split), data, torch.device("cpu"))
    names = [Path(name).parent.name for name in kept.names]
    return embed(network, store, data, FeatureSpec()).double().numpy(), names


def test_scores_equal_plain_loops_and_scikit_learn(finished, spec):
    """By the names of folders alone: neither numbers of classes nor splits of the package are looked at."""
    trained = load_trained(finished / "checkpoints/last.pt")
    source, target = (read_domain(one) for one in (spec.data.source, spec.data.target))
    train, classes = features_of(trained.network, trained.data, target, "train")
    test, right = features_of(trained.network, trained.data, target, "gallery")
    theirs, labels = features_of(trained.network, trained.data, source, "train")
    nearest = [nearest_class(train.tolist(), classes, row, 5) for row in test.tolist()]
    linear = RidgeClassifier().fit(train, classes).predict(test)
    asked = [i for i, name in enumerate(right) if name in labels]
    by_source = RidgeClassifier().fit(theirs, labels).predict(test[asked])
    expected = {
        "knn": np.mean([a == b for a, b in zip(nearest, right, strict=True)]),
        "linear": np.mean(linear == right),
        "source_classifier": np.mean(by_source == np.array(right)[asked]),
    }
    row = metrics_without_times(finished)[-1]
    assert {key: row[key] for key in SCORES} == pytest.approx(expected)
    assert len(asked) == 12  # owls are not among them
    table = pd.read_parquet(finished / "labels/epoch-002.parquet")
    own = [Path(path).parent.name for path in table["path"]]
    assert row["matched"] == pytest.approx(matched(table["refined"].tolist(), own))
    assert row["raw_matched"] == pytest.approx(matched(table["cluster"].tolist(), own))


def test_a_run_leaves_its_scores_and_picks_by_the_classifier_of_the_source(finished):
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("direct", "direct_bn"):
        assert summary[name].keys() == SCORES
    assert summary["last"].keys() == SCORES | {"matched", "ari", "nmi"}
    rows = metrics_without_times(finished)
    assert summary["best"]["source_classifier"] == max(row["source_classifier"] for row in rows)
    assert all(0 <= row[key] <= 1 for row in rows for key in SCORES | {"matched", "raw_matched", "guard/source"})
    assert summary["picked"]["by"] == "guard/source"
    assert rows[-1]["cluster_cameras"] == 1


def test_what_the_source_lacks_is_said_and_the_line_of_an_epoch_has_the_scores(spec, tmp_path, capsys):
    run.train(changed(spec, training={"epochs": 1}), tmp_path / "run")
    said = capsys.readouterr().err
    assert "the source lacks 1 class (owl) of the target: clustered like all others" in " ".join(said.split())
    assert "source classifier " in said
    assert "kNN " in said
    assert "cluster accuracy " in said


def test_a_stopped_run_goes_on_as_if_it_had_not_been(finished, spec, tmp_path, monkeypatch):
    stopped, record = tmp_path / "stopped", run.record

    def record_and_stop(session, now, epoch, made, seconds):
        record(session, now, epoch, made, seconds)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "record", record_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run.train(spec, stopped)
    assert len(metrics_without_times(stopped)) == 1
    run.train(spec, stopped, resume=True)
    assert_same_run(finished, stopped)


def test_every_command_runs(finished, spec, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(maps, "FEWEST", 10**9)
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    assert main(["evaluate", "--out", str(folder), "--checkpoint", str(folder / "checkpoints/last.pt")]) == 0
    scores = json.loads(capsys.readouterr().out)
    row = metrics_without_times(folder)[-1]
    assert scores == {key: row[key] for key in ("knn", "linear", "source_classifier")}
    assert main(["report", str(folder)]) == 0
    assert main(["data", "check", spec.data.target.path]) == 0
    assert "test " in capsys.readouterr().out
    for words in (["pretrain"], ["adapt"]):
        (tmp_path / "spec.yaml").write_text(dump_spec(spec))
        assert main([*words, str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "stages")]) == 0
    assert_same_run(finished, tmp_path / "stages")


@pytest.mark.parametrize("host", ["abmt", "cluster_contrast", "spcl", "mmt"])
@pytest.mark.parametrize("refine", ["slr", "none"])
def test_every_host_and_refiner_runs(spec, tmp_path, finished, host, refine):
    pretrain = {"epochs": 1} | ({"checkpoint": str(finished / "checkpoints/pretrained.pt")} if host == "abmt" else {})
    training = {"epochs": 1, "iterations": 2}
    out = run.train(changed(spec, host=host, refine=refine, training=training, pretrain=pretrain), tmp_path / "run")
    assert metrics_without_times(out)[-1].keys() >= SCORES | {"matched", "ari", "left_out"}


def test_without_a_source_neighbours_are_what_networks_are_compared_by(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "FEWEST", 10**9)
    out = run.train(
        changed(spec, data={"source": None}, pretrain=None, training={"epochs": 2, "source": None}), tmp_path / "run"
    )
    summary, rows = json.loads((out / "summary.json").read_text()), metrics_without_times(out)
    assert summary["direct"].keys() == {"knn", "linear"}
    assert summary["best"]["knn"] == max(row["knn"] for row in rows)
    assert "guard/source" not in rows[-1]
    page = Page(write_report([out]).read_text())
    assert "kNN" in page.text["results"]


def test_a_target_without_classes_is_scored_where_its_test_images_have_some(spec, data, tmp_path):
    """Its training images may be of any kind; a table says which test image is of which class."""
    folder = tmp_path / "set"
    shutil.copytree(data / "target", folder)
    rows = [f"{path.relative_to(folder)},{'' if 'train' in path.parts else path.parent.name},{path.parts[-3]}"
            for path in sorted(folder.rglob("*.png"))]  # fmt: skip
    (folder / "table.csv").write_text("path,identity,split\n" + "\n".join(rows) + "\n")
    target = {"path": str(folder), "layout": "table"}
    out = run.train(changed(spec, data={"target": target}, training={"epochs": 1}), tmp_path / "run")
    row = metrics_without_times(out)[-1]
    assert "source_classifier" in row
    assert row.keys().isdisjoint({"knn", "linear", "matched", "ari"})


def test_without_test_images_the_training_images_test_each_other(spec, data, tmp_path):
    flat = {"path": str(data / "target/train"), "layout": "classes"}
    out = run.train(changed(spec, data={"target": flat}, training={"epochs": 1}), tmp_path / "run")
    row, trained = metrics_without_times(out)[-1], load_trained(out / "checkpoints/last.pt")
    features, own = features_of(trained.network, trained.data, read_domain(DomainSpec(**flat)), "train")
    numbers = [sorted(set(own)).index(name) for name in own]
    fold = np.array(dealt_out(numbers, 5))
    found = np.array([None] * len(own), object)
    for one in range(5):
        learnt, asked = np.flatnonzero(fold != one), np.flatnonzero(fold == one)
        for i in asked:
            rows, classes = features[learnt].tolist(), [numbers[j] for j in learnt]
            found[i] = nearest_class(rows, classes, features[i].tolist(), 5)
    assert row["knn"] == pytest.approx(np.mean(found == np.array(numbers, object)))
    assert "source_classifier" in row


def test_test_images_of_other_classes_are_said(spec, data, tmp_path, capsys):
    folder = Path(shutil.copytree(data / "target", tmp_path / "set"))
    (folder / "test/owl").rename(folder / "test/bat")
    with Session(changed(spec, data={"target": {"path": str(folder)}}), tmp_path / "out") as session:
        task = spec.task.build()
        task.read(session.images)
        test = task.test(session.images)
        assert (test.own.asked.class_n < 0).sum() == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "1 class (bat) of the test images have no training images and are left out of kNN and linear" in said


def test_domains_without_a_class_in_common_are_no_closed_set(spec, data, tmp_path, capsys):
    folder = tmp_path / "set"
    for path in (data / "target").rglob("*.png"):
        new = folder / path.parts[-3] / f"other {path.parts[-2]}" / path.name
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, new)
    with Session(changed(spec, data={"target": {"path": str(folder)}}), tmp_path / "out") as session:
        task = spec.task.build()
        task.read(session.images)
        assert task.test(session.images).by_source is None
    said = " ".join(capsys.readouterr().err.split())
    assert "source and target have no class in common by its name" in said


def test_a_query_without_an_answer_is_an_image_like_others(tmp_path):
    names = [f"{place}/{name}.png" for place in ("bounding_box_train", "query", "bounding_box_test") for name in
             ("0001_c1s1_000001_00", "0002_c1s1_000001_00")]  # fmt: skip
    one = DomainSpec(path=str(make_files(tmp_path / "set", names)))
    assert len(read_domain(one, asks=False).query) == 2
    with pytest.raises(InputError, match="query without a match"):
        read_domain(one)


@pytest.mark.parametrize("task", ["classification", "reid"])
def test_one_class_alone_tells_nothing_of_a_network(spec, data, tmp_path, task):
    table = "path,identity\n" + "".join(f"{n}.png,owl\n" for n in range(8))
    shutil.copytree(data / "target/train/owl", tmp_path / "set")
    (tmp_path / "set/table.csv").write_text(table)
    sections = {"data": {"source": None, "target": {"path": str(tmp_path / "set"), "layout": "table"}}}
    alone = changed(spec, task=task, **sections, pretrain=None, training={"epochs": 1, "source": None})
    with Session(alone, tmp_path / "out") as session:
        assert alone.task.build().test_images(session.images) == 0
    assert "two or more known classes" in run.nothing_to_evaluate(spec)


def test_a_cluster_of_a_tenth_is_no_collapse_where_there_are_few_classes(spec, tmp_path, capsys):
    labels = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    for task, warned in (("classification", 0), ("reid", 1)):
        with Session(changed(spec, task=task, training={"identities": 3}), tmp_path / task) as session:
            run.warn_of_collapse(session, 1, labels, labels)
        assert capsys.readouterr().err.count("one of 3 clusters holds 4 of 12 images") == warned


def test_classes_have_no_gallery_to_rank_again(spec, tmp_path):
    with pytest.raises(InputError, match=r"evaluation\.rerank is for task: reid"):
        run.train(changed(spec, evaluation={"rerank": True}), tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_sweep_compares_by_the_score_that_its_runs_have():
    def record(method, seed, scores):
        return {"pair": "p", "method": method, "seed": seed, "state": "done", "scores": scores, "epochs": []}

    scores = {"direct": {"knn": 0.4, "linear": 0.5}, "last": {"knn": 0.6, "linear": 0.7, "matched": 0.3}}
    results = {"name": "s", "base": {"task": "classification"}, "pairs": ["p"], "methods": ["a", "b"], "baseline": "a"}
    results["runs"] = [record(method, 0, scores) for method in "ab"]
    assert headline_of(results).key == "knn"
    direct, first, second = rows_of(results, "p")
    assert (direct["method"], direct["kNN"], direct["cluster accuracy"]) == ("direct", "40.0", "–")
    assert first["cluster accuracy"] == "30.0"
    assert second["kNN − a"].startswith("+0.00")
    assert not any("source classifier" in key for key in first)
    results["runs"][0]["scores"]["last"]["source_classifier"] = 0.5
    assert headline_of(results).key == "source_classifier"
