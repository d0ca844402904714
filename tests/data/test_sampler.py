from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rapids_slr.data.sampler import identity_batches
from rapids_slr.errors import InputError
from tests.data.handmade import needs_gpu

LABELS = st.lists(st.integers(-1, 9), min_size=1, max_size=60).filter(lambda labels: max(labels) >= 0)
COUNT = st.integers(1, 7)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(LABELS, COUNT, COUNT, st.integers(1, 9), st.integers(0, 99))
@example([0], 4, 4, 3, 0)
@example([0, 0, 0, 7, 7, -1], 3, 2, 5, 0)
def test_laws_of_a_batch(labels, P, K, iterations, seed):
    batches = identity_batches(torch.tensor(labels), P, K, iterations, drawn(seed))
    assert batches.shape == (iterations, P * K)
    assert batches.dtype == torch.int64
    images_of = {label: {i for i, other in enumerate(labels) if other == label} for label in set(labels) - {-1}}
    identities_seen: list[int] = []
    for batch in batches.tolist():
        groups = [batch[i : i + K] for i in range(0, P * K, K)]
        of_groups = []
        for group in groups:
            (label,) = {labels[image] for image in group}  # K side by side are of one identity
            of_groups.append(label)
            assert label >= 0
            assert len(set(group)) == min(K, len(images_of[label]))
            assert max(Counter(group).values()) <= -(-K // len(images_of[label]))
        times = Counter(of_groups)
        assert len(times) == min(P, len(images_of))
        assert max(times.values()) - min(times.values()) <= (len(images_of) < P)
        identities_seen += of_groups
    times = Counter(identities_seen)
    most, least = max(times.values()), min(times[label] for label in images_of)
    assert most - least <= 1  # nobody comes a second time before everybody came once


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_an_identity_shows_all_its_images_before_one_comes_again(size, K, seed):
    visits = max(1, size // K)
    shown = identity_batches(torch.zeros(size, dtype=torch.long), 1, K, visits, drawn(seed)).flatten()
    if size >= K:
        assert len(shown.unique()) == visits * K


def test_images_and_identities_come_equally_often():
    labels = torch.arange(60) % 6
    batches = identity_batches(labels, 4, 3, 3000, drawn())
    assert torch.bincount(batches.flatten()).float().std() < 0.05 * 600
    pairs = Counter(tuple(sorted({int(labels[i]) for i in batch})) for batch in batches)
    assert len(pairs) == 15  # every four of six meet


def test_any_order_type_and_numbering_of_labels_will_do():
    labels = torch.tensor([5, -1, 900, 5, 3, 900, -1, 3], dtype=torch.int32)
    batches = identity_batches(labels, 3, 2, 10, drawn())
    assert set(batches.flatten().tolist()) == {0, 2, 3, 4, 5, 7}


def test_the_generator_alone_decides():
    labels = torch.arange(200) % 17
    first, again, other = (identity_batches(labels, 8, 4, 20, drawn(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_identity_is_an_error():
    for labels in (torch.full((4,), -1), torch.zeros(0, dtype=torch.long)):
        with pytest.raises(InputError, match="has an identity"):
            identity_batches(labels, 4, 4, 10, drawn())


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


def operations(images: int, identities: int, iterations: int) -> int:
    with Operations() as asked:
        identity_batches(torch.arange(images) % identities, 16, 4, iterations, drawn())
    return asked.count


def test_an_epoch_of_market1501_is_drawn_at_once():
    """No loop over images, identities or steps: whole-array operations, some for each round of all identities."""
    assert operations(12_936, 751, 400) < 400
    assert operations(12_936, 751, 40) == operations(1_502, 751, 40) == operations(1_502, 751, 20)  # all in one round


@needs_gpu
def test_the_device_of_the_labels_does_not_matter():
    labels = torch.arange(500) % 31 - 1
    here, there = (identity_batches(where, 8, 4, 50, drawn()) for where in (labels, labels.cuda()))
    assert there.is_cuda
    assert torch.equal(here, there.cpu())
