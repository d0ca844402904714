"""The training loops: learning rate, loss meter, what a step may not do, and what it asks of the device."""

from __future__ import annotations

import copy
import math
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rapids_slr.data.store import ImageStore
from rapids_slr.errors import RunError
from rapids_slr.hosts import abmt, loop, pretraining
from rapids_slr.hosts.abmt import adapt_epoch
from rapids_slr.hosts.loop import GuardedAdam, LossMeter
from rapids_slr.hosts.pretraining import pretrain_epoch, pretrain_optimizer, pretrain_rate
from rapids_slr.hosts.targets import hard_targets
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.settings.spec import PretrainSpec

CPU = torch.device("cpu")
BATCH = torch.tensor([5, 9, 5, 9])


def step(value: float) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    return torch.tensor(value), {"ce": torch.tensor(value)}, BATCH


def test_the_rate_rises_then_falls_at_the_milestones():
    spec = PretrainSpec(lr=1.0, warmup_epochs=10, milestones=[40, 70], gamma=0.1)
    rates = [pretrain_rate(spec, epoch) for epoch in range(1, 81)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == pytest.approx(0.01 + 0.99 * 0.9)
    assert rates[10:40] == pytest.approx([1.0] * 30)
    assert rates[40:70] == pytest.approx([0.1] * 30)
    assert rates[70:] == pytest.approx([0.01] * 10)


def test_the_meter_gives_means_over_all_steps_and_reports_each_step_once():
    reported = []
    meter = LossMeter(lambda steps, images, **losses: reported.append((steps, images, losses)))
    for number in range(25):
        meter.add(*step(float(number)))
    assert meter.flush() == {"ce": 12.0}
    assert [steps for steps, *_ in reported] == [10, 10, 5]
    assert [images for _, images, _ in reported] == [40, 40, 20]
    meter.flush()
    assert len(reported) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_with_its_batch(value):
    with pytest.raises(RunError, match=r"epoch 2: the loss is not finite \(ce .*\) on images \[5, 9, 5, 9\]"):
        LossMeter(lambda *_, **__: None, "epoch 2").add(*step(value))


def test_unread_losses_are_read_at_the_end_of_an_interval_and_the_first_bad_one_is_named():
    meter = LossMeter(lambda *_, **__: None, "epoch 2", unread=10)
    for _ in range(7):
        meter.add(*step(1.0))
        assert meter.spoilt == 0
    meter.add(torch.tensor(math.nan), {"ce": torch.tensor(4.0)}, torch.tensor([1, 2]))
    meter.add(*step(math.inf))
    assert meter.spoilt == 1
    with pytest.raises(RunError, match=r"\(ce 4\) on images \[1, 2\]"):
        meter.add(*step(1.0))


def test_a_short_epoch_is_read_at_its_end():
    meter = LossMeter(lambda *_, **__: None, unread=10)
    meter.add(*step(math.nan))
    with pytest.raises(RunError, match="not finite"):
        meter.flush()


# A step of a device that the host runs ahead of, on the CPU -----------------------------------------------------------


@pytest.fixture
def ahead(monkeypatch) -> None:
    """Treat the CPU as a GPU: fused optimizer, flags on the device, losses read once an interval."""
    monkeypatch.setattr(loop, "host_runs_ahead", lambda _: True)


def networks(tiny) -> tuple[TwoBranch, TwoBranch]:
    torch.manual_seed(0)
    student = TwoBranch(tiny.model)
    teacher = student.frozen_copy()
    for network in (student, teacher):
        network.set_classifiers(4, torch.Generator().manual_seed(1))
    return student, teacher


def images(N: int = 16) -> ImageStore:
    rng = torch.Generator().manual_seed(2)
    return ImageStore(torch.randint(0, 256, (N, 3, 32, 16), dtype=torch.uint8, generator=rng), CPU)


def adapt(tiny, student, teacher):
    return adapt_epoch(
        student, teacher, images(), hard_targets(torch.arange(16) % 4), tiny, 1, 0, lambda *_, **__: None
    )


def parameters(network: TwoBranch) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def longer(tiny, **changes):
    return tiny.model_copy(update={"training": tiny.training.model_copy(update={"iterations": 14, **changes})})


def test_the_fused_step_is_the_plain_one(tiny, monkeypatch):
    plain, fused = networks(tiny), networks(tiny)
    expected, _ = adapt(longer(tiny), *plain)
    monkeypatch.setattr(loop, "host_runs_ahead", lambda _: True)
    losses, done = adapt(longer(tiny), *fused)
    assert done == 14
    assert losses == pytest.approx(expected, rel=1e-3)
    for one, other in zip(plain, fused, strict=True):
        for first, second in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("teacher_ce", [False, True])
@pytest.mark.parametrize("runs_ahead", [False, True])
def test_a_bad_step_never_reaches_what_is_trained(tiny, monkeypatch, runs_ahead, teacher_ce):
    """Step 4 of 14 is spoilt, and so are the gradients after it: what is left is what three steps give."""
    spec = longer(tiny, teacher_ce=teacher_ce)
    monkeypatch.setattr(loop, "host_runs_ahead", lambda _: runs_ahead)
    expected = networks(tiny)
    optimizers = []
    real_adam, real_loss, real_update = abmt.GuardedAdam, abmt.adaptation_loss, abmt.update_teacher
    calls, states = [], []

    def watched(*arguments, **settings):
        optimizers.append(real_adam(*arguments, **settings))
        return optimizers[-1]

    def spoilt(*arguments):
        total, terms = real_loss(*arguments)
        calls.append(1)
        return (total * math.nan if len(calls) == 4 else total), terms

    def update(*arguments):
        real_update(*arguments)
        states.append((parameters(student), copy.deepcopy(optimizers[-1].state_dict())))

    monkeypatch.setattr(abmt, "GuardedAdam", watched)
    monkeypatch.setattr(abmt, "adaptation_loss", spoilt)
    monkeypatch.setattr(abmt, "update_teacher", update)
    student, teacher = expected
    with pytest.raises(RunError, match=r"epoch 1: the loss is not finite \(ce .*, soft .*, triplet .*\) on images \["):
        adapt(spec, student, teacher)
    assert len(calls) == (10 if runs_ahead else 4)
    before, state = states[2]  # after the third step
    for parameter, kept in zip(student.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)
    for number, moments in optimizers[-1].state_dict()["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, state["state"][number][name]), name
    assert all(parameter.isfinite().all() for parameter in teacher.parameters())


def test_pretraining_keeps_a_bad_step_out(tiny, ahead, monkeypatch):
    student, _ = networks(tiny)
    optimizer = pretrain_optimizer(student, tiny.pretrain)
    before = parameters(student)
    monkeypatch.setattr(pretraining, "pretrain_loss", lambda outputs, *_: (outputs.logits[0].sum() * math.nan, {}))
    with pytest.raises(RunError, match="pre-training epoch 1: the loss is not finite"):
        pretrain_epoch(student, optimizer, images(), torch.arange(16) % 4, images(8), tiny, 1, lambda *_, **__: None)
    for parameter, kept in zip(student.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)


@pytest.mark.parametrize("saved_ahead", [False, True])
@pytest.mark.parametrize("loaded_ahead", [False, True])
def test_an_optimizer_goes_on_from_another_kind_of_device(monkeypatch, saved_ahead, loaded_ahead):
    def trained(ahead: bool, state=None, memory_format=torch.contiguous_format) -> tuple[torch.nn.Module, GuardedAdam]:
        monkeypatch.setattr(loop, "host_runs_ahead", lambda _: ahead)
        torch.manual_seed(0)
        network = torch.nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
        optimizer = GuardedAdam(network.parameters(), lr=1e-2, weight_decay=0.0)
        if state is not None:
            network.load_state_dict(state[0])
            optimizer.load_state_dict(copy.deepcopy(state[1]))
        for _ in range(2):
            optimizer.zero_grad()
            network(torch.ones(1, 3, 4, 4)).square().sum().backward()
            optimizer.step_unless(torch.zeros(()))
        return network, optimizer

    network, optimizer = trained(saved_ahead)
    state = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    expected, _ = trained(saved_ahead, state)
    resumed, optimizer = trained(loaded_ahead, state, torch.channels_last)
    assert optimizer.param_groups[0]["fused"] == (True if loaded_ahead else None)
    assert optimizer.state[resumed.weight]["exp_avg"].stride() == resumed.weight.stride()
    torch.testing.assert_close(resumed.weight, expected.weight)


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("std::bad_alloc: rmm")])
def test_a_step_without_memory_says_which_setting_to_lower(tiny, monkeypatch, fault):
    def full(*_):
        raise fault

    student, teacher = networks(tiny)
    monkeypatch.setattr(TwoBranch, "forward", full)
    with pytest.raises(RunError, match=r"epoch 1: memory has run out; lower training\.identities or training\.images"):
        adapt(tiny, student, teacher)
    optimizer = pretrain_optimizer(student, tiny.pretrain)
    with pytest.raises(RunError, match=r"pre-training epoch 3: memory has run out; lower pretrain\.identities"):
        pretrain_epoch(student, optimizer, images(), torch.arange(16) % 4, images(8), tiny, 3, lambda *_, **__: None)


