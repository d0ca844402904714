"""Randomness depends on its purpose and nothing else."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rapids_slr.seeds import generator

PURPOSES = st.tuples(st.integers(0, 2**31), st.text(max_size=8), st.integers(0, 100))


@given(PURPOSES)
def test_the_same_purpose_draws_the_same(purpose):
    assert torch.equal(torch.rand(3, generator=generator(*purpose)), torch.rand(3, generator=generator(*purpose)))


@given(PURPOSES, PURPOSES)
def test_another_purpose_draws_something_else(one, other):
    drawn = torch.rand(3, generator=generator(*one)), torch.rand(3, generator=generator(*other))
    assert torch.equal(*drawn) == (one == other)
