"""The teacher is the moving average that its formula says, and of nothing but parameters."""

from __future__ import annotations

import pytest
import torch

from rapids_slr.networks.teacher import averaged_parameters, update_teacher
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.settings.spec import ModelSpec


def random_network(seed: int) -> TwoBranch:
    torch.manual_seed(seed)
    network = TwoBranch(ModelSpec(backbone="narrow", widths=[4, 4, 4]))
    network.set_classifiers(3, torch.Generator().manual_seed(seed))
    network(torch.randn(4, 3, 16, 16))  # moves the BatchNorm statistics
    return network


def test_a_teacher_is_a_copy_without_gradient():
    student = random_network(0)
    teacher = student.frozen_copy()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    with torch.no_grad():
        student.trunk.conv1.weight.zero_()
    assert teacher.trunk.conv1.weight.abs().sum() > 0


def average(teacher, student, step, decay, skip_classifiers=False):
    parameters = (averaged_parameters(network, skip_classifiers) for network in (teacher, student))
    update_teacher(*parameters, step, decay)


@pytest.mark.parametrize(
    ("step", "decay", "kept"), [(0, 0.999, 0.0), (1, 0.999, 0.5), (9, 0.999, 0.9), (9, 0.8, 0.8), (5000, 0.99, 0.99)]
)
def test_the_average_is_its_formula(step, decay, kept):
    teacher, student = random_network(0).frozen_copy(), random_network(1)
    before = {name: parameter.clone() for name, parameter in teacher.named_parameters()}
    average(teacher, student, step, decay)
    new = dict(student.named_parameters())
    for name, parameter in teacher.named_parameters():
        torch.testing.assert_close(parameter, kept * before[name] + (1 - kept) * new[name].detach())


def test_below_the_decay_the_teacher_is_the_mean_of_all_students():
    teacher, students = random_network(9).frozen_copy(), [random_network(seed) for seed in range(5)]
    for step, student in enumerate(students):
        average(teacher, student, step, decay=0.999)
    mean = torch.stack([student.trunk.conv1.weight for student in students]).mean(0)
    torch.testing.assert_close(teacher.trunk.conv1.weight, mean.detach())


def test_statistics_of_batchnorm_are_left_alone():
    teacher, student = random_network(0).frozen_copy(), random_network(1)
    before = {name: buffer.clone() for name, buffer in teacher.named_buffers()}
    average(teacher, student, 5, 0.5)
    for name, buffer in teacher.named_buffers():
        assert torch.equal(buffer, before[name]), name
        assert "num_batches" in name or not torch.equal(buffer, student.get_buffer(name)), name


def test_classifiers_are_averaged_unless_they_train_themselves():
    teacher, student = random_network(0).frozen_copy(), random_network(1)
    before = teacher.classifiers[0].weight.clone()
    average(teacher, student, 0, 0.9, skip_classifiers=True)
    assert torch.equal(teacher.classifiers[0].weight, before)
    assert torch.equal(teacher.necks[0].weight, student.necks[0].weight)
    average(teacher, student, 0, 0.9)
    assert torch.equal(teacher.classifiers[0].weight, student.classifiers[0].weight)


def test_no_graph_grows_behind_the_teacher():
    teacher, student = random_network(0).frozen_copy(), random_network(1)
    teacher.set_classifiers(3, torch.Generator())  # these take gradients, for their own training
    average(teacher, student, 3, 0.9)
    assert all(parameter.is_leaf and parameter.grad_fn is None for parameter in teacher.parameters())


def test_a_step_walks_through_no_network(monkeypatch):
    """Which costs the host what some kernels cost the device, at every step."""
    teacher, student = random_network(0).frozen_copy(), random_network(1)
    lists = averaged_parameters(teacher), averaged_parameters(student)
    monkeypatch.setattr(torch.nn.Module, "named_parameters", lambda *_, **__: pytest.fail("walks"))
    monkeypatch.setattr(torch.nn.Module, "parameters", lambda *_, **__: pytest.fail("walks"))
    update_teacher(*lists, 0, 0.9)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*lists, strict=True))
