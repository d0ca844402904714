from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.kernels import runtime, shared_columns
from rapids_slr.kernels.shared_columns import pairs_sharing_columns


def csr(value_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(value_RC)
    indptr = np.searchsorted(rows, np.arange(len(value_RC) + 1)).astype(np.int64)
    return indptr, columns.astype(np.int32), value_RC[rows, columns].astype(np.int64)


def pair_by_pair(value_RC: np.ndarray, combine: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by Python's numbers."""
    R = len(value_RC)
    shared_RR = np.zeros((R, R), np.int64)
    busy = np.flatnonzero(value_RC.any(axis=1))
    for i in busy:
        for j in busy:
            for v, w in zip(value_RC[i].tolist(), value_RC[j].tolist(), strict=True):
                if i != j:
                    shared_RR[i, j] += min(v, w) if combine == "min" else v * w
    return csr(shared_RR)


def matrix(seed: int, R: int, C: int, share: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((R, C)) < share, rng.integers(1, 2**26, (R, C)), 0)


def check(value_RC, combine, device, host):
    found = host(pairs_sharing_columns(*device(csr(value_RC)), value_RC.shape[1], combine))
    for result, expected in zip(found, pair_by_pair(value_RC, combine), strict=True):
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("combine", ["min", "product"])
@pytest.mark.parametrize(("R", "C", "share"), [(33, 12, 0.1), (40, 60, 0.03), (9, 3, 1.0)])
def test_equals_all_pairs(R, C, share, combine, device, host):
    value_RC = matrix(R, R, C, share)
    assert share == 1 or 0 < pair_by_pair(value_RC, combine)[1].size < R * (R - 1) / 2
    check(value_RC, combine, device, host)


@pytest.mark.parametrize(("threads", "lanes", "blocks"), [(1, 32, 3), (4, 2, 1), (8, 2, 50), (4, 1, 2)])
def test_blocks_and_threads_of_any_number(threads, lanes, blocks, device, host, monkeypatch):
    """Several rows to a block, several groups of lanes, more blocks than rows."""
    monkeypatch.setattr(runtime, "THREADS", threads)
    if runtime.SIMULATED:  # compiled kernels hold the constant
        monkeypatch.setattr(shared_columns, "LANES", lanes)
    monkeypatch.setattr(shared_columns, "BLOCKS", blocks)
    check(matrix(3, 37, 20, 0.1), "min", device, host)


def test_one_block_where_space_is_short(device, host, monkeypatch):
    monkeypatch.setattr(shared_columns, "SPACE", 1)
    check(matrix(4, 35, 20, 0.1), "product", device, host)


def test_the_largest_values_do_not_overflow(device, host):
    """Weights of rows that sum to 1, as multiples of 2^-40, and products of labels as multiples of 2^-26."""
    check(np.array([[2**40, 0], [2**40 - 1, 1], [0, 2**40]]), "min", device, host)
    check(np.array([[2**26, 0], [2**26 - 1, 1], [0, 2**26]]), "product", device, host)


@pytest.mark.parametrize("value_RC", [np.zeros((0, 3)), np.zeros((5, 3)), np.ones((1, 1)), np.eye(6)])
def test_no_pair_at_all(value_RC, device, host):
    indptr, indices, values = host(pairs_sharing_columns(*device(csr(value_RC)), value_RC.shape[1], "min"))
    np.testing.assert_array_equal(indptr, np.zeros(len(value_RC) + 1))
    assert indices.size == values.size == 0


def test_empty_rows_between_others(device, host):
    value_RC = matrix(5, 66, 12, 0.1)
    value_RC[[0, 13, 14, 31, 32, 65]] = 0
    value_RC[:, [0, 5, 11]] = 0
    check(value_RC, "min", device, host)


def test_marks_of_more_rows_than_a_word_of_marks_has(device, host):
    """1,100 rows are 35 words of marks, which take two words above them; shares of the threads end within either."""
    value_RC = np.zeros((1100, 12), np.int64)
    few = np.random.default_rng(6).choice(1100, 40, replace=False)
    few[:4] = 0, 1023, 1024, 1099
    value_RC[np.unique(few)] = matrix(7, len(np.unique(few)), 12, 0.2)
    check(value_RC, "min", device, host)


def test_sums_that_are_too_small_are_left_out(device, host):
    value_RC = matrix(8, 40, 9, 0.4)
    indptr, indices, values = pair_by_pair(value_RC, "min")
    least = int(np.median(values))
    found = pairs_sharing_columns(*device(csr(value_RC)), 9, "min", least)
    kept = values >= least
    row_E = np.repeat(np.arange(40), np.diff(indptr))
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(host(found.indptr), np.searchsorted(row_E[kept], np.arange(41)))
    np.testing.assert_array_equal(host(found.indices), indices[kept])
    np.testing.assert_array_equal(host(found.values), values[kept])


def test_some_rows_with_all_others(device, host):
    value_RC = matrix(9, 40, 9, 0.4)
    indptr, indices, values = pair_by_pair(value_RC, "min")
    row_R = np.array([39, 0, 17], np.int32)
    found = pairs_sharing_columns(*device(csr(value_RC)), 9, "min", 0, device(row_R))
    for r, i in enumerate(row_R):
        mine, its = slice(*host(found.indptr)[r : r + 2]), slice(indptr[i], indptr[i + 1])
        np.testing.assert_array_equal(host(found.indices)[mine], indices[its])
        np.testing.assert_array_equal(host(found.values)[mine], values[its])
