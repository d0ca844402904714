"""SpCL: classes and keys are those of its hybrid memory, and an epoch is the plain loop that its authors describe."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from rapids_slr.data.sampler import mixed_batches
from rapids_slr.hosts.loop import Batches
from rapids_slr.hosts.losses import info_nce
from rapids_slr.hosts.source import source_batches, source_labels
from rapids_slr.hosts.spcl import Classes
from rapids_slr.hosts.targets import Targets, hard_targets
from rapids_slr.networks.batchnorm import statistics_kept
from rapids_slr.networks.single import Single
from rapids_slr.session import Session
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY
from tests.reference import contrast as plain

S, D = 3, 4
label_lists = st.lists(st.integers(-1, 3), min_size=2, max_size=12)
seeds = st.integers(0, 2**16)


def without_gaps(labels: list[int]) -> list[int]:
    numbers = {label: number for number, label in enumerate(sorted(set(labels) - {-1}))}
    return [numbers.get(label, -1) for label in labels]


def unit_rows(seed: int, rows: int, width: int = D) -> torch.Tensor:
    return F.normalize(torch.empty(rows, width).normal_(generator=torch.Generator().manual_seed(seed)), dim=1)


@given(seeds, label_lists.map(without_gaps), st.sampled_from([0, S]))
def test_the_contrast_is_the_unified_one(seed, labels, sources):
    assume(max(labels) >= 0)
    N = len(labels)
    memory, queries, images_B = unit_rows(seed, sources + N), unit_rows(seed + 1, N), torch.arange(N).flip(0)
    classes = Classes(hard_targets(torch.tensor(labels)), memory)
    assert classes.labels(images_B).tolist() == plain.classes_of(labels, sources)[sources:][::-1]
    found = info_nce(queries, classes.keys(memory), classes.labels(images_B), 0.1)
    expected = plain.unified_contrast(
        queries.tolist(), memory.tolist(), plain.classes_of(labels, sources), (sources + images_B).tolist(), 0.1
    )
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_soft_labels_spread_over_the_clusters_and_single_images_are_sure():
    memory, rows = unit_rows(0, 2 + 5), torch.tensor([[0.7, 0.3], [0.0, 1.0]])
    identities, row_of_image = torch.tensor([0, -1, 1, 0, -1]), torch.tensor([0, -1, 1, 0, -1])
    weights = torch.tensor([0.7, 0.0, 1.0, 0.7, 0.0])
    classes = Classes(Targets(identities, 2, rows, row_of_image, weights), memory)
    images_B = torch.tensor([3, 1, 2, 4])
    expected = [[0, 0, 0.7, 0.3, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    torch.testing.assert_close(classes.labels(images_B), torch.tensor(expected).float())
    torch.testing.assert_close(classes.weights(images_B), torch.tensor([0.7, 1, 1, 1]))
    keys = classes.keys(memory)
    both = (0.7 * (memory[2] + memory[5]) / 1.4, (0.3 * (memory[2] + memory[5]) + memory[4]) / 1.6)
    torch.testing.assert_close(keys, torch.stack([*memory[:2], *both, memory[3], memory[6]]))


# Batches --------------------------------------------------------------------------------------------------------------


@given(label_lists, st.integers(1, 3), st.integers(1, 7), st.integers(1, 9), seeds)
def test_every_identity_and_single_image_comes_once_a_round(labels, images, size, iterations, seed):
    assume(max(labels) >= 0)
    batches = mixed_batches(torch.tensor(labels), images, size, iterations, torch.Generator().manual_seed(seed))
    assert batches.shape == (iterations, size)
    flat = batches.flatten().tolist()
    alone = [i for i, label in enumerate(labels) if label < 0]
    length = len(set(labels) - {-1}) * images + len(alone)
    for start in range(0, len(flat), length):
        of_round = flat[start : start + length]
        once = [i for i in of_round if labels[i] < 0]
        assert len(set(once)) == len(once)
        counts = {label: sum(labels[i] == label for i in of_round) for label in set(labels) - {-1}}
        if len(of_round) == length:
            assert sorted(once) == alone
            assert set(counts.values()) == {images}
        for label in counts:  # side by side, but where a round is cut
            places = [place for place, i in enumerate(of_round) if labels[i] == label]
            assert places == list(range(places[0], places[0] + len(places))) if places else True
            shown = [of_round[place] for place in places]
            assert len(set(shown)) == min(len(shown), labels.count(label))


# An epoch -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("renew", [False, True])
@pytest.mark.parametrize("with_source", [False, True])
def test_two_epochs_are_the_plain_loop(tmp_path, with_source, renew):
    training = TINY["training"] | {"iterations": 3, "lr": 1e-3, "decay": "none"}
    training["source"] = {"identities": 3, "images": 2, "ce_weight": 0.5} if with_source else None
    host = {"name": "spcl", "momentum": 0.3, "temperature": 0.1, "renew": renew}
    spec = RunSpec.model_validate(TINY | {"host": host, "training": training})
    torch.manual_seed(0)
    network = Single(spec.model)
    theirs, host = copy.deepcopy(network), spec.host.build()
    labels = [[i % 5 - 1 for i in range(48)], [i % 4 - 1 for i in range(48)]]
    found, parts, clustered = [], [], []
    with Session(spec, tmp_path / "out") as session:
        host.begin(network, session)
        target, source = session.images.target, session.images.source if with_source else None
        labels_S = source_labels(source) if with_source else torch.empty(0, dtype=torch.int64)
        start, start_S = host.embed(target), host.embed(source) if with_source else None
        for epoch in (1, 2):
            targets = hard_targets(torch.tensor(labels[epoch - 1]))
            clustered.append(host.embed(target, epoch))
            found.append(host.fit_epoch(clustered[-1], targets, epoch))
            order = lambda labels_N, draw: mixed_batches(labels_N, 4, 16, 3, draw)  # noqa: E731
            of_target = Batches(target.store, targets.identities_N, spec, spec.training, epoch, draw=order)
            beside = source_batches(source, labels_S, spec, spec.training.source, epoch) if with_source else [None] * 3
            parts.append(list(zip(of_target, beside, strict=True)))

    of_source = plain.centroids(start_S.tolist(), labels_S.tolist()) if with_source else []
    memory, sources = of_source + start.tolist(), len(of_source)
    theirs.train()
    for epoch in (1, 2):
        classes = plain.classes_of(labels[epoch - 1], sources)
        if renew:  # by the network as the host has it; that it is theirs, the losses show
            memory = memory[:sources] + clustered[epoch - 1].tolist()
        torch.testing.assert_close(clustered[epoch - 1], torch.tensor(memory[sources:]), rtol=1e-3, atol=1e-3)
        optimizer = torch.optim.Adam(theirs.parameters(), 1e-3, weight_decay=5e-4)
        losses = {"contrast": [], "source_contrast": []}
        for batch, other in parts[epoch - 1]:
            passes = [("contrast", batch.images, (sources + batch.rows_B).tolist(), 1.0)]
            if with_source:
                passes.append(("source_contrast", other.images, labels_S[other.rows_B].tolist(), 0.5))
            total, seen = 0.0, []
            means = torch.zeros(max(classes) + 1, len(memory))
            for row, label in enumerate(classes):
                means[label, row] = 1 / classes.count(label)
            for name, images, rows, weight in passes:
                if name == "contrast":
                    queries = F.normalize(theirs(images).necked[0], dim=1)
                else:
                    with statistics_kept(theirs):
                        queries = F.normalize(theirs(images).necked[0], dim=1)
                logits = queries @ torch.tensor(memory).T / 0.1 @ means.T
                loss = F.nll_loss(logits.log_softmax(1), torch.tensor([classes[row] for row in rows]))
                losses[name].append(loss.item())
                total, seen = total + weight * loss, [*seen, (queries.tolist(), rows)]
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            for queries, rows in seen:
                memory = plain.followed(memory, queries, rows, 0.3)
        expected = {name: sum(values) / 3 for name, values in losses.items() if values}
        assert found[epoch - 1] == pytest.approx(expected, rel=1e-3)


def test_the_memory_is_clustered_where_it_is_not_renewed_and_the_network_evaluated(tmp_path):
    spec = RunSpec.model_validate(TINY | {"host": {"name": "spcl", "renew": False}})
    torch.manual_seed(0)
    host = spec.host.build()
    with Session(spec, tmp_path / "out") as session:
        host.begin(Single(spec.model), session)
        target = session.images.target
        first = host.embed(target, 1)
        assert torch.equal(first, host.embed(target))
        host.fit_epoch(first, hard_targets(torch.arange(48) % 4 - 1), 1)
        rows, plainly = host.embed(target, 2), host.embed(target)
        assert torch.equal(rows, host.state_dict()["memory"][-48:])
        assert not torch.allclose(rows, plainly, atol=1e-2)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(48))
        assert host.embed(session.images.source, 2).shape == (48, 8)  # by the network, whatever the epoch


def test_a_memory_that_is_renewed_holds_what_the_network_makes_of_the_target(tmp_path):
    spec = RunSpec.model_validate(TINY | {"host": "spcl"})
    torch.manual_seed(0)
    host, targets = spec.host.build(), hard_targets(torch.arange(48) % 4 - 1)
    with Session(spec, tmp_path / "out") as session:
        host.begin(Single(spec.model), session)
        target = session.images.target
        host.fit_epoch(host.embed(target, 1), targets, 1)
        moved, plainly = host.state_dict()["memory"][-48:].clone(), host.embed(target)
        assert torch.equal(host.embed(target, 2), plainly)
        assert not torch.allclose(moved, plainly, atol=1e-2)
        host.memory.follow = lambda *_: None
        host.fit_epoch(plainly, targets, 2)
        torch.testing.assert_close(host.state_dict()["memory"][-48:], plainly)
