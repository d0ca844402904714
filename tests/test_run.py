"""The whole run: what it leaves, how it repeats, and how it goes on after being stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rapids_slr import SLR, JaccardDBSCAN, run
from rapids_slr.cli import main
from rapids_slr.data import read
from rapids_slr.data.drawn.synth import synth_domain, write_domain
from rapids_slr.data.store import load_images
from rapids_slr.errors import InputError, RunError
from rapids_slr.evaluation import reranking, retrieval_scores
from rapids_slr.files import write_text
from rapids_slr.networks.checkpoint import load_trained
from rapids_slr.networks.embed import embed
from rapids_slr.record.folder import RunFolder
from rapids_slr.reports.gather import gather_run
from rapids_slr.session import Session
from rapids_slr.settings.spec import FeatureSpec, RunSpec
from rapids_slr.settings.specfile import dump_spec, load_spec
from rapids_slr.state import check_images

SCORES = {"mAP", "rank1", "rank5", "rank10"}


def changed(spec: RunSpec, **sections) -> RunSpec:
    """The spec with some keys of its sections changed, checked again."""
    values = spec.model_dump()
    for name, keys in sections.items():
        values[name] = {**values[name], **keys} if isinstance(keys, dict) else keys
    return RunSpec.model_validate(values)


def metrics_without_times(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds/")} for row in rows]


def stopped(start: Callable[..., Path], spec: RunSpec, out: Path, checkpoints: int) -> None:
    """Start a run that Ctrl-C stops after an epoch's metrics and before its checkpoint, of which it writes so many."""
    save, calls = RunFolder.save_checkpoint, []

    def stop_after(folder, state):
        if len(calls) == checkpoints:
            raise KeyboardInterrupt
        calls.append(1)
        save(folder, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", stop_after)
        with pytest.raises(KeyboardInterrupt):
            start(spec, out)


def assert_same_run(one: Path, other: Path) -> None:
    assert metrics_without_times(one) == metrics_without_times(other)
    assert metrics_without_times(one, "pretrain.jsonl") == metrics_without_times(other, "pretrain.jsonl")
    first, second = (torch.load(folder / "checkpoints/last.pt", weights_only=True) for folder in (one, other))
    for network in ("student", "teacher"):
        assert first[network].keys() == second[network].keys()
        for name, weights in first[network].items():
            assert torch.equal(weights, second[network][name]), f"{network} {name}"
    for table in sorted((one / "labels").iterdir()):
        pd.testing.assert_frame_equal(pd.read_parquet(table), pd.read_parquet(other / "labels" / table.name))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """One uninterrupted run of the tiny spec, shared by the tests that only look at it."""
    from tests.conftest import TINY

    return run.train(RunSpec.model_validate(TINY), tmp_path_factory.mktemp("runs") / "finished")


def test_a_run_leaves_what_the_readme_promises(finished, tiny):
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("direct", "direct_bn", "last", "best"):
        assert summary[name].keys() >= SCORES
        assert all(0 <= summary[name][score] <= 1 for score in SCORES)
    assert summary.keys() >= {"seconds", "device", "refine", "seed", "versions"}
    stages = summary["stage_seconds"]
    assert stages.keys() == {
        "features",
        "clusters",
        "refinement",
        "targets",
        "training",
        "evaluation",
        "guard",
        "epoch",
    }
    assert sum(stages.values()) - stages["epoch"] <= stages["epoch"] <= summary["seconds"] + 1e-3
    rows = metrics_without_times(finished)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1].keys() >= SCORES | {"clusters", "refined_clusters", "outliers", "rescued", "ari", "raw_ari"}
    assert rows[-1].keys() >= {
        "nmi",
        "raw_nmi",
        "ari_labelled",
        "raw_nmi_labelled",
        "ari_prev",
        "raw_ari_prev",
        "loss/ce",
    }
    assert rows[-1].keys() >= {"false_pairs", "missed_repeated", "raw_false_repeated", "raw_missed_pairs"}
    assert summary["last"]["mAP"] == rows[-1]["mAP"]
    assert summary["best"]["mAP"] == max(row["mAP"] for row in rows)
    table = pd.read_parquet(finished / "labels" / "epoch-002.parquet")
    assert list(table) == ["sample", "path", "camera", "previous", "cluster", "refined", "confidence"]
    assert len(table) == 6 * 8
    for stage in ("pretrain", "adapt"):
        assert list((finished / "tensorboard" / stage).glob("events*"))


