"""Every spec in configs/ is sound and runs, at a tiny size on drawn images; the paper's runs are what it describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rapids_slr.cli import main
from rapids_slr.refinement.sections import SLRSpec
from rapids_slr.run import train
from rapids_slr.settings.spec import DomainSpec
from rapids_slr.settings.specfile import embedded_specs, load_spec, spec_differences
from rapids_slr.sweep.plan import load_sweep

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
TRANSFERS = {
    "duke2market": ("DukeMTMC-reID", "Market-1501-v15.09.15"),
    "market2duke": ("Market-1501-v15.09.15", "DukeMTMC-reID"),
    "market2personx": ("Market-1501-v15.09.15", "PersonX"),
    "personx2market": ("PersonX", "Market-1501-v15.09.15"),
}
TINY = [
    "data.source.synth={style: source, identities: 5, images: 6, height: 32, width: 16}",
    "data.target.synth={style: target, identities: 5, images: 6, height: 32, width: 16}",
    "data.height=32",
    "data.width=16",
    "model={backbone: narrow, widths: [4, 4, 4], weights: none}",
    "pretrain.epochs=1",
    "pretrain.iterations=2",
    "pretrain.identities=3",
    "training.epochs=2",
    "training.iterations=2",
    "training.identities=3",
    "clusters={k1: 5, k2: 2, pairs_per_image: 3, rho: none}",
    "refine.min_cluster_size=2",
    "device=cpu",
]
"""Data, widths and counts; clusters as few images need them. All else is the spec's own."""


@pytest.mark.parametrize("name", sorted(embedded_specs()))
def test_every_spec_passes_its_check(name, capsys):
    assert main(["spec", "check", str(CONFIGS / f"{name}.yaml")]) == 0
    assert load_spec(name).name == name


@pytest.mark.parametrize("name", sorted(embedded_specs()))
def test_every_spec_runs(name, tmp_path):
    out = train(load_spec(name, TINY), tmp_path / "run")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert json.loads((out / "summary.json").read_text())["name"] == name


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("backbone", ["resnet50", "ibn_resnet50_a"])
def test_the_transfers_have_the_settings_of_the_paper(transfer, backbone):
    spec = load_spec(transfer if backbone == "resnet50" else f"{transfer}-ibn")
    assert (spec.data.source.path, spec.data.target.path) == tuple(f"data/{name}" for name in TRANSFERS[transfer])
    assert (spec.data.height, spec.data.width) == (256, 128)
    assert (spec.model.backbone, spec.model.weights) == (backbone, "imagenet")
    assert (spec.augment.flip, spec.augment.pad, spec.augment.erase) == (0.5, 10, 0.5)
    pretrain, training, clusters = spec.pretrain, spec.training, spec.clusters
    assert (pretrain.epochs, pretrain.milestones, pretrain.gamma, pretrain.warmup_epochs) == (80, [40, 70], 0.1, 10)
    assert pretrain.target_forward
    assert (training.epochs, training.iterations, training.identities, training.images) == (50, 400, 4, 4)
    assert (training.lr, training.weight_decay, training.ema, training.label_smoothing) == (3.5e-4, 5e-4, 0.999, 0.1)
    assert (training.ce_weight, training.soft_weight, training.triplet_weight) == (0.5, 0.5, 1.0)
    assert (clusters.method, clusters.k1, clusters.k2, clusters.min_samples) == ("dbscan", 20, 6, 4)
    assert (clusters.rho, clusters.source_weight) == (2e-3, 0.1)
    assert spec.refine == SLRSpec(hard="hdbscan", min_cluster_size=7)
    assert spec_differences(spec, load_spec(spec.name, ["refine=none"])) == ["refine"]


def test_the_pages_name_every_layout_path_spec_and_sweep():
    datasets, paper = ((REPOSITORY / "docs" / name).read_text() for name in ("datasets.md", "paper.md"))
    layouts = {*DomainSpec.model_json_schema()["properties"]["layout"]["enum"]} - {"auto"}
    assert {name for name in layouts if f"`{name}`" not in datasets} == set()
    for transfer in TRANSFERS:
        data = load_spec(transfer).data
        assert f"`{data.source.path}`" in datasets
        assert f"`{data.target.path}`" in datasets
        assert f"`{transfer}`" in paper
        assert f"`{transfer}-ibn`" in paper
    sweeps = {file.stem for file in (CONFIGS / "sweeps").glob("paper-*.yaml")}
    assert set(re.findall(r"sweep `(paper-[\w-]+)`", paper)) == sweeps


def test_the_sweep_of_classification_runs_the_two_specs():
    for run in load_sweep("classification").runs:
        alone = load_spec({"digits": "digits", "shops": "groceries"}[run.pair])
        differing = set(spec_differences(run.spec, alone)) - ({"seed"} if run.seed else set())
        assert differing == ({"name", "refine"} if run.method == "none" else {"name"})
