"""Early-learning regularisation: its loss and memory against plain loops, over epochs whose classes are others."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from rapids_slr import run
from rapids_slr.hosts.early_learning import SURE, EarlyLearning, projection
from rapids_slr.hosts.targets import Targets, hard_targets
from rapids_slr.networks.checkpoint import load_network
from rapids_slr.session import Session
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY
from tests.hosts.test_every_host import differing
from tests.reference import slr
from tests.reference.rivals import early_learning
from tests.test_run import changed

BEFORE_N, NOW_N = np.array([0, 0, 1, 1, 2, 2, -1, 0]), np.array([1, 1, 0, 0, -1, -1, 2, 0])


def batches(seed, steps, classes, heads=2):
    """Rows of which some are in a batch twice, and logits of every head."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows_B = torch.randint(0, 8, (6,), generator=draw)
        yield rows_B, [3 * torch.randn(6, classes, generator=draw) for _ in range(heads)]


def test_the_loss_is_that_of_plain_loops():
    memory = EarlyLearning(0.7)
    memory.begin(hard_targets(torch.from_numpy(BEFORE_N)), 2)
    expected_HNM = np.zeros((2, 8, 3))
    for rows_B, logits in batches(0, 5, 3):
        expected = [
            early_learning(head.double().numpy(), rows_B.tolist(), mean_NM, 0.7, SURE)
            for head, mean_NM in zip(logits, expected_HNM, strict=True)
        ]
        assert_allclose(float(memory.loss(logits, rows_B)), np.mean(expected), atol=1e-5)
        assert_allclose(memory.state_dict()["mean"], expected_HNM, atol=1e-6)


def test_the_memory_goes_on_by_what_classes_have_in_common():
    memory = EarlyLearning(0.5)
    memory.begin(hard_targets(torch.from_numpy(BEFORE_N)), 2)
    for rows_B, logits in batches(1, 4, 3):
        memory.loss(logits, rows_B)
    before_HNP = memory.state_dict()["mean"].clone()
    assert (before_HNP > 0).any()
    soft = Targets(torch.from_numpy(NOW_N), 5)  # the last classes have no image
    memory.begin(soft, 2)
    share_PM = slr.projection(BEFORE_N, NOW_N, 3, 3)
    assert share_PM[2].sum() == 0  # no heir
    expected = np.zeros((2, 8, 5))
    expected[:, :, :3] = before_HNP.numpy() @ share_PM
    assert_allclose(memory.state_dict()["mean"], expected, atol=1e-6)
    assert_allclose(projection(torch.from_numpy(BEFORE_N), torch.from_numpy(NOW_N)), share_PM, atol=1e-6)


def test_of_images_never_seen_the_loss_is_that_of_one_prediction():
    """t is then (1 - momentum) p; with momentum 1 it would be 0, and so the loss."""
    memory = EarlyLearning(0.999999)
    memory.begin(hard_targets(torch.tensor([0, 1])), 1)
    assert float(memory.loss([torch.zeros(2, 2)], torch.tensor([0, 1]))) == pytest.approx(0, abs=1e-5)


def test_it_pulls_towards_what_was_said_before():
    memory = EarlyLearning(0.9)
    memory.begin(hard_targets(torch.tensor([0, 1])), 1)
    rows_B = torch.tensor([0, 1])
    for _ in range(30):
        memory.loss([torch.tensor([[4.0, 0.0], [0.0, 4.0]])], rows_B)
    logits = torch.tensor([[0.5, 0.0], [0.0, 0.5]], requires_grad=True)
    memory.loss([logits], rows_B).backward()
    assert logits.grad is not None
    assert (logits.grad.diagonal() < 0).all()  # a step against it raises what was said
    assert torch.isfinite(logits.grad).all()


def test_a_sure_prediction_leaves_the_loss_finite():
    memory = EarlyLearning(0.0)
    memory.begin(hard_targets(torch.tensor([0, 0])), 1)
    logits = torch.tensor([[1e4], [1e4]], requires_grad=True)  # one class
    loss = memory.loss([logits], torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


# In the hosts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["abmt", "mmt"])
def spec(request, tmp_path_factory) -> RunSpec:
    tiny = RunSpec.model_validate(TINY | {"host": request.param, "refine": "none"})
    checkpoint = run.pretrain(tiny, tmp_path_factory.mktemp(request.param)) / "checkpoints/pretrained.pt"
    return changed(
        tiny,
        pretrain={"checkpoint": str(checkpoint)},
        training={"elr_weight": 3.0, "iterations": 3, "source": None},
        evaluation={"guard": False, "pick": "last"},
    )


def two_epochs(spec, folder, resumed):
    """States after two epochs on different labels, in one go or by another host from the state between."""
    labels_N = torch.arange(48) % 5
    with Session(spec, folder) as session:
        host = spec.host.build()
        host.begin(load_network(Path(spec.checkpoint), spec), session)
        for epoch, targets in enumerate((hard_targets(labels_N), hard_targets((labels_N + 1) % 5 - 1)), start=1):
            if resumed and epoch == 2:
                state = copy.deepcopy(host.state_dict())
                host = spec.host.build()
                host.begin(load_network(Path(spec.checkpoint), spec), session)
                host.load_state_dict(state)
            losses = host.fit_epoch(host.embed(session.images.target), targets, epoch)
        return losses, copy.deepcopy(host.state_dict())


def test_it_changes_what_is_learnt_and_resumes_bit_for_bit(spec, tmp_path):
    losses, whole = two_epochs(spec, tmp_path / "whole", resumed=False)
    assert losses["elr"] < 0
    assert whole["early_learning"]["mean"].shape == (2, 48, 4)
    again, parts = two_epochs(spec, tmp_path / "parts", resumed=True)
    assert losses == again
    assert differing(whole, parts) == []
    without = changed(spec, training={"elr_weight": 0.0})
    losses, plain = two_epochs(without, tmp_path / "without", resumed=False)
    assert "elr" not in losses
    assert "early_learning" not in plain
    assert differing(plain["student"], whole["student"])


def test_hosts_that_predict_no_classes_are_refused():
    message = r"training\.elr_weight needs predictions .* host spcl does not make; hosts that do are abmt, mmt"
    with pytest.raises(ValueError, match=message):
        RunSpec.model_validate(TINY | {"host": "spcl", "training": {"elr_weight": 1.0}})
