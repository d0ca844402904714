"""Cluster contrast: its loss is its formula, and an epoch is the plain loop that its authors describe."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from rapids_slr.hosts.loop import Batches
from rapids_slr.hosts.losses import info_nce
from rapids_slr.hosts.targets import Targets, hard_targets
from rapids_slr.networks.single import Single
from rapids_slr.session import Session
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY
from tests.hosts.test_losses import normal
from tests.reference import contrast as plain


def spec_of(training=(), **host) -> RunSpec:
    training = TINY["training"] | {"source": None} | dict(training)
    return RunSpec.model_validate(TINY | {"host": {"name": "cluster_contrast", **host}, "training": training})


@pytest.mark.parametrize("soft", [False, True])
def test_info_nce_is_its_formula(soft):
    queries, keys = (F.normalize(normal(seed, rows, 5), dim=1) for seed, rows in ((0, 7), (1, 4)))
    labels, rows = torch.arange(7) % 4, normal(2, 7, 4).softmax(1)
    expected = plain.info_nce(
        queries.tolist(), keys.tolist(), rows.tolist() if soft else plain.one_hot(labels.tolist(), 4), 0.05
    )
    assert info_nce(queries, keys, rows if soft else labels, 0.05).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("memory", ["mean", "hardest"])
@pytest.mark.parametrize("soft", [False, True])
def test_an_epoch_is_the_plain_loop(tmp_path, memory, soft):
    spec = spec_of({"iterations": 5}, memory=memory, momentum=0.3, temperature=0.1)
    torch.manual_seed(0)
    network = Single(spec.model)
    host, theirs = spec.host.build(), copy.deepcopy(network)
    labels = torch.arange(48) % 5 - 1
    targets = hard_targets(labels)
    if soft:
        rows = torch.eye(4) * 0.8 + 0.05
        targets = Targets(targets.identities_N, 4, rows, labels)
    with Session(spec, tmp_path / "out") as session:
        store = session.images.target.store
        host.begin(network, session)
        features = host.embed(session.images.target)
        losses = host.fit_epoch(features, targets, epoch=1)
        batches = Batches(store, labels, spec, spec.training, epoch=1)

    centroids = plain.centroids(features.tolist(), labels.tolist())
    expected, optimizer = [], torch.optim.Adam(theirs.parameters(), spec.training.lr, weight_decay=5e-4)
    theirs.train()
    followed = plain.followed_hardest if memory == "hardest" else plain.followed
    if soft:  # every image is of all clusters by its row
        weights = torch.where((labels >= 0)[:, None], targets.rows_RK[labels], torch.zeros(1))
        centroids = F.normalize(weights.T @ features, dim=1).tolist()
    for images, rows_B in batches:
        queries = F.normalize(theirs(images).necked[0], dim=1)
        logits = queries @ torch.tensor(centroids).T / 0.1
        label_B = labels[rows_B]
        loss = F.cross_entropy(logits, targets.rows_RK[label_B] if soft else label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        centroids = followed(centroids, queries.tolist(), label_B.tolist(), 0.3)
        expected.append(loss.item())
    assert losses == pytest.approx({"contrast": sum(expected) / 5}, rel=1e-4)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)


def test_the_source_is_a_loss_of_its_own_and_leaves_the_statistics_to_the_target(tmp_path):
    """With a weight of nothing the source changes nothing."""
    states, terms = [], []
    for name, source in (("without", None), ("nothing", {"triplet_weight": 0.0, "ce_weight": 0.0}), ("with", {})):
        spec = spec_of({"source": source})
        torch.manual_seed(0)
        host = spec.host.build()
        with Session(spec, tmp_path / name) as session:
            host.begin(Single(spec.model), session)
            features = host.embed(session.images.target)
            terms.append(host.fit_epoch(features, hard_targets(torch.arange(48) % 4), epoch=1).keys())
            states.append(copy.deepcopy(host.encoder.state_dict()))
    assert terms == [{"contrast"}, {"contrast", "source_triplet"}, {"contrast", "source_triplet", "source_ce"}]
    without, nothing, with_source = states
    for name, value in without.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, nothing[name]), name
    assert not torch.equal(without["body.trunk.conv1.weight"], with_source["body.trunk.conv1.weight"])
