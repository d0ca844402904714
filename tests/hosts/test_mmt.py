"""MMT: its loss is its formula, and an epoch is the plain loop that its authors describe."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from rapids_slr.hosts.loop import Batches
from rapids_slr.hosts.mmt import mutual_loss
from rapids_slr.hosts.sections import MMTSpec
from rapids_slr.hosts.targets import hard_targets
from rapids_slr.networks.twins import Twins
from rapids_slr.session import Session
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY
from tests.hosts.test_losses import LABELS, B, M, lists, normal, outputs
from tests.reference import losses as plain


@pytest.mark.parametrize(("soft", "soft_triplet"), [(0.5, 0.8), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_loss_is_its_formula(soft, soft_triplet):
    student, teacher = outputs(0), outputs(10, scale=2.0)
    spec = MMTSpec(soft_weight=soft, soft_triplet_weight=soft_triplet)
    total, terms = mutual_loss(student, teacher, LABELS, LABELS, spec, 0.1)
    branches = [lists(*x) for x in (student.pooled, student.logits, teacher.pooled, teacher.logits)]
    expected = plain.mutual_loss(*branches, LABELS.tolist(), soft, soft_triplet, 0.1)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert set(terms) == {"ce", "soft", "triplet", "soft_triplet"}


def test_soft_rows_and_weights_are_those_of_the_cross_entropy():
    student, teacher, spec = outputs(0), outputs(10), MMTSpec(soft_weight=0.0, soft_triplet_weight=1.0)
    rows, weights_B = normal(3, B, M).softmax(1), normal(4, B).exp()
    _, hard = mutual_loss(student, teacher, LABELS, LABELS, spec, 0.1)
    _, soft = mutual_loss(student, teacher, rows, LABELS, spec, 0.1, weights_B)
    entropies = [-(rows * logits.log_softmax(1)).sum(1) for logits in student.logits]
    expected = sum((weights_B * entropy).sum() / weights_B.sum() for entropy in entropies) / 2
    torch.testing.assert_close(soft["ce"], expected)
    assert {name: soft[name] for name in soft if name != "ce"} == {name: hard[name] for name in hard if name != "ce"}


def test_batches_of_two_views_show_the_same_images_twice(tiny, tmp_path):
    with Session(tiny, tmp_path / "out") as session:
        store, labels = session.images.target.store, torch.arange(48) % 5
        batches = [Batches(store, labels, tiny, tiny.training, 1, views=views) for views in (1, 2)]
        assert torch.equal(batches[0].rows_TB, batches[1].rows_TB)
        one, two = (next(iter(each)).images for each in batches)
    assert two.shape == (2, *one.shape)
    assert torch.equal(two[0], one)
    assert not torch.equal(two[0], two[1])


def test_an_epoch_is_the_plain_loop(tmp_path):
    training = TINY["training"] | {"source": None, "iterations": 4, "lr": 1e-3}
    spec = RunSpec.model_validate(TINY | {"host": "mmt", "training": training})
    torch.manual_seed(0)
    host, network = spec.host.build(), Twins(spec.model)
    students, teachers = copy.deepcopy(network), copy.deepcopy(network)
    labels = torch.arange(48) % 5 - 1
    targets = hard_targets(labels)
    with Session(spec, tmp_path / "out") as session:
        host.begin(network, session)
        features = host.embed(session.images.target)
        losses = host.fit_epoch(features, targets, epoch=1)
        batches = Batches(session.images.target.store, labels, spec, spec.training, epoch=1, views=2)

    D = spec.model.widths[-1]
    for half in (0, 1):  # classifiers from the mean features of the clusters, each network's own part
        part = features[:, half * D : (half + 1) * D]
        centres = F.normalize(torch.stack([part[labels == k].mean(0) for k in range(4)]), dim=1)
        for networks in (students, teachers):
            networks.classifiers.append(torch.nn.Linear(D, 4, bias=False))
            networks.classifiers[half].weight = torch.nn.Parameter(centres.clone())
    optimizer = torch.optim.Adam(students.parameters(), 1e-3, weight_decay=5e-4)
    students.train()
    teachers.train()
    expected = []
    for step, (views, rows_B) in enumerate(batches):
        out, guide, label_B = students(views), teachers(views), labels[rows_B]
        total, per_network = 0.0, []
        for own, other in ((0, 1), (1, 0)):
            ce = F.cross_entropy(out.logits[own], label_B, label_smoothing=0.1)
            soft = -(guide.logits[other].detach().softmax(1) * out.logits[own].log_softmax(1)).sum(1).mean()
            hard_pairs, soft_pairs = [], []
            distance = torch.cdist(out.pooled[own], out.pooled[own], compute_mode="donot_use_mm_for_euclid_dist")
            taught = torch.cdist(guide.pooled[other], guide.pooled[other]).detach()
            for a in range(len(label_B)):
                same = label_B == label_B[a]
                p = distance[a].masked_fill(~same, -1).argmax()
                n = distance[a].masked_fill(same, torch.inf).argmin()
                logs = torch.stack([(out.pooled[own][a] - out.pooled[own][i] + 1e-12).norm() for i in (p, n)])
                hard_pairs.append(-logs.log_softmax(0)[1])
                soft_pairs.append(-(taught[a, [p, n]].softmax(0) * logs.log_softmax(0)).sum())
            hard, softened = torch.stack(hard_pairs).mean(), torch.stack(soft_pairs).mean()
            total = total + 0.5 * ce + 0.5 * soft + 0.2 * hard + 0.8 * softened
            per_network.append([ce.item(), soft.item(), hard.item(), softened.item()])
        expected.append(torch.tensor(per_network).mean(0))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        keep = min(1 - 1 / (step + 1), spec.training.ema)
        with torch.no_grad():
            for mine, theirs in zip(teachers.parameters(), students.parameters(), strict=True):
                mine.mul_(keep).add_(theirs, alpha=1 - keep)
    names = ("ce", "soft", "triplet", "soft_triplet")
    assert losses == pytest.approx(dict(zip(names, torch.stack(expected).mean(0).tolist(), strict=True)), rel=1e-3)
    assert host.step == 4
    for mine, theirs in ((host.student, students), (host.teacher, teachers)):
        for name, value in mine.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-2, atol=1e-3, msg=name)
