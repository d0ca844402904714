"""The losses as their formulas read, in plain Python over lists of floats."""

from __future__ import annotations

from collections.abc import Sequence
from math import dist, exp, log

Row = Sequence[float]
Matrix = Sequence[Row]


def softmax(row: Row) -> list[float]:
    top = max(row)
    powers = [exp(x - top) for x in row]
    return [power / sum(powers) for power in powers]


def entropy_of(target: Row, logits: Row) -> float:
    """-sum_c target_c log softmax(logits)_c."""
    return -sum(q * log(p) for q, p in zip(target, softmax(logits), strict=True) if q)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def cross_entropy(logits: Matrix, labels: Sequence[int], smoothing: float) -> float:
    losses = []
    for row, label in zip(logits, labels, strict=True):
        m = len(row)
        target = [(1 - smoothing) * (c == label) + smoothing / m for c in range(m)]
        losses.append(entropy_of(target, row))
    return mean(losses)


def soft_cross_entropy(logits: Matrix, targets: Matrix) -> float:
    return mean([entropy_of(target, row) for target, row in zip(targets, logits, strict=True)])


def distillation(logits: Matrix, teacher_logits: Matrix) -> float:
    return soft_cross_entropy(logits, [softmax(row) for row in teacher_logits])


def hardest(features: Matrix, labels: Sequence[int], anchor: int) -> tuple[int, int] | None:
    """Farthest of the anchor's class (itself included) and nearest of the others, first index on ties."""
    same = [i for i in range(len(labels)) if labels[i] == labels[anchor]]
    other = [i for i in range(len(labels)) if labels[i] != labels[anchor]]
    if not other:
        return None
    far = {i: dist(features[anchor], features[i]) for i in range(len(labels))}
    return max(same, key=lambda i: far[i]), min(other, key=lambda i: far[i])


def soft_margin_triplet(features: Matrix, labels: Sequence[int]) -> float:
    losses = []
    for a in range(len(labels)):
        pair = hardest(features, labels, a)
        if pair is None:
            losses.append(0.0)
            continue
        distances = [dist(features[a], features[i]) for i in pair]
        losses.append(-log(softmax(distances)[1]))
    return mean(losses)


def softened_triplet(features: Matrix, teacher: Matrix, labels: Sequence[int]) -> float:
    losses = []
    for a in range(len(labels)):
        pair = hardest(features, labels, a)
        if pair is None:
            losses.append(0.0)
            continue
        own = [dist(features[a], features[i]) for i in pair]
        taught = [dist(teacher[a], teacher[i]) for i in pair]
        losses.append(entropy_of(softmax(taught), own))
    return mean(losses)


def pretrain_loss(pooled, logits, labels, smoothing: float) -> float:
    ce = mean([cross_entropy(branch, labels, smoothing) for branch in logits])
    return ce + mean([soft_margin_triplet(branch, labels) for branch in pooled])


def adaptation_loss(
    pooled, logits, teacher_pooled, teacher_logits, labels, ce: float, soft: float, tri: float, smoothing: float
) -> float:
    """Hard labels; branch 0 of the student learns from branch 1 of the teacher and the other way round."""
    l_ce = (cross_entropy(logits[0], labels, smoothing) + cross_entropy(logits[1], labels, smoothing)) / 2
    l_soft = (distillation(logits[0], teacher_logits[1]) + distillation(logits[1], teacher_logits[0])) / 2
    l_tri = (
        softened_triplet(pooled[0], teacher_pooled[1], labels) + softened_triplet(pooled[1], teacher_pooled[0], labels)
    ) / 2
    return ce * l_ce + soft * l_soft + tri * l_tri


def mutual_loss(
    pooled, logits, teacher_pooled, teacher_logits, labels, soft: float, soft_tri: float, smoothing: float
) -> float:
    """MMT, Eq. 9: the losses of two networks together, each taught by the labels and by the other's teacher."""
    ce = cross_entropy(logits[0], labels, smoothing) + cross_entropy(logits[1], labels, smoothing)
    tri = soft_margin_triplet(pooled[0], labels) + soft_margin_triplet(pooled[1], labels)
    l_soft = distillation(logits[0], teacher_logits[1]) + distillation(logits[1], teacher_logits[0])
    l_tri = softened_triplet(pooled[0], teacher_pooled[1], labels) + softened_triplet(
        pooled[1], teacher_pooled[0], labels
    )
    return ce * (1 - soft) + tri * (1 - soft_tri) + l_soft * soft + l_tri * soft_tri
