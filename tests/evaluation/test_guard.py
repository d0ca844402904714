"""Scores without identities equal plain ones, do not depend on the order of images, and stay in their range."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

from rapids_slr.errors import InputError
from rapids_slr.evaluation import guard
from rapids_slr.evaluation.guard import (
    head_agreement,
    neighbour_agreement,
    neighbour_lists,
    shared_neighbours,
    soft_neighbourhood_density,
)
from tests.reference import guard as plain

seeds = st.integers(0, 2**16)


def whole(seed: int, N: int, values: int, D: int = 4) -> torch.Tensor:
    """Whole-numbered features, whose products are exact; few values make ties."""
    return torch.randint(-values, values + 1, (N, D), generator=torch.Generator().manual_seed(seed)).float()


def unit_rows(seed: int, N: int, D: int = 4) -> torch.Tensor:
    return F.normalize(torch.randn(N, D, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture(params=[1, 40, 2**22])
def block(request, monkeypatch) -> int:
    """Rows of one image, of a few, and all at once."""
    monkeypatch.setattr(guard, "BLOCK", request.param)
    return request.param


# Agreement of neighbours ----------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 14), st.integers(1, 20), st.sampled_from([0, 1, 3, 100]))
@example(0, 1, 5, 3)  # an image alone
@example(0, 9, 5, 0)  # all equal
@example(0, 6, 5, 1)  # all others are neighbours
def test_agreement_equals_that_of_plain_lists(seed, N, k, values):
    one_ND, other_ND = whole(seed, N, values), whole(seed + 1, N, values)
    expected = plain.agreement(one_ND.tolist(), other_ND.tolist(), k)
    assert neighbour_agreement(one_ND, other_ND, k) == pytest.approx(expected, abs=1e-12)


def test_agreement_by_hand():
    one_ND = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), dim=1)
    assert neighbour_lists(one_ND, 1).tolist() == [[1], [0], [3], [2]]
    other_ND = one_ND[[0, 2, 1, 3]]  # the second image changes places with the third
    assert neighbour_lists(other_ND, 1).tolist() == [[2], [3], [0], [1]]
    assert neighbour_agreement(one_ND, other_ND, 1) == 0
    half_ND = torch.cat([one_ND[:2], F.normalize(torch.tensor([[1.0, -0.5], [1.0, 0.7]]), dim=1)])
    assert neighbour_lists(half_ND, 1).tolist() == [[1], [0], [0], [1]]
    assert neighbour_agreement(one_ND, half_ND, 1) == 0.5


def test_blocks_of_any_size_give_the_same(block):
    one_ND, other_ND = whole(3, 60, 3), whole(4, 60, 3)
    expected = plain.agreement(one_ND.tolist(), other_ND.tolist(), 7)
    assert neighbour_agreement(one_ND, other_ND, 7) == pytest.approx(expected, abs=1e-12)
    assert soft_neighbourhood_density(one_ND, 5.0) == pytest.approx(plain.density(one_ND.tolist(), 5.0), rel=1e-5)


@given(seeds, st.integers(1, 14), st.integers(1, 20), st.sampled_from([0, 1, 3, 100]))
def test_the_order_of_images_changes_nothing_and_the_range_is_kept(seed, N, k, values):
    one_ND, other_ND = whole(seed, N, values), whole(seed + 1, N, values)
    order_N = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    found = neighbour_agreement(one_ND, other_ND, k)
    assert neighbour_agreement(one_ND[order_N], other_ND[order_N], k) == pytest.approx(found, abs=1e-12)
    assert neighbour_agreement(other_ND, one_ND, k) == found
    assert 0 <= found <= 1


@given(seeds, st.integers(3, 30), st.integers(1, 5))
def test_features_agree_with_themselves_turned_in_space(seed, N, k):
    rows_ND = unit_rows(seed, N)
    turned_DD, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)))
    found = neighbour_agreement(rows_ND, rows_ND @ turned_DD, k)
    assert found == pytest.approx(1.0, abs=2 / (N * min(k, N - 1)))  # a pair that ties but for rounding may go


def test_unrelated_features_agree_by_chance():
    N, k = 400, 20
    assert neighbour_agreement(unit_rows(0, N), unit_rows(1, N), k) == pytest.approx(k / (N - 1), abs=0.01)


def test_a_collapsed_network_agrees_with_nothing_not_even_with_itself():
    """Rounding, of another order in a block's last rows, must not make neighbours either."""
    noise_ND = torch.randn(50, 96, generator=torch.Generator().manual_seed(0))
    rows_ND = F.normalize(0.3 + 1e-5 * noise_ND, dim=1)
    assert neighbour_agreement(rows_ND, rows_ND, 10) == 0
    assert neighbour_lists(rows_ND, 10).eq(-1).all()