def test_the_label_table_carries_last_epochs_clusters(finished):
    first, second = (pd.read_parquet(finished / "labels" / f"epoch-00{epoch}.parquet") for epoch in (1, 2))
    assert (first["previous"] == -1).all()
    assert (second["previous"] == first["cluster"]).all()


def test_a_checkpoint_alone_gives_the_network_that_was_evaluated(finished, tmp_path, tiny):
    summary = json.loads((finished / "summary.json").read_text())
    for name, scores in (("last", summary["last"]), ("pretrained", summary["direct"])):
        alone = shutil.copy(finished / "checkpoints" / f"{name}.pt", tmp_path)
        trained = load_trained(Path(alone))
        domain = synth_domain(tiny.data.target.synth)
        splits = domain.query, domain.gallery
        stores = [load_images(domain, split, trained.data, torch.device("cpu"))[0] for split in splits]
        rows = [embed(trained.network, store, trained.data, FeatureSpec()) for store in stores]
        labels = [torch.from_numpy(x) for split in splits for x in (split.identities, split.cameras)]
        found = retrieval_scores(*rows, *labels)
        assert {score: found[score] for score in SCORES} == scores


def test_the_resolved_spec_repeats_the_run(finished, tmp_path):
    again = run.train(load_spec(finished / "spec.yaml"), tmp_path / "again")
    assert_same_run(finished, again)


@pytest.mark.parametrize(
    ("refine", "training"),
    [
        ("none", {}),
        ({"hard": "argmax"}, {}),
        ({"hard": "dbscan"}, {}),
        ({"hard": "hdbscan"}, {}),
        ({"hard": "hdbscan", "memory": "refined", "outliers": "drop", "noise": "argmax"}, {}),
        ({}, {"labels": "shuffled"}),
        ({}, {"labels": "identities"}),
        ({}, {"teacher_ce": True, "weights": "confidence"}),
    ],
    ids=str,
)
def test_every_way_to_refine_and_train_runs(tiny, tmp_path, refine, training, finished):
    spec = changed(
        tiny,
        refine=refine if refine == "none" else {**refine, "min_cluster_size": 3},
        training={**training, "epochs": 2, "iterations": 2},
        pretrain={"checkpoint": str(finished / "checkpoints/pretrained.pt")},
    )
    rows = metrics_without_times(run.train(spec, tmp_path / "run"))
    assert len(rows) == 2
    assert rows[-1].keys() >= SCORES


def test_options_around_the_loop_run(tiny, tmp_path, finished):
    spec = changed(
        tiny,
        features={"views": 2, "bn_recalibrate": True, "batch": 7},
        clusters={"source_weight": 0.1, "min_size": 2},
        training={"epochs": 2, "iterations": 2},
        evaluation={"every": 2},
        pretrain={"checkpoint": str(finished / "checkpoints/pretrained.pt")},
    )
    rows = metrics_without_times(run.train(spec, tmp_path / "run"))
    assert "mAP" not in rows[0]
    assert "mAP" in rows[1]


def test_further_clusterings_are_projected(tiny, tmp_path, finished, monkeypatch):
    """Each by its own radius and branch; SLR is given them every epoch."""
    given: list[list[torch.Tensor]] = []
    update = SLR.update
    monkeypatch.setattr(SLR, "update", lambda self, *labels: given.append(labels) or update(self, *labels))
    embedded: list[torch.Tensor] = []
    cluster = run.cluster
    monkeypatch.setattr(run, "cluster", lambda now, n, x, *rest: embedded.append(x) or cluster(now, n, x, *rest))
    spec = changed(
        tiny,
        clusters={
            "cameras": "ignore",
            "also": [{"pairs_per_image": 5}, {"branch": "maximum"}, {"branch": "average", "eps": 0.6}],
        },
        training={"epochs": 2, "iterations": 2},
        pretrain={"checkpoint": str(finished / "checkpoints/pretrained.pt")},
    )
    run.train(spec, tmp_path / "run")
    assert len(given) == 2
    for (clusters_N, others), x_ND in zip(given, embedded, strict=True):
        half = x_ND.shape[1] // 2
        average, maximum = (torch.nn.functional.normalize(part, dim=1) for part in (x_ND[:, :half], x_ND[:, half:]))
        expected = [(x_ND, {"pairs_per_image": 3}), (x_ND, {"pairs_per_image": 5}), (maximum, {"pairs_per_image": 3})]
        expected += [(average, {"eps": 0.6})]
        for labels_N, (features, radius) in zip([clusters_N, *others], expected, strict=True):
            assert torch.equal(labels_N, JaccardDBSCAN(k1=6, k2=3, **radius).fit_predict(features))


