"""The command line: what it prints, where, and the code it ends with."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.sparse import load_npz

import rapids_slr
from rapids_slr import SLR, JaccardDBSCAN, run
from rapids_slr.cli import COMMANDS, GROUPS, cluster, main, refine
from rapids_slr.data.domain import make_split
from rapids_slr.errors import InputError, RunError
from rapids_slr.labelfiles import read_labels
from rapids_slr.record.folder import RunFolder
from rapids_slr.record.rows import label_table
from rapids_slr.settings.specfile import load_spec
from tests.clustering.cases import groups, unit

SPEC = "data: {source: {synth: {style: source}}, target: {synth: {style: target}}}\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RAPIDS_SLR_DEBUG", raising=False)
    (tmp_path / "good.yaml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """What the commands ask of run.py, which does nothing here."""
    asked: list[tuple] = []
    for name in ("train", "pretrain", "adapt", "evaluate"):

        def record(spec, out=None, resume=None, name=name):
            asked.append((name, spec, out, resume))
            return {"mAP": 0.5} if name == "evaluate" else Path("runs/here")

        monkeypatch.setattr(run, name, record)
    return asked


# Help ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, name):
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example: rapids-slr {name}" in text
    assert COMMANDS[name].example in text


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_help_that_leads_to_examples(capsys, group):
    assert main([group, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"rapids-slr {group} COMMAND --help" in text
    assert {name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")} <= set(text.split())


def test_examples_are_commands_that_parse(calls, capsys, here, monkeypatch):
    """Every example is taken; what it asks for need not be there."""
    monkeypatch.setattr("rapids_slr.data.drawn.synth.write_domain", lambda *_, **__: None)
    (here / "runs/a").mkdir(parents=True)
    (here / "runs/a/spec.yaml").write_text(SPEC)
    for command in COMMANDS.values():
        words = command.example.partition(">")[0].split()
        main(words[1:])
        assert "Usage:" not in capsys.readouterr().err, command.example


def test_help_is_there_without_a_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert {name.split()[0] for name in COMMANDS} <= set(text.split())
    assert main([]) == 2


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rapids-slr {rapids_slr.__version__}\n"


def test_help_does_not_wait_for_torch():
    script = "import sys; from rapids_slr.cli import main; main(['train', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "rapids_slr", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"rapids-slr {rapids_slr.__version__}\n")


# What the commands ask of the run ------------------------------------------------------------------------------------


def test_train_passes_spec_changes_device_and_folder(calls, capsys):
    words = ["train", "good.yaml", "--set", "clusters.k1=7", "--set", "refine=none", "--device", "cpu", "--out", "x"]
    assert main(words) == 0
    ((name, spec, out, resume),) = calls
    assert (name, out, resume) == ("train", Path("x"), False)
    assert (spec.clusters.k1, spec.refine.choice(), spec.device) == (7, "none", "cpu")
    assert capsys.readouterr().out == "runs/here\n"


@pytest.mark.parametrize("words", [["--out=~/x"], ["--out", "~/x"]])
def test_the_home_of_a_folder_is_found(calls, here, monkeypatch, words):
    monkeypatch.setenv("HOME", str(here / "home"))
    assert main(["train", "good.yaml", *words, "--set", "data.target.path=~/m"]) == 0
    ((_, spec, out, _),) = calls
    assert (out, spec.data.target.path) == (here / "home/x", f"{here}/home/m")


@pytest.mark.parametrize("command", ["train", "pretrain", "adapt"])
def test_resume_without_a_spec_takes_that_of_the_folder(calls, here, command):
    (here / "x").mkdir()
    (here / "x/spec.yaml").write_text(SPEC + "seed: 11\n")
    assert main([command, "--resume", "--out", "x", "--device", "cpu"]) == 0
    ((name, spec, out, resume),) = calls
    assert (name, spec.seed, spec.device, out, resume) == (command, 11, "cpu", Path("x"), True)


def test_adapt_and_evaluate_take_the_spec_of_the_folder(calls, here, capsys):
    (here / "x").mkdir()
    (here / "x/spec.yaml").write_text(SPEC + "seed: 11\n")
    assert main(["adapt", "--out", "x"]) == 0
    assert main(["evaluate", "--out", "x"]) == 0
    assert main(["evaluate", "good.yaml", "--out", "x"]) == 0
    assert [(name, spec.seed) for name, spec, *_ in calls] == [("adapt", 11), ("evaluate", 11), ("evaluate", 0)]
    assert capsys.readouterr().out.startswith("runs/here\n" + json.dumps({"mAP": 0.5}, indent=2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--resume"], "error: --resume needs the run folder to go on with: --out DIR\n"),
        (["train", "--resume", "--out", "gone"], "error: gone holds no run (no spec.yaml); name the folder"),
        (["evaluate"], "error: evaluate needs the run folder whose network it takes: --out DIR\n"),
        (["evaluate", "--out", "gone"], "error: gone holds no run (no spec.yaml)"),
        (["train", "gone.yaml"], "error: gone.yaml: no such spec file; embedded specs are "),
        (["train", "good.yaml", "--set", "seed"], "error: --set seed: expected key=value, such as clusters.k1=20\n"),
    ],
)
def test_bad_arguments_end_with_2_and_one_message(calls, capsys, words, message):
    assert main(words) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(message)
    assert not calls


@pytest.mark.parametrize(
    "words",
    [["trian"], ["train", "--devce", "cpu"], ["train", "--device", "gpu"], ["train", "a", "b"], ["data", "pack"]],
)
def test_usage_errors_end_with_2(calls, capsys, words):
    assert main(words) == 2
    assert "Usage:" in capsys.readouterr().err
    assert not calls


# Failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (InputError("images: 3 are unreadable"), 2, "error: images: 3 are unreadable\n"),
        (RunError("epoch 3: the loss is not finite"), 1, "error: epoch 3: the loss is not finite\n"),
        (OSError(28, "No space left on device", "runs/a"), 1, "error: [Errno 28] No space left on device: 'runs/a'\n"),
        (KeyError("k"), 1, "error:\nKeyError: 'k'\nThis was not foreseen; run again with --debug for the traceback\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_end_with_their_code_and_one_message(calls, monkeypatch, capsys, fault, code, message):
    def fail(*_):
        raise fault

    monkeypatch.setattr(run, "train", fail)
    assert main(["train", "good.yaml"]) == code
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", message)

    monkeypatch.setenv("RAPIDS_SLR_DEBUG", "1")
    assert main(["train", "good.yaml"]) == code
    if code != 130:
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--debug", "train", "good.yaml"], ["train", "good.yaml", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(calls, monkeypatch, capsys, words):
    def fail(*_):
        raise RunError("full")

    monkeypatch.setattr(run, "train", fail)
    assert main(words) == 1
    text = capsys.readouterr().err
    assert "in fail" in text
    assert text.endswith("error: full\n")


def test_a_warning_of_the_library_goes_to_stderr_once(calls, monkeypatch, capsys):
    import logging

    def warn(*_):
        logging.getLogger("rapids_slr.data.read").warning("%d faults", 3)
        return Path("x")

    monkeypatch.setattr(run, "train", warn)
    main(["train", "good.yaml", "--no-report"])
    capsys.readouterr()
    main(["train", "good.yaml", "--no-report"])
    assert capsys.readouterr().err == "warning: 3 faults\n"


# spec ----------------------------------------------------------------------------------------------------------------


def test_spec_check_names_all_faults_of_all_specs(capsys, here):
    (here / "bad.yaml").write_text(SPEC + "refine:\n  alhpa: 0.7\ntraining: {epochs: 0}\nk1: 20\n")
    assert main(["spec", "check", "good.yaml", "bad.yaml", "gone.yaml"]) == 2
    written = capsys.readouterr()
    assert written.out == "good.yaml: ok\n"
    lines = written.err.splitlines()
    assert lines[:4] == [
        "error:",
        "bad.yaml:3: refine.alhpa: unknown key; did you mean refine.alpha?",
        "bad.yaml:4: training.epochs: should be greater than or equal to 1, got 0",
        "bad.yaml:5: k1: unknown key; did you mean clusters.k1?",
    ]
    assert lines[4].startswith("gone.yaml: no such spec file")
    assert main(["spec", "check", "good.yaml"]) == 0


@pytest.mark.parametrize(
    ("hard", "unread"),
    [("none", ["min_cluster_size", "noise"]), ("argmax", ["min_cluster_size"]), ("dbscan", []), ("hdbscan", [])],
)
def test_spec_check_tells_what_is_set_and_not_read(capsys, here, hard, unread):
    changes = ["--set", "refine={min_cluster_size: 4, noise: argmax, alpha: 0.7}", "--set", f"refine.hard={hard}"]
    assert main(["spec", "check", "good.yaml", *changes]) == 0
    but = f", but refine.hard: {hard} does not read {', '.join(f'refine.{key}' for key in unread)}" if unread else ""
    assert capsys.readouterr().out == f"good.yaml: ok{but}\n"


def test_spec_show_prints_a_spec_that_loads_to_the_same(capsys, here):
    assert main(["spec", "show", "good.yaml", "--set", "refine=none"]) == 0
    (here / "shown.yaml").write_text(capsys.readouterr().out)
    assert load_spec("shown.yaml") == load_spec("good.yaml", ["refine=none"])


def test_spec_schema_prints_json(capsys):
    assert main(["spec", "schema"]) == 0
    assert "alpha" in json.loads(capsys.readouterr().out)["$defs"]["SLRSpec"]["properties"]


def test_a_closed_pipe_is_no_fault():
    command = f"{sys.executable} -m rapids_slr spec schema | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "{\n"
    assert done.stderr == ""


# data ----------------------------------------------------------------------------------------------------------------

SMALL = ["--identities", "3", "--images", "4", "--height", "32", "--width", "16"]


def test_drawn_data_can_be_checked_packed_and_trained_on(capsys, calls):
    assert main(["data", "synth", "drawn", *SMALL]) == 0
    written = capsys.readouterr()
    command = written.out.splitlines()[-1]
    assert command == "rapids-slr train --set data.source.path=drawn/source --set data.target.path=drawn/target"
    assert main(["data", "check", "drawn/target"]) == 0
    assert "12" in capsys.readouterr().out.split()  # 3 identities of 4 images
    assert main(["data", "pack", "drawn/target", "target.zip"]) == 0
    assert capsys.readouterr().out == "target.zip\n"
    assert main(["data", "check", "target.zip", "--no-decode"]) == 0
    assert main(["train", "good.yaml", *command.split()[2:]]) == 0
    assert calls[0][1].data.target.path == "drawn/target"


def test_data_check_lists_all_faults_and_ends_with_2(capsys, here):
    main(["data", "synth", "drawn", "--style", "target", *SMALL])
    first, second, *_ = sorted((here / "drawn/bounding_box_train").iterdir())
    first.write_bytes(first.read_bytes()[:40])
    second.rename(second.with_name("nobody.png"))
    capsys.readouterr()
    assert main(["data", "check", "drawn"]) == 2
    text = capsys.readouterr().err
    assert first.name in text
    assert "nobody.png" in text
    assert text.endswith("2 faults\n")


def test_data_check_of_a_spec_looks_at_both_domains(capsys):
    changes = ["--set", "data.source.synth={identities: 2, images: 4}", "--set", "data.target.path=gone"]
    assert main(["data", "check", "good.yaml", *changes]) == 2
    written = capsys.readouterr()
    assert "source" in written.out
    assert "target: " in written.err
    assert "gone" in written.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["synth", "x", "--images", "1", "--gap", "-1"], "--images: should be greater than or equal to 2, got 1"),
        (["synth", "."], "is not empty; name a new folder"),
        (["check", ".", "--layout", "mars"], "--layout: should be 'auto', 'market1501'"),
        (["check", ".", "--set", "seed=1"], "--set changes a spec, and none was given"),
        (["check", "gone"], "gone: no such folder, .zip or spec"),
        (["pack", "gone", "gone.zip"], "gone is not a folder"),
    ],
)
def test_data_commands_refuse_what_they_cannot_use(capsys, here, words, message):
    (here / "source").mkdir()
    (here / "source/a.txt").touch()
    assert main(["data", *words]) == 2
    assert message in capsys.readouterr().err


# refine and cluster --------------------------------------------------------------------------------------------------


@pytest.fixture
def epochs(here) -> list[np.ndarray]:
    """Features of 170 images in two epochs, as a.npy and b.npy."""
    rng = np.random.default_rng(0)
    first = groups(rng, 170, 14, noise=0.6)
    features = [first, unit(first + 0.08 * rng.normal(size=first.shape))]
    for name, features_ND in zip("ab", features, strict=True):
        np.save(f"{name}.npy", features_ND)
    return features


CLUSTER = {"k1": 10, "k2": 3, "pairs_per_image": 6.0, "min_samples": 3, "min_size": 4}
CLUSTER_WORDS = [word for name, value in CLUSTER.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("name", ["labels.npy", "labels.csv", "labels.parquet"])
def test_cluster_writes_the_labels_of_the_estimator(epochs, capsys, name):
    assert main(["cluster", "a.npy", "-o", name, *CLUSTER_WORDS]) == 0
    expected = JaccardDBSCAN(**CLUSTER).fit(epochs[0])
    assert read_labels(Path(name)).labels_N.tolist() == expected.labels_.tolist()
    words = capsys.readouterr().out.split()
    clusters, outliers = int(expected.labels_.max()) + 1, int((expected.labels_ < 0).sum())
    largest = np.bincount(expected.labels_[expected.labels_ >= 0]).max()
    told = [170, 24, f"{expected.eps_:.4g}", clusters, outliers, largest]
    assert [word for word in words if word[0].isdigit()][:-1] == [str(value) for value in told]


@pytest.mark.parametrize("radius", [("rho", 0.05), ("eps", 0.4)])
def test_cluster_takes_other_rules_for_the_radius(epochs, radius):
    name, value = radius
    assert main(["cluster", "a.npy", "-o", "labels.npy", f"--{name}", str(value)]) == 0
    assert np.load("labels.npy").tolist() == JaccardDBSCAN(**{name: value}).fit_predict(epochs[0]).tolist()


def test_cluster_normalises_when_asked_to(epochs, capsys):
    np.save("long.npy", 3 * epochs[0])
    assert main(["cluster", "long.npy", "-o", "labels.npy"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: long.npy: expected rows of unit length, got lengths 3..3 in 170 of 170 rows: 0, 1")
    assert not Path("labels.npy").exists()
    assert main(["cluster", "long.npy", "-o", "labels.npy", "--normalise"]) == 0
    assert main(["cluster", "a.npy", "-o", "expected.npy"]) == 0
    assert np.load("labels.npy").tolist() == np.load("expected.npy").tolist()


def test_cluster_says_how_many_images_are_copies(epochs, capsys):
    features = np.load("a.npy")
    np.save("copied.npy", np.concatenate([features, np.repeat(features[:3], 40, axis=0)]))
    assert main(["cluster", "copied.npy", "-o", "labels.npy"]) == 0
    told = capsys.readouterr()
    assert "copies" in told.out
    assert " 120 " in told.out
    assert "collapsed" not in told.err


def test_cluster_says_that_features_have_collapsed(epochs, capsys):
    np.save("collapsed.npy", np.repeat(np.load("a.npy")[:1], 12_000, axis=0))
    assert main(["cluster", "collapsed.npy", "-o", "labels.npy"]) == 0
    told = capsys.readouterr()
    (line,) = told.err.strip().splitlines()
    assert "of 12000 images no more than 1 are distinct" in line
    assert "they have collapsed" in line
    assert np.load("labels.npy").tolist() == [0] * 12_000


def test_cluster_warns_of_labels_that_look_wrong(epochs, capsys):
    assert main(["cluster", "a.npy", "-o", "labels.npy", "--eps", "0.999"]) == 0
    assert "of 170 images; if that is too many, lower --pairs-per-image" in capsys.readouterr().err
    assert main(["cluster", "a.npy", "-o", "labels.npy", "--eps", "1e-6"]) == 0
    assert "every image is an outlier; raise --pairs-per-image" in capsys.readouterr().err


def test_refine_repeats_what_a_run_wrote(epochs, capsys):
    """The label tables of a run, as they are, give its refined labels and confidence again."""
    slr, clusterer, previous_N = SLR(min_cluster_size=4), JaccardDBSCAN(**CLUSTER), None
    split = make_split([(f"{image:04d}.jpg", 1, 1) for image in range(170)])
    for epoch, features_ND in enumerate(epochs, 1):
        labels_N = torch.from_numpy(clusterer.fit_predict(features_ND))
        refined = slr.update(labels_N)
        table = label_table(split, previous_N, labels_N, refined.hard, refined)
        RunFolder(Path()).write_labels(epoch, table)
        previous_N = labels_N
    words = ["refine", "labels/epoch-001.parquet", "labels/epoch-002.parquet", "--min-cluster-size", "4"]
    assert main([*words, "-o", "refined.parquet", "--soft", "soft.npz"]) == 0
    again = pd.read_parquet("refined.parquet")
    assert list(again) == ["sample", "path", "previous", "cluster", "refined", "confidence"]
    pd.testing.assert_frame_equal(again, table.drop(columns="camera"))
    assert_array_equal(load_npz("soft.npz").toarray(), refined.soft.to_dense().numpy())
    counts = [len(np.unique(table[name][table[name] >= 0])) for name in ("previous", "cluster", "refined")]
    lost = [int((table.cluster < 0).sum()), refined.rescued, int((table.refined < 0).sum())]
    assert refined.rescued > 0
    told = [word for word in capsys.readouterr().out.split() if word.isdigit()]
    assert told == [str(value) for value in (170, *counts, *lost)]

    shuffled = pd.read_parquet("labels/epoch-001.parquet").sample(frac=1, random_state=0)
    shuffled.to_csv("shuffled.csv", index=False)
    assert main(["refine", "shuffled.csv", *words[2:], "-o", "again.csv", "--column", "cluster"]) == 0
    assert pd.read_csv("again.csv").refined.tolist() == table.refined.tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.3, "hard": "none", "outliers": "drop"},
        {"hard": "argmax", "noise": "argmax"},
        {"hard": "dbscan", "min_samples": 2},
        {"min_cluster_size": 3, "merge_distance": 0.4},
        {"min_cluster_size": 3, "min_confidence": 0.8},
    ],
)
def test_refine_passes_its_settings_on(settings):
    rng = np.random.default_rng(0)
    before, now = rng.integers(-1, 6, (2, 100))
    np.save("a.npy", before)
    np.save("b.npy", now)
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["refine", "a.npy", "b.npy", "-o", "refined.npy", *words]) == 0
    slr = SLR(**settings)
    slr.update(before)
    assert np.load("refined.npy").tolist() == slr.update(now).hard.tolist()


def test_defaults_are_those_of_the_estimators():
    for command, estimator in ((cluster, JaccardDBSCAN()), (refine, SLR())):
        settings = estimator.get_params()
        shared = {name: option.default for name, option in inspect.signature(command).parameters.items()}
        shared = {name: value for name, value in shared.items() if name in settings}
        assert shared == {name: settings[name] for name in shared}
        assert set(settings) - set(shared) <= {"source_weight", "memory", "solver"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["cluster", "a.npy", "-o", "labels.txt"],
            "error: labels.txt: expected a name that ends in .npy, .csv, .parquet",
        ),
        (["cluster", "gone.npy", "-o", "labels.npy"], "error: gone.npy: no such file\n"),
        (["cluster", "a.npy", "-o", "labels.npy", "--eps", "0"], "error: eps must lie in (0, inf], got 0.0\n"),
        (["refine", "l.npy", "gone.npy", "-o", "r.npy"], "error: gone.npy: no such file\n"),
        (["refine", "l.npy", "m.npy", "-o", "r.npy"], "error: l.npy has 3 labels, m.npy has 2; give labels"),
        (["refine", "l.npy", "l.npy", "-o", "r.npy", "--alpha", "2"], "error: alpha must lie in [0, 1], got 2.0\n"),
        (
            ["refine", "l.npy", "l.npy", "-o", "r.npy", "--soft", "s.npy"],
            "error: s.npy: expected a name that ends in .npz",
        ),
    ],
)
def test_files_and_settings_that_cannot_be_used(epochs, capsys, here, words, message):
    np.save("l.npy", [0, 0, 1])
    np.save("m.npy", [0, 0])
    there = set(here.iterdir())
    assert main(words) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(message)
    assert set(here.iterdir()) == there


# bench ---------------------------------------------------------------------------------------------------------------

BENCH = ["bench", "labels", "--samples", "150", "--dim", "16", "--k1", "10", "--repeats", "1"]


def test_bench_labels_prints_a_table_and_its_progress(capsys):
    assert main(BENCH) == 0
    written = capsys.readouterr()
    assert "bare matrix product" in written.out
    assert written.out.endswith("beside the dense way: raw labels equal, refined labels equal\n")
    assert "run 1 of 1\n" in written.err
    assert main([*BENCH, "--no-dense"]) == 0
    assert "not compared with the dense way" in capsys.readouterr().out


def test_bench_labels_prints_json(capsys):
    assert main([*BENCH, "--seed", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [result[name] for name in ("samples", "dim", "k1", "seed", "repeats")] == [150, 16, 10, 3, 1]
    assert result["equal"] == {"raw": True, "refined": True}
    assert result.keys() >= {"seconds", "ratio", "peak_mb", "stage_peak_mb", "clusters", "outliers", "not_compared"}
    assert result["environment"].keys() >= {"device", "threads", "torch", "commit", "date"}


@pytest.mark.parametrize("kind", [[], ["--json"]])
def test_bench_labels_ends_with_1_if_labels_differ(capsys, monkeypatch, kind):
    monkeypatch.setattr("rapids_slr.bench.dense_refinement", lambda before_N, now_N: now_N * 0)
    assert main([*BENCH, *kind]) == 1
    written = capsys.readouterr()
    assert written.err.endswith("error: beside the dense way: raw labels equal, refined labels DIFFER\n")
    assert "150" in written.out  # the figures are shown all the same


def test_bench_labels_refuses_sizes_it_cannot_use(capsys):
    assert main(["bench", "labels", "--samples", "20"]) == 2
    assert "error: bench: need k1 >= 5, samples > k1" in capsys.readouterr().err


# doctor --------------------------------------------------------------------------------------------------------------


def test_doctor_prints_a_table_or_json(capsys):
    assert main(["doctor"]) == 0
    assert "nearest neighbours" in capsys.readouterr().out
    assert main(["doctor", "--json", "--device", "cpu"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["engine"]["takes"] == "cpu"
