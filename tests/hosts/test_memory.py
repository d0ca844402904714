"""Memories follow features as a plain loop over images does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from rapids_slr.hosts.memory import Memory, most_turns
from tests.reference import contrast as plain

M, D = 5, 4
batches = st.lists(st.integers(0, M - 1), min_size=1, max_size=12)
seeds = st.integers(0, 2**16)


def unit_rows(seed: int, rows: int) -> torch.Tensor:
    return F.normalize(torch.empty(rows, D).normal_(generator=torch.Generator().manual_seed(seed)), dim=1)


@given(seeds, batches, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_a_memory_follows_one_image_after_the_other(seed, labels, momentum):
    rows_B, features = torch.tensor(labels), unit_rows(seed + 1, len(labels))
    memory = Memory(3 * unit_rows(seed, M), momentum)
    expected = plain.followed(unit_rows(seed, M).tolist(), features.tolist(), labels, momentum)
    memory.follow(features, rows_B, most_turns(rows_B[None]))
    torch.testing.assert_close(memory.rows_MD, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@given(seeds, batches, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_a_memory_follows_the_hardest_image_alone(seed, labels, momentum):
    rows_B, features = torch.tensor(labels), unit_rows(seed + 1, len(labels))
    memory = Memory(unit_rows(seed, M), momentum)
    expected = plain.followed_hardest(unit_rows(seed, M).tolist(), features.tolist(), labels, momentum)
    memory.follow_hardest(features, rows_B)
    torch.testing.assert_close(memory.rows_MD, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_of_equally_hard_images_the_first_is_taken():
    row, one = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([0.6, 0.8, 0.0, 0.0])
    other = one[[0, 2, 1, 3]]
    memory = Memory(row, 0.0)
    memory.follow_hardest(torch.stack([one, other]), torch.tensor([0, 0]))
    torch.testing.assert_close(memory.rows_MD[0], one)


@pytest.mark.parametrize("labels", [[[0, 1, 2, 3]], [[0, 0, 1, 0], [2, 2, 2, 2]], [[1, 1], [0, 1]]])
def test_turns_are_the_most_images_that_share_a_row(labels):
    assert most_turns(torch.tensor(labels)) == max(batch.count(row) for batch in labels for row in batch)


def test_a_memory_has_no_part_in_the_arrays_it_was_made_of():
    rows = unit_rows(0, M).requires_grad_()
    memory, before = Memory(rows, 0.5), rows.detach().clone()
    memory.follow(unit_rows(1, 1), torch.tensor([2]), 1)
    assert torch.equal(rows, before)
    assert not memory.rows_MD.requires_grad
    assert ((memory.rows_MD - before).abs() > 1e-3).any(dim=1).tolist() == [False, False, True, False, False]
