"""The sweeps of the paper's tables hold the runs that its tables have, and every method of every sweep runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from rapids_slr.record.folder import RunFolder
from rapids_slr.run import adapt, pretrain
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import load_spec, spec_differences
from rapids_slr.sweep.plan import Sweep, load_sweep
from tests.test_configs import TINY
from tests.test_run import changed

TRANSFERS = ("duke2market", "market2duke", "market2personx", "personx2market")


def runs_of(name: str) -> tuple[Sweep, dict[str, RunSpec]]:
    """A sweep of configs/sweeps, and its methods, or pairs and methods, with their specs; one seed."""
    sweep = load_sweep(name)
    assert sweep.name == name
    assert sweep.seeds == (0,)
    return sweep, {run.method if len(sweep.pairs) == 1 else f"{run.pair}/{run.method}": run.spec for run in sweep.runs}


@pytest.mark.parametrize("backbone", ["resnet50", "ibn_resnet50_a"])
def test_the_sweep_of_transfers_runs_the_specs_of_the_transfers(backbone):
    sweep = load_sweep("paper-transfers", [f"model.backbone={backbone}"])
    assert {(run.pair, run.method) for run in sweep.runs} == {(t, m) for t in TRANSFERS for m in ("abmt", "slr")}
    for run in sweep.runs:
        alone = load_spec(run.pair if backbone == "resnet50" else f"{run.pair}-ibn")
        assert spec_differences(run.spec, alone) == ["name", *(["refine"] if run.method == "abmt" else [])]


def test_the_sweep_of_table_3_has_its_five_rows():
    sweep, runs = runs_of("paper-clustering")
    assert sweep.baseline == "abmt"
    assert runs.pop("abmt").refine.choice() == "none"
    assert {name: f"{spec.clusters.method}-{spec.refine.hard}" for name, spec in runs.items()} == {
        name: name for name in ("dbscan-none", "dbscan-dbscan", "dbscan-argmax", "hdbscan-hdbscan", "dbscan-hdbscan")
    }


def test_the_sweep_of_table_4_goes_through_sizes_and_alphas():
    _, runs = runs_of("paper-refinement")
    refine = [spec.refine for spec in runs.values() if spec.refine.choice() != "none"]
    assert {settings.min_cluster_size for settings in refine} == {4, 5, 6, 7, 8}
    assert {settings.alpha for settings in refine} == {0.1, 0.3, 0.5, 0.7, 0.9}
    assert len(refine) == 10


def test_the_sweep_of_tables_5_and_6_changes_losses_alone():
    _, runs = runs_of("paper-losses")
    base = runs.pop("all")
    changed = {name: spec_differences(base, spec)[1:] for name, spec in runs.items()}  # the first is the name
    assert {name: keys for name, keys in changed.items() if name.startswith("no-")} == {
        "no-ce": ["training.ce_weight"], "no-soft": ["training.soft_weight"], "no-triplet": ["training.triplet_weight"],
    }  # fmt: skip
    weights = {key for name, keys in changed.items() if name != "teacher-ce" for key in keys}
    assert weights == {"training.ce_weight", "training.soft_weight", "training.triplet_weight"}
    assert changed["teacher-ce"] == ["training.teacher_ce"]


SWEEPS = sorted(file.stem for file in (Path(__file__).parents[1] / "configs" / "sweeps").glob("*.yaml"))


LARGE_CLUSTERS = [
    "data.target.synth={style: target, identities: 3, images: 24, height: 32, width: 16}",
    "clusters={k1: 10, k2: 2, pairs_per_image: 8, rho: none, min_cluster_size: 2}",
]
"""Enough images of an identity for the largest min_cluster_size."""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Callable[[str], Path]:
    """The file of a network to begin from, by the name of the host that it is for."""

    @cache
    def of(host: str) -> Path:
        out = pretrain(load_spec("omniglot", [*TINY, f"host={host}"]), tmp_path_factory.mktemp("sweeps") / "pretrained")
        return RunFolder(out).pretrained_file

    return of


@pytest.mark.parametrize("name", SWEEPS)
def test_every_method_of_every_sweep_runs(name, pretrained, tmp_path):
    """Two steps of two epochs each, from one network of a kind: what a method changes can be run."""
    grey = ["data.channels=1", "data.mean=[0.5]", "data.std=[0.5]"]
    labels = "training.labels=identities"  # a network that has learnt nothing may leave no image labelled
    sweep = load_sweep(name, [*TINY, *LARGE_CLUSTERS, *grey, labels])
    firsts = [run for run in sweep.runs if (run.pair, run.seed) == (sweep.pairs[0], sweep.seeds[0])]
    assert {run.method for run in firsts} == set(sweep.methods)
    for run in firsts:
        spec = changed(run.spec, pretrain={"checkpoint": str(pretrained(run.spec.host.choice()))})
        rows = RunFolder(adapt(spec, tmp_path / run.method)).rows(tmp_path / run.method / "metrics.jsonl")
        assert [row["epoch"] for row in rows] == [1, 2], run.method
