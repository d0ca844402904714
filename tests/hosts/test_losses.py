"""Every loss equals a plain transcription of its formula and has a finite gradient wherever features meet."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rapids_slr.hosts.abmt import adaptation_loss, teacher_cross_entropy
from rapids_slr.hosts.losses import (
    cross_entropy,
    distillation,
    soft_cross_entropy,
    soft_margin_triplet,
    softened_triplet,
)
from rapids_slr.hosts.pretraining import pretrain_loss
from rapids_slr.networks.base import Outputs
from rapids_slr.networks.two_branch import TwoBranch
from rapids_slr.settings.spec import ModelSpec, TrainingSpec
from tests.reference import losses as plain

B, D, M = 12, 5, 4
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 1])

seeds = st.integers(0, 2**16)
labels_of_a_batch = st.lists(st.integers(0, 3), min_size=2, max_size=10).map(torch.tensor)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.empty(shape).normal_(generator=torch.Generator().manual_seed(seed))


def outputs(seed: int, scale: float = 1.0) -> Outputs:
    pooled, necked = (tuple(scale * normal(seed + i, B, D) for i in pair) for pair in ((1, 2), (3, 4)))
    return Outputs(pooled, necked, tuple(scale * normal(seed + i, B, M) for i in (5, 6)))


def lists(*tensors: Tensor) -> list:
    return [tensor.tolist() for tensor in tensors]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_formula(smoothing):
    logits = 3 * normal(0, B, M)
    expected = plain.cross_entropy(*lists(logits, LABELS), smoothing)
    assert cross_entropy(logits, LABELS, smoothing).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_takes_soft_rows_as_they_are():
    logits, rows = 3 * normal(0, B, M), normal(1, B, M).softmax(1)
    expected = pytest.approx(plain.soft_cross_entropy(*lists(logits, rows)), rel=1e-5)
    assert cross_entropy(logits, rows, smoothing=0.1).item() == expected
    assert soft_cross_entropy(logits, rows).item() == expected


@pytest.mark.parametrize("soft", [False, True])
def test_an_image_counts_what_its_weight_says(soft):
    """An image of weight 3 counts as three of weight 1."""
    logits, rows = 3 * normal(0, B, M), normal(1, B, M).softmax(1)
    targets = rows if soft else LABELS
    times = torch.tensor([1, 3] * (B // 2))
    found = cross_entropy(logits, targets, 0.1, 0.25 * times)
    repeated = lists(logits.repeat_interleave(times, dim=0), targets.repeat_interleave(times, dim=0))
    expected = plain.soft_cross_entropy(*repeated) if soft else plain.cross_entropy(*repeated, 0.1)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert found.item() != pytest.approx(cross_entropy(logits, targets, 0.1).item(), rel=1e-3)


def test_distillation_is_its_formula_and_leaves_the_teacher_alone():
    logits, teacher = normal(0, B, M), (4 * normal(1, B, M)).requires_grad_()
    loss = distillation(logits.requires_grad_(), teacher)
    assert loss.item() == pytest.approx(plain.distillation(*lists(logits, teacher)), rel=1e-5)
    loss.backward()
    assert teacher.grad is None


@given(seeds, labels_of_a_batch)
def test_triplet_losses_are_their_formulas(seed, labels):
    student, teacher = 2 * normal(seed, len(labels), D), 2 * normal(seed + 1, len(labels), D)
    hard, soft = soft_margin_triplet(student, labels), softened_triplet(student, teacher, labels)
    assert hard.item() == pytest.approx(plain.soft_margin_triplet(*lists(student, labels)), rel=1e-4, abs=1e-6)
    assert soft.item() == pytest.approx(plain.softened_triplet(*lists(student, teacher, labels)), rel=1e-4, abs=1e-6)


@given(seeds, labels_of_a_batch)
def test_triplet_losses_break_ties_by_the_first_index(seed, labels):
    grid = torch.randint(0, 2, (len(labels), 2), generator=torch.Generator().manual_seed(seed)).float()
    teacher = normal(seed, len(labels), D)
    expected = plain.softened_triplet(*lists(grid, teacher, labels))
    assert softened_triplet(grid, teacher, labels).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_equal_images_tie_exactly_far_from_the_origin():
    features = (10_000 + normal(0, 4, D)).repeat(3, 1)  # a matrix product would lose their distances in its rounding
    labels, teacher = torch.arange(12) % 2, normal(1, 12, D)
    expected = plain.softened_triplet(*lists(features, teacher, labels))
    assert softened_triplet(features, teacher, labels).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("labels", [LABELS, torch.zeros(B, dtype=torch.int64), torch.arange(B)])
@pytest.mark.parametrize("features", [torch.ones(B, D), normal(0, 1, D).repeat(B, 1), normal(0, 3, D).repeat(4, 1)])
def test_triplet_gradients_are_finite_where_features_coincide(features, labels):
    features = features.clone().requires_grad_()
    (soft_margin_triplet(features, labels) + softened_triplet(features, features, labels)).backward()
    assert torch.isfinite(features.grad).all()


def test_one_class_has_no_triplet_loss():
    features, labels = normal(0, B, D).requires_grad_(), torch.zeros(B, dtype=torch.int64)
    loss = soft_margin_triplet(features, labels) + softened_triplet(features, normal(1, B, D), labels)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_no_gradient_reaches_the_teacher_of_the_triplet_loss():
    teacher = normal(1, B, D).requires_grad_()
    softened_triplet(normal(0, B, D).requires_grad_(), teacher, LABELS).backward()
    assert teacher.grad is None


def test_far_features_do_not_overflow():
    features = (1e4 * normal(0, B, D)).requires_grad_()
    loss = soft_margin_triplet(features, LABELS) + softened_triplet(features, -features.detach(), LABELS)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()


def test_half_precision_outputs_are_lossless_beyond_their_own_rounding():
    student, teacher = normal(0, B, D).bfloat16(), normal(1, B, D).bfloat16()
    loss = softened_triplet(student, teacher, LABELS)
    assert loss.dtype == torch.float32
    assert loss.item() == softened_triplet(student.float(), teacher.float(), LABELS).item()
    assert cross_entropy(student, LABELS % D).dtype == torch.float32


def test_pretrain_loss_is_its_formula():
    out = outputs(0)
    total, terms = pretrain_loss(out, LABELS, 0.1)
    expected = plain.pretrain_loss(lists(*out.pooled), lists(*out.logits), LABELS.tolist(), 0.1)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert set(terms) == {"ce", "triplet"}


@pytest.mark.parametrize(("ce", "soft", "tri"), [(0.5, 0.5, 1.0), (1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 3.0)])
def test_adaptation_loss_is_its_formula(ce, soft, tri):
    student, teacher = outputs(0), outputs(10, scale=2.0)
    given = {"ce_weight": ce, "soft_weight": soft, "triplet_weight": tri, "label_smoothing": 0.1}
    weights = TrainingSpec(**given, triplet="softened")
    total, terms = adaptation_loss(student, teacher, LABELS, LABELS, weights)
    branches = [lists(*x) for x in (student.pooled, student.logits, teacher.pooled, teacher.logits)]
    expected = plain.adaptation_loss(*branches, LABELS.tolist(), ce, soft, tri, 0.1)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert set(terms) == {"ce", "soft", "triplet"}


def test_a_branch_learns_from_the_other_branch_of_the_teacher():
    student = outputs(0)
    same, crossed = Outputs(*student), Outputs(student.pooled[::-1], student.necked[::-1], student.logits[::-1])
    own_entropy = distillation(student.logits[0], student.logits[0]) + distillation(
        student.logits[1], student.logits[1]
    )
    _, terms = adaptation_loss(student, crossed, LABELS, LABELS, TrainingSpec())
    assert terms["soft"].item() == pytest.approx(own_entropy.item() / 2)
    _, terms = adaptation_loss(student, same, LABELS, LABELS, TrainingSpec())
    assert terms["soft"].item() > own_entropy.item() / 2 + 0.1


def test_soft_rows_that_are_one_hot_equal_unsmoothed_hard_labels():
    student, teacher, weights = outputs(0), outputs(10), TrainingSpec(label_smoothing=0.0)
    hard, _ = adaptation_loss(student, teacher, LABELS, LABELS, weights)
    rows, _ = adaptation_loss(student, teacher, nn.functional.one_hot(LABELS, M).float(), LABELS, weights)
    assert hard.item() == pytest.approx(rows.item(), rel=1e-6)


def test_weights_reach_the_cross_entropy_with_the_label_alone():
    student, teacher, weights_B = outputs(0), outputs(10), normal(3, B).exp()
    plainly, terms = adaptation_loss(student, teacher, LABELS, LABELS, TrainingSpec())
    weighted, others = adaptation_loss(student, teacher, LABELS, LABELS, TrainingSpec(), weights_B)
    ce = torch.stack([cross_entropy(logits, LABELS, 0.1, weights_B) for logits in student.logits]).mean()
    torch.testing.assert_close(others, terms | {"ce": ce})
    torch.testing.assert_close(weighted - plainly, 0.5 * (ce - terms["ce"]))


def test_teacher_cross_entropy_trains_its_classifiers_and_nothing_else():
    teacher = TwoBranch(ModelSpec(backbone="narrow", widths=[4, 4, 4]))
    teacher.set_classifiers(M, torch.Generator().manual_seed(0))
    out = teacher(normal(0, B, 3, 16, 16))
    loss = teacher_cross_entropy(teacher, out, LABELS, 0.1)
    loss.backward()
    expected = sum(plain.cross_entropy(*lists(logits, LABELS), 0.1) for logits in out.logits) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    trained = {name for name, parameter in teacher.named_parameters() if parameter.grad is not None}
    assert trained == {"classifiers.0.weight", "classifiers.1.weight"}