def test_hdbscan_on_features_runs(tiny, tmp_path, finished):
    spec = changed(
        tiny,
        clusters={"method": "hdbscan", "min_cluster_size": 3},
        training={"epochs": 1, "iterations": 2},
        pretrain={"checkpoint": str(finished / "checkpoints/pretrained.pt")},
    )
    assert len(metrics_without_times(run.train(spec, tmp_path / "run"))) == 1


# Being stopped --------------------------------------------------------------------------------------------------------


STANDS_STILL = """
import os, signal, sys
from rapids_slr.cli import main
from rapids_slr.record.folder import RunFolder

name, append = sys.argv[1], RunFolder.append

def append_and_stop(folder, path, row):
    append(folder, path, row)
    if path.name == name:
        os.kill(os.getpid(), signal.SIGSTOP)

RunFolder.append = append_and_stop
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, as tests may be, starts without
sys.exit(main(sys.argv[2:]))
"""
"""The command line, which stands still once it has written a line to a file of the run."""


def stopped_by(sent: signal.Signals, spec: RunSpec, folder: Path, after_a_line_of: str) -> tuple[int, str]:
    """Train in a process of its own and send it a signal after a line of a file of the run: exit code and stderr."""
    spec_file = folder / "spec.yaml"
    spec_file.write_text(dump_spec(spec))
    command = [
        sys.executable,
        "-c",
        STANDS_STILL,
        after_a_line_of,
        "train",
        str(spec_file),
        "--out",
        str(folder / "run"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "the run ended before it could be stopped"
    process.send_signal(sent)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=120)
    assert not (folder / "run" / "summary.json").exists()
    return process.returncode, said


@pytest.mark.parametrize("killed_in", ["pretrain.jsonl", "metrics.jsonl"])
def test_a_killed_run_resumes_bit_for_bit(finished, tiny, tmp_path, killed_in):
    code, _ = stopped_by(signal.SIGKILL, tiny, tmp_path, killed_in)
    assert code == -signal.SIGKILL
    run.train(tiny, tmp_path / "run", resume=True)
    assert_same_run(finished, tmp_path / "run")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_how_to_go_on(finished, tiny, tmp_path, sent):
    code, said = stopped_by(sent, tiny, tmp_path, "metrics.jsonl")
    assert code == 130
    assert f"Go on with: rapids-slr train --resume --out {tmp_path / 'run'}" in said
    assert "Traceback" not in said
    run.train(tiny, tmp_path / "run", resume=True)
    assert_same_run(finished, tmp_path / "run")


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_stop_between_metrics_and_checkpoint_repeats_the_epoch(finished, tiny, tmp_path, written):
    stopped(run.train, tiny, tmp_path / "run", written)
    run.train(tiny, tmp_path / "run", resume=True)
    assert_same_run(finished, tmp_path / "run")


def test_a_truncated_checkpoint_falls_back_to_the_one_before(finished, tiny, tmp_path, monkeypatch, caplog):
    def stop(*_):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run, "summarise", stop)
        with pytest.raises(KeyboardInterrupt):
            run.train(tiny, out)
    last = out / "checkpoints/last.pt"
    os.truncate(last, last.stat().st_size // 2)
    run.train(tiny, out, resume=True)
    assert "last.pt is damaged" in caplog.text
    assert_same_run(finished, out)


def test_tensorboard_shows_an_epoch_once_after_a_resume(tiny, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_labels", stop)  # the first epoch is logged, but has no checkpoint
        with pytest.raises(KeyboardInterrupt):
            run.train(tiny, tmp_path / "run")
    run.train(tiny, tmp_path / "run", resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "adapt")).Reload()
    assert [event.step for event in events.Scalars("mAP")] == [1, 2, 3]


def test_resuming_a_finished_run_changes_nothing(finished):
    before = {path: path.read_bytes() for path in finished.rglob("*.pt")}
    run.train(load_spec(finished / "spec.yaml"), finished, resume=True)
    assert before == {path: path.read_bytes() for path in finished.rglob("*.pt")}


def test_a_run_is_never_overwritten(finished, tiny):
    with pytest.raises(InputError, match="already holds a run; go on with --resume"):
        run.train(tiny, finished)


def test_resuming_with_another_spec_names_the_keys(finished, tiny):
    with pytest.raises(InputError, match=r"clusters\.k1.*differ"):
        run.train(changed(tiny, clusters={"k1": 5}), finished, resume=True)


def test_resuming_with_other_images_names_them(finished, tiny, tmp_path, monkeypatch):
    """A run whose images have changed since its checkpoint, and one of a version that did not write them down."""
    spec = changed(tiny, training={"epochs": 4})
    shutil.copytree(finished, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    write_text(folder.spec_file, dump_spec(spec))
    state, scan = folder.load_checkpoint(), read.scan_domain
    assert state["names"] == list(pd.read_parquet(finished / "labels/epoch-003.parquet")["path"])

    def without_the_first(*args):
        domain = scan(*args)
        return replace(domain, train=domain.train.take(slice(1, None)))

    with monkeypatch.context() as patch:
        patch.setattr(read, "scan_domain", without_the_first)
        first = re.escape(state["names"][0])
        message = rf"target images are not those of the checkpoint: 1 is gone \({first}\); put them back"
        with pytest.raises(InputError, match=message):
            run.train(spec, folder.path, resume=True)
        del state["names"]
        folder.save_checkpoint(state)
        with pytest.raises(InputError, match="not those of the checkpoint: 47, and it knows 48; put them back"):
            run.train(spec, folder.path, resume=True)
    run.train(spec, folder.path, resume=True)
    assert len(folder.rows(folder.metrics_file)) == 4


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (["a", "c", "b"], r"they stand in another order, from image 1 on \(c for b\)"),
        (["a", "x", "y", "z", "w"], r"2 are gone \(b, c\) and 4 are new \(w, x, y, \.\.\.\)"),
        (["a", "b", "c", "c"], "they stand in another order, from image 0 on"),
    ],
)
def test_changes_of_images_are_told(now, message):
    with pytest.raises(InputError, match=f"the source images are not those of the checkpoint: {message}"):
        check_images({"names": ["a", "b", "c"]}, now, "source")
    check_images({"names": now}, now, "source")
    check_images({}, now, "source")