def test_no_images_and_one_have_nothing_in_common():
    for N in (0, 1):
        rows_ND = torch.ones(N, 1)
        assert neighbour_agreement(rows_ND, rows_ND, 3) == 0
        assert soft_neighbourhood_density(rows_ND) == 0
        assert neighbour_lists(rows_ND, 3).shape == (N, 0)


def test_empty_places_are_not_in_common():
    assert shared_neighbours(torch.tensor([[1, -1], [-1, -1]]), torch.tensor([[-1, 1], [-1, -1]])) == 0.25


# Heads ----------------------------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 12), st.integers(1, 6), st.integers(1, 3))
@example(0, 1, 2, 2)
def test_agreement_of_heads_equals_that_of_plain_lists(seed, N, k, heads):
    rows_ND = torch.randn(N, 4 * heads, generator=torch.Generator().manual_seed(seed))
    found = head_agreement(rows_ND, heads, k)
    assert found == pytest.approx(plain.head_agreement(rows_ND.tolist(), heads, k), abs=1e-9)
    assert 0 <= found <= 1


def test_heads_that_are_alike_agree_whatever_their_scale():
    rows_ND = unit_rows(0, 20)
    assert head_agreement(torch.cat([rows_ND, 3 * rows_ND], dim=1), 2, 4) == 1
    apart = head_agreement(torch.cat([rows_ND, rows_ND, unit_rows(1, 20)], dim=1), 3, 4)
    assert apart == pytest.approx((1 + 2 * neighbour_agreement(rows_ND, unit_rows(1, 20), 4)) / 3)


# Density --------------------------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 20), st.sampled_from([0.05, 0.3, 2.0]))
@example(0, 2, 0.05)
def test_density_equals_a_plain_one_in_any_order(seed, N, temperature):
    rows_ND = unit_rows(seed, N)
    found = soft_neighbourhood_density(rows_ND, temperature)
    assert found == pytest.approx(plain.density(rows_ND.tolist(), temperature), rel=1e-4, abs=1e-5)
    order_N = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    assert soft_neighbourhood_density(rows_ND[order_N], temperature) == pytest.approx(found, rel=1e-4, abs=1e-5)
    assert 0 <= found <= math.log(max(N - 1, 1)) + 1e-5


def test_equal_features_are_the_densest_and_clear_pairs_the_least():
    assert soft_neighbourhood_density(torch.ones(9, 1)) == pytest.approx(math.log(8))
    pairs_ND = torch.eye(10).repeat(2, 1)
    assert soft_neighbourhood_density(pairs_ND) == pytest.approx(0, abs=1e-5)
    fives_ND = torch.eye(4).repeat(5, 1)
    assert soft_neighbourhood_density(fives_ND) == pytest.approx(math.log(4), abs=1e-5)


# Bad input ------------------------------------------------------------------------------------------------------------


def test_faults_are_named():
    rows_ND = unit_rows(0, 6)
    with pytest.raises(InputError, match="expected as many rows, got 6 and 5"):
        neighbour_agreement(rows_ND, rows_ND[:5], 2)
    with pytest.raises(InputError, match="expected 1 neighbour or more, got 0"):
        neighbour_agreement(rows_ND, rows_ND, 0)
    with pytest.raises(InputError, match=r"expected \(N, D\) float, got \(6,\)"):
        neighbour_lists(rows_ND[:, 0], 2)
    with pytest.raises(InputError, match="4 columns do not part into 3 heads"):
        head_agreement(rows_ND, 3, 2)
    with pytest.raises(InputError, match="above 0, got 0"):
        soft_neighbourhood_density(rows_ND, 0)
    with pytest.raises(InputError, match=r"got \(6, 2\) and \(6, 3\)"):
        shared_neighbours(neighbour_lists(rows_ND, 2), neighbour_lists(rows_ND, 3))
    rows_ND[4, 1] = torch.nan
    for score in (lambda: neighbour_lists(rows_ND, 2), lambda: soft_neighbourhood_density(rows_ND)):
        with pytest.raises(InputError, match="1 of 6 rows are not finite"):
            score()
