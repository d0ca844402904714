"""Recalibrated statistics are those of the images, and nothing else of the network changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rapids_slr.errors import RunError
from rapids_slr.networks.batchnorm import recalibrate_batchnorm, statistics_kept
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.settings.spec import ModelSpec


@pytest.fixture
def network() -> TwoBranch:
    torch.manual_seed(0)
    network = TwoBranch(ModelSpec(backbone="narrow", widths=[4, 6, 8]))
    network(5 + 3 * torch.randn(8, 3, 16, 16))  # statistics of other images
    return network.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(11, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 2


def direct_statistics(network: TwoBranch, batches: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of what enters each BatchNorm, batch by batch, weighted by the number of images."""
    seen: dict[str, list[tuple[int, Tensor, Tensor]]] = {}
    network = copy.deepcopy(network).train()

    def record(name):
        def hook(module, inputs):
            x = inputs[0].transpose(0, 1).flatten(1)
            seen.setdefault(name, []).append((len(inputs[0]), x.mean(1), x.var(1)))

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_forward_pre_hook(record(name))
    with torch.no_grad():
        for batch in batches:
            network(batch)
    total = sum(len(batch) for batch in batches)
    return {name: tuple(sum(row[0] * row[i] for row in rows) / total for i in (1, 2)) for name, rows in seen.items()}


@pytest.mark.parametrize("size", [11, 4])  # one batch; and three, the last of them short
def test_statistics_equal_the_direct_ones(network, images, size):
    batches = list(images.split(size))
    expected = direct_statistics(network, batches)
    recalibrate_batchnorm(network, batches)
    assert len(expected) == 16  # trunk 1 + 2 + 3, branches 3 and 3 + 2, necks 2
    for name, (mean, variance) in expected.items():
        torch.testing.assert_close(network.get_buffer(f"{name}.running_mean"), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.get_buffer(f"{name}.running_var"), variance, rtol=1e-4, atol=1e-5)


def test_the_first_mean_is_that_of_all_images_whatever_the_batches(network, images):
    recalibrate_batchnorm(network, images.split(3))
    direct = network.trunk.conv1(images).mean((0, 2, 3)).detach()
    torch.testing.assert_close(network.trunk.bn1.running_mean, direct, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(network, images, training):
    network.train(training)
    network.branches[0].train(not training)
    before = copy.deepcopy(network)
    recalibrate_batchnorm(network, images.split(4))
    for module, old in zip(network.modules(), before.modules(), strict=True):
        assert module.training == old.training
        assert getattr(module, "momentum", None) == getattr(old, "momentum", None)
    for (name, parameter), old in zip(network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, old), name
        assert parameter.grad is None


def test_a_batch_of_one_image_is_passed_over(network, images):
    other = copy.deepcopy(network)
    recalibrate_batchnorm(network, images.split(5))  # 5, 5, 1
    recalibrate_batchnorm(other, images[:10].split(5))
    assert torch.equal(network.necks[1].running_var, other.necks[1].running_var)


def test_no_batches_leave_the_statistics_as_they_are(network):
    before = network.trunk.bn1.running_mean.clone()
    recalibrate_batchnorm(network, [])
    assert torch.equal(network.trunk.bn1.running_mean, before)


def test_a_failing_batch_leaves_the_network_usable(network):
    with pytest.raises(RuntimeError):
        recalibrate_batchnorm(network, [torch.zeros(4, 7, 16, 16)])
    assert not any(module.training for module in network.modules())
    assert network.trunk.bn1.momentum == 0.1


def test_no_memory_for_a_batch_says_what_to_lower(network, images, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TwoBranch, "forward", full)
    with pytest.raises(RunError, match=r"BatchNorm on the target: memory has run out; lower features\.batch"):
        recalibrate_batchnorm(network, images.split(4))
    assert network.trunk.bn1.momentum == 0.1


def test_statistics_are_kept_while_batches_are_normalised_by_their_own(network, images):
    network.train()
    before, expected = copy.deepcopy(network.state_dict()), network(images).necked[0]
    network.load_state_dict(before)
    with statistics_kept(network):
        torch.testing.assert_close(network(images).necked[0], expected)
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            assert torch.equal(value, before[name]), name
    network(images)
    assert not torch.equal(network.necks[0].running_mean, before["necks.0.running_mean"])