def test_resuming_nothing_starts(tiny, tmp_path):
    """So that one line serves whoever starts a run again and again; without a spec there is nothing to start."""
    folder = run.pretrain(tiny, tmp_path / "nothing", resume=True)
    assert (folder / "checkpoints" / "pretrained.pt").exists()
    assert main(["train", "--resume", "--out", str(tmp_path / "none")]) == 2


def test_a_full_disk_keeps_the_last_checkpoint(tiny, tmp_path, monkeypatch):
    real, calls = torch.save, []

    def full_after(state, path):
        calls.append(path)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        real(state, path)

    monkeypatch.setattr(torch, "save", full_after)
    spec = changed(tiny, evaluation={"guard": False, "pick": "last"})  # which writes a network of its own
    with pytest.raises(RunError, match="No space left on device"):
        run.train(spec, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.load_checkpoint()["epoch"] == 1
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_loss_that_is_not_finite_stops_before_the_weights(tiny, tmp_path, monkeypatch, finished):
    from rapids_slr.hosts import abmt

    real = abmt.adaptation_loss

    def poisoned(*arguments):
        total, terms = real(*arguments)
        return total * float("nan"), terms

    monkeypatch.setattr(abmt, "adaptation_loss", poisoned)
    spec = changed(tiny, pretrain={"checkpoint": str(finished / "checkpoints/pretrained.pt")})
    with pytest.raises(RunError, match=r"epoch 1: the loss is not finite \(.*ce .*\) on images \["):
        run.train(spec, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/pretrained.pt").exists()


# Networks and stages --------------------------------------------------------------------------------------------------


def test_the_stages_alone_give_the_same_run(finished, tiny, tmp_path):
    out = tmp_path / "stages"
    run.pretrain(tiny, out)
    assert not (out / "metrics.jsonl").exists()
    run.adapt(tiny, out)
    assert_same_run(finished, out)
    summary = json.loads((finished / "summary.json").read_text())
    assert run.evaluate(tiny, out)["mAP"] == summary[summary["result"]]["mAP"]


def test_scores_after_re_ranking_stand_beside_the_plain_ones(finished, tiny, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "again"))
    last = json.loads((finished / "summary.json").read_text())["last"]
    assert "reranked_mAP" not in last
    scores = run.evaluate(changed(tiny, evaluation={"rerank": True}), out)
    assert {key: score for key, score in scores.items() if "reranked" not in key} == pytest.approx(last)
    assert 0 < scores["reranked_mAP"] <= 1
    assert 0 <= scores["reranked_rank1"] <= 1


def test_a_run_that_re_ranks_has_columns_for_it_and_the_same_network(finished, tiny, tmp_path):
    out = run.train(changed(tiny, evaluation={"rerank": True}, training={"epochs": 1}), tmp_path / "reranks")
    row, plain = metrics_without_times(out)[0], metrics_without_times(finished)[0]
    assert row.keys() - plain.keys() == {"reranked_mAP", "reranked_rank1"}
    assert row["loss/ce"] == plain["loss/ce"]
    asked, not_asked = ({column.key for column in gather_run(folder).scores} for folder in (out, finished))
    assert asked - not_asked == {"reranked_mAP", "reranked_rank1"}


def test_too_few_test_images_to_re_rank_stop_a_run_before_it_trains(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(reranking.check_enough, "__defaults__", (500, 6))
    with pytest.raises(InputError, match="k1=500 and k2=6 need 501 together"):
        run.train(changed(tiny, evaluation={"rerank": True}), tmp_path / "few")
    assert not (tmp_path / "few" / "pretrain.jsonl").exists()


def test_adapting_without_a_network_says_what_to_do(tiny, tmp_path):
    with pytest.raises(InputError, match="run `rapids-slr pretrain` into it first"):
        run.adapt(tiny, tmp_path / "run")


def test_a_network_of_another_architecture_is_refused(tiny, tmp_path, finished):
    spec = changed(
        tiny,
        model={"widths": [4, 4, 4]},
        pretrain={"checkpoint": str(finished / "checkpoints/pretrained.pt")},
    )
    with pytest.raises(InputError, match=r"was trained with widths \[4, 8, 8\] \(the spec says \[4, 4, 4\]\)"):
        run.train(spec, tmp_path / "run")


def test_a_hostile_checkpoint_runs_nothing(tiny, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'exploded'}",))

    torch.save({"network": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(InputError, match="damaged or not a checkpoint"):
        run.train(changed(tiny, pretrain={"checkpoint": str(tmp_path / "bomb.pt")}), tmp_path / "run")
    assert not (tmp_path / "exploded").exists()


def test_one_cluster_is_said_and_trained_on(tiny, tmp_path, finished, capsys):
    spec = changed(
        tiny,
        clusters={"eps": 1.0, "pairs_per_image": None},
        training={"epochs": 2, "iterations": 2},
        pretrain={"checkpoint": str(finished / "checkpoints/pretrained.pt")},
    )
    rows = metrics_without_times(run.train(spec, tmp_path / "run"))
    assert [(row["clusters"], row["refined_clusters"], row["outliers"]) for row in rows] == [(1, 1, 0)] * 2
    said = capsys.readouterr().err
    assert "epoch 1: one of 1 clusters holds 48 of 48 images" in said
    assert "epoch 1: 1 clusters for batches of 4" in said


@pytest.mark.parametrize(("looked_at", "where"), [(True, "before adaptation"), (False, "epoch 1")])
def test_features_that_are_not_finite_name_the_epoch(tiny, tmp_path, finished, monkeypatch, looked_at, where):
    nothing = lambda self, network, images, epoch=None: torch.full((len(images.store), 16), torch.nan)  # noqa: E731
    monkeypatch.setattr(Session, "embed", nothing)
    monkeypatch.setattr(run, "starting_points", lambda *_: {})
    checkpoint = str(finished / "checkpoints/pretrained.pt")
    evaluation = {"guard": looked_at, "pick": "last"}
    spec = changed(tiny, pretrain={"checkpoint": checkpoint}, training={"source": None}, evaluation=evaluation)
    with pytest.raises(RunError, match=f"{where}: features: .*48"):
        run.train(spec, tmp_path / "run")


@pytest.mark.parametrize(
    ("triplet", "idle"),
    [
        ([0.90, 0.698, 0.680, 0.685], True),  # the first epoch may be anything
        ([0.71, 0.682, 0.663, 0.542], False),
        ([0.693, 0.693, 0.75, 0.693], False),
        ([0.693, 0.693, 0.693], False),  # too few to tell
    ],
)
def test_a_loss_that_teaches_nothing_is_named(tiny, tmp_path, capsys, triplet, idle):
    rows = [{"epoch": 1 + i, "loss/triplet": x, "loss/ce": 0.693, "mAP": 0.693} for i, x in enumerate(triplet)]
    run.warn_of_idle_losses(Session(tiny, tmp_path), rows)
    said = capsys.readouterr().err
    assert ("the loss term triplet was 0.680 to 0.698 from epoch 2 on; it is 0.693" in said) == idle
    assert bool(said) == idle


# Bad data stops a run before it trains --------------------------------------------------------------------------------


@pytest.fixture
def with_a_broken_image(tiny, tmp_path) -> RunSpec:
    """The tiny spec with its target in a folder, where one training image is cut off."""
    folder = tmp_path / "target"
    write_domain(synth_domain(tiny.data.target.synth), folder)
    broken = sorted((folder / "bounding_box_train").iterdir())[5]
    os.truncate(broken, broken.stat().st_size // 2)
    return changed(tiny, data={"target": {"path": str(folder)}})


def test_a_truncated_image_stops_the_run_before_it_trains(with_a_broken_image, tmp_path):
    with pytest.raises(InputError, match=r"(?s)unreadable images.*bounding_box_train/"):
        run.train(with_a_broken_image, tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain.jsonl").exists()
    run.pretrain(changed(with_a_broken_image, data={"on_error": "skip"}), tmp_path / "run")  # the folder may be reused


def test_a_truncated_image_is_left_out_and_counted_where_asked(with_a_broken_image, tmp_path, capsys):
    spec = changed(with_a_broken_image, data={"on_error": "skip"}, training={"epochs": 1})
    out = run.train(spec, tmp_path / "run")
    assert "target train: 1 of 48 images could not be read; left out" in capsys.readouterr().err
    assert len(pd.read_parquet(out / "labels/epoch-001.parquet")) == 47


def test_names_in_no_encoding_go_from_check_to_report(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "target"
    write_domain(synth_domain(tiny.data.target.synth), folder)
    for file in (folder / "bounding_box_train").iterdir():
        os.rename(file, os.path.join(file.parent, f"{file.stem}_\udce9\n{file.suffix}"))
    assert main(["data", "check", str(folder)]) == 0
    once = {"epochs": 1, "iterations": 1}
    spec = changed(tiny, data={"target": {"path": str(folder)}}, training=once, pretrain={**once, "milestones": []})
    write_text(tmp_path / "spec.yaml", dump_spec(spec))
    assert main(["train", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert all("_%E9\n." in name for name in pd.read_parquet(tmp_path / "run/labels/epoch-001.parquet")["path"])
    assert "without pictures" not in capsys.readouterr().err
    assert "data:image/" in (tmp_path / "run/report.html").read_text()


def test_fewer_images_than_neighbours_stop_the_run_before_it_trains(tiny, tmp_path):
    with pytest.raises(InputError, match=r"48 training images, but clusters\.k1 48 needs more"):
        run.train(changed(tiny, clusters={"k1": 48}), tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain.jsonl").exists()


def test_only_outliers_stop_the_run_with_the_epoch(tiny, tmp_path, finished):
    spec = changed(
        tiny,
        clusters={"eps": 1e-9, "pairs_per_image": None},
        pretrain={"checkpoint": str(finished / "checkpoints/pretrained.pt")},
    )
    with pytest.raises(RunError, match="epoch 1: every one of the 48 images is an outlier"):
        run.train(spec, tmp_path / "run")
