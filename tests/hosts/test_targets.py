"""Targets of an epoch: hard labels, soft rows, class centroids and the controls."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rapids_slr import SLR
from rapids_slr.hosts.targets import (
    Targets,
    _sums_by_group,
    class_centroids,
    hard_targets,
    shuffled,
    targets_of,
    true_identities,
)


def plain_centroids(features, weights):
    """Weighted mean by plain loops: weights (N, K)."""
    rows = []
    for k in range(weights.shape[1]):
        total, mass = torch.zeros(features.shape[1]), 0.0
        for feature, weight in zip(features, weights[:, k].tolist(), strict=True):
            total, mass = total + weight * feature, mass + weight
        rows.append(total / mass)
    return torch.stack(rows)


def test_centroids_of_hard_labels_leave_out_the_left_out(rng):
    features, labels = torch.randn(7, 4, generator=rng), torch.tensor([0, 1, -1, 0, 2, 2, -1])
    weights = torch.stack([(labels == k).float() for k in range(3)], dim=1)
    torch.testing.assert_close(class_centroids(features, hard_targets(labels)), plain_centroids(features, weights))


def test_centroids_of_soft_labels_weigh_by_the_rows(rng):
    features = torch.randn(5, 4, generator=rng)
    rows = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    row_of_image = torch.tensor([0, 1, -1, 1, 0])
    targets = Targets(torch.tensor([0, 0, -1, 0, 1]), 2, rows, row_of_image)
    weights = torch.where((row_of_image >= 0)[:, None], rows[row_of_image], torch.zeros(1))
    torch.testing.assert_close(class_centroids(features, targets), plain_centroids(features, weights))


def test_soft_targets_of_a_batch_are_the_rows_of_its_images():
    rows = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    targets = Targets(torch.tensor([0, 0, 1]), 2, rows, torch.tensor([0, 1, 0]))
    assert torch.equal(targets.of(torch.tensor([1, 2])), rows[[1, 0]])


def test_images_count_as_their_labels_are_sure_where_that_is_asked_for(tiny):
    slr = SLR(hard="argmax", min_cluster_size=2)
    slr.update(torch.tensor([0, 0, 1, 1, -1]))
    refined = slr.update(torch.tensor([0, 0, 0, 1, 1]))

    def weights(**training):
        spec = tiny.model_copy(update={"training": tiny.training.model_copy(update=training)})
        targets = targets_of(refined, spec, 2, [3, 3, 5, 5, 5])
        return targets.weights_of(torch.tensor([3, 4])), targets

    assert weights()[0] is None
    found, targets = weights(weights="confidence")
    torch.testing.assert_close(targets.weights_N, refined.confidence)
    assert torch.equal(found, refined.confidence[[3, 4]])
    assert refined.confidence[2] < 1
    assert torch.equal(weights(weights="confidence", labels="shuffled")[0], found)
    assert weights(weights="confidence", labels="identities")[0] is None


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=30).filter(lambda labels: max(labels) >= 0), st.integers(0, 9))
def test_shuffling_deals_the_same_labels_to_the_same_images(labels, seed):
    labels = torch.tensor(labels)
    dealt = shuffled(hard_targets(labels), torch.Generator().manual_seed(seed)).identities_N
    assert torch.equal(dealt < 0, labels < 0)
    assert torch.equal(dealt.sort().values, labels.sort().values)


def test_true_identities_have_no_gaps_and_leave_out_junk_and_distractors():
    targets = true_identities(torch.tensor([7, -1, 3, 0, 7]))
    assert targets.identities_N.tolist() == [1, -1, 0, -1, 1]
    assert targets.classes == 2


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40).filter(lambda labels: max(labels) >= 0))
def test_both_ways_to_sum_groups_agree(labels):
    features, groups = torch.randn(len(labels), 3), torch.tensor(labels) + 1
    scattered = torch.zeros(7, 3).index_put_((groups,), features, accumulate=True)
    torch.testing.assert_close(_sums_by_group(features, groups, 7), scattered)


def test_shuffling_takes_its_order_from_the_device_of_the_generator(monkeypatch):
    asked = []
    real = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *args, **kw: asked.append(kw["device"]) or real(*args, **kw))
    shuffled(hard_targets(torch.tensor([0, 1, -1])), torch.Generator())
    assert asked == [torch.device("cpu")]
