"""The source beside the target: its losses, its classifiers, and a run that keeps them."""

from __future__ import annotations

import json

import pytest
import torch

from rapids_slr import run
from rapids_slr.data.domain import make_split
from rapids_slr.data.images import Images
from rapids_slr.data.store import ImageStore
from rapids_slr.hosts.abmt import adaptation_loss
from rapids_slr.hosts.losses import cross_entropy, soft_margin_triplet, softened_triplet
from rapids_slr.hosts.source import SourceLoss
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.settings.spec import RunSpec, SourceLossSpec, TrainingSpec
from tests.conftest import TINY
from tests.hosts.test_losses import LABELS, outputs


def source(identities: int = 5, each: int = 6) -> Images:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (identities * each, 3, 32, 16), dtype=torch.uint8, generator=rng)
    names = [(f"{i}.png", 1 + i // each, 1) for i in range(len(pixels))]
    return Images(make_split(names), ImageStore(pixels, torch.device("cpu")))


def test_its_terms_are_those_of_its_own_batch(tiny):
    settings = SourceLossSpec(triplet_weight=0.5, ce_weight=2.0, identities=3, images=2)
    torch.manual_seed(0)
    network = TwoBranch(tiny.model).eval()
    images = source()
    features_SD = torch.nn.functional.normalize(torch.randn(30, network.feature_dim), dim=1)
    loss = SourceLoss(images, tiny, settings, 1, features_SD)
    trained = loss.begin(network)
    assert [tuple(weight.shape) for weight in trained] == [(5, network.head_dim)] * 2
    seen = SourceLoss(images, tiny, settings, 1, features_SD)
    batch = next(seen._batches)
    found, labels_B = network(batch.images), seen._labels_S[batch.rows_B]
    triplet = torch.stack([soft_margin_triplet(pooled, labels_B) for pooled in found.pooled]).mean()
    ce = torch.stack([cross_entropy(x @ w.T, labels_B, 0.1) for x, w in zip(found.necked, trained, strict=True)]).mean()
    total, terms = loss.next(network)
    torch.testing.assert_close(terms, {"source_triplet": triplet, "source_ce": ce})
    torch.testing.assert_close(total, 0.5 * triplet + 2 * ce)
    total.backward()
    assert all(weight.grad is not None for weight in trained)


@pytest.mark.parametrize("ce_weight", [0.0, 0.5])
def test_a_run_with_it_repeats_and_its_teacher_differs_from_one_without(tmp_path, ce_weight):
    spec = RunSpec.model_validate(
        TINY | {"training": TINY["training"] | {"epochs": 2, "source": {"identities": 3, "ce_weight": ce_weight}}}
    )
    states = []
    for name in ("one", "two"):
        run.train(spec, tmp_path / name)
        states.append(torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True)["teacher"])
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    terms = {"loss/source_triplet", *(["loss/source_ce"] if ce_weight else [])}
    assert {key for key in rows[0] if key.startswith("loss/source")} == terms
    plain = run.train(RunSpec.model_validate(TINY | {"training": TINY["training"] | {"epochs": 2}}), tmp_path / "plain")
    other = torch.load(plain / "checkpoints/last.pt", weights_only=True)["teacher"]
    assert any(not torch.equal(x, other[name]) for name, x in states[0].items())


def test_without_a_source_it_is_refused_at_once():
    spec = {"name": "x", "data": {"target": {"path": "a"}}, "pretrain": {"checkpoint": "b"}, "training": {"source": {}}}
    with pytest.raises(ValueError, match=r"training\.source needs data\.source"):
        RunSpec.model_validate(spec)


@pytest.mark.parametrize("kind", ["softened", "plain", "both"])
def test_the_triplet_is_the_one_that_is_asked_for(kind):
    student, teacher = outputs(0), outputs(10)
    _, terms = adaptation_loss(student, teacher, LABELS, LABELS, TrainingSpec(triplet=kind))
    plain = torch.stack([soft_margin_triplet(x, LABELS) for x in student.pooled]).mean()
    pairs = zip(student.pooled, teacher.pooled[::-1], strict=True)
    softened = torch.stack([softened_triplet(x, y, LABELS) for x, y in pairs]).mean()
    expected = {"softened": softened, "plain": plain, "both": (softened + plain) / 2}[kind]
    torch.testing.assert_close(terms["triplet"], expected)