def test_another_fault_of_a_step_passes_as_it_is(tiny, monkeypatch):
    student, teacher = networks(tiny)
    student.drop_classifiers()
    with pytest.raises((ValueError, RuntimeError)) as raised:
        adapt(tiny, student, teacher)
    assert not isinstance(raised.value, RunError)


# What the host waits for ----------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host needs before it can go on."""

    OPERATIONS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.__name__.split(".")[0]
        indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
        masks = any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in indices)
        if name in self.OPERATIONS or masks:
            self.found[name] += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("teacher_ce", [False, True])
def test_more_steps_wait_no_more_often(tiny, ahead, teacher_ce):
    """Losses are read by tolist, which is not counted; nothing else in a step may be read."""

    def waits(iterations: int) -> Counter[str]:
        student, teacher = networks(tiny)
        with Waits() as counted:
            adapt(longer(tiny, teacher_ce=teacher_ce, iterations=iterations), student, teacher)
        return counted.found

    assert waits(13) == waits(3)


def test_more_steps_of_pretraining_wait_no_more_often(tiny, ahead):
    def waits(iterations: int) -> Counter[str]:
        spec = tiny.model_copy(update={"pretrain": tiny.pretrain.model_copy(update={"iterations": iterations})})
        student, _ = networks(tiny)
        optimizer = pretrain_optimizer(student, spec.pretrain)
        labels = torch.arange(16) % 4
        with Waits() as counted:
            pretrain_epoch(student, optimizer, images(), labels, images(8), spec, 1, lambda *_, **__: None)
        return counted.found

    assert waits(13) == waits(3)


def test_losses_are_read_once_an_interval(tiny, ahead, monkeypatch):
    reads = []
    real = LossMeter._read
    monkeypatch.setattr(LossMeter, "_read", lambda meter: reads.append(meter._steps) or real(meter))
    student, teacher = networks(tiny)
    adapt(longer(tiny, iterations=24), student, teacher)
    assert reads == [10, 20, 24]


def test_the_count_of_waits_sees_a_read(tiny, ahead, monkeypatch):
    real = abmt.update_teacher

    def reading(*arguments):
        float(student.necks[0].running_mean[0])
        real(*arguments)

    monkeypatch.setattr(abmt, "update_teacher", reading)
    student, teacher = networks(tiny)
    with Waits() as counted:
        adapt(longer(tiny, iterations=7), student, teacher)
    assert counted.found["_local_scalar_dense"] >= 7
