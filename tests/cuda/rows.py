"""Distinct sparse rows to measure distances of, on the grid of soft labels."""

from __future__ import annotations

import numpy as np

from rapids_slr.kernels.core_distances import Pairs, Rows, rows_by_column_cpu

GRID = 2**26


def csr(x_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    rows, columns = np.nonzero(x_RC)
    indptr = np.searchsorted(rows, np.arange(len(x_RC) + 1)).astype(np.int64)
    return indptr, columns.astype(np.int32), np.asarray(x_RC, np.float64)[rows, columns], x_RC.shape[1]


def few_entries(seed: int, R: int, C: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one to three entries, most pairs without a common column, and counts up to 12."""
    rng = np.random.default_rng(seed)
    x_RC = np.zeros((R, C))
    for r in range(R):
        columns = rng.choice(C, rng.integers(1, 4), replace=False)
        x_RC[r, columns] = rng.dirichlet(np.ones(columns.size))
    x_RC = np.unique(np.rint(x_RC * GRID) / GRID, axis=0)
    return x_RC, rng.choice([1, 1, 2, 3, 5, 12], len(x_RC)).astype(np.int64)


def quarters(seed: int, R: int, C: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of whole quarters: nearly all distances occur many times."""
    rng = np.random.default_rng(seed)
    x_RC = np.unique(rng.multinomial(4, np.full(C, 1 / C), size=R) / 4, axis=0)
    return x_RC, rng.choice([1, 1, 2, 3, 9], len(x_RC)).astype(np.int64)


def pure(seed: int, R: int, C: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one entry each: no pair shares a column."""
    rng = np.random.default_rng(seed)
    return np.diag(rng.choice([1.0, 0.5, 0.25], min(R, C))), rng.integers(1, 5, min(R, C))


KINDS = (few_entries, quarters, pure)


def on_both(x_RC: np.ndarray, device) -> tuple[Rows, Pairs]:
    """The rows ready for the CPU and for CUDA, by products of the whole matrix."""
    rows = rows_by_column_cpu(*csr(x_RC))
    whole_RC = np.rint(x_RC * GRID).astype(np.int64)
    product_RR = whole_RC @ whole_RC.T
    np.fill_diagonal(product_RR, 0)
    left, right = np.nonzero(product_RR)
    indptr = np.searchsorted(left, np.arange(len(x_RC) + 1)).astype(np.int64)
    return rows, device(Pairs(indptr, right.astype(np.int32), product_RR[left, right], rows.norm_R))


def squared_distances(x_RC: np.ndarray) -> np.ndarray:
    """(R, R), exact."""
    whole_RC = np.rint(x_RC * GRID).astype(np.int64)
    return ((whole_RC[:, None] - whole_RC) ** 2).sum(axis=2) / GRID**2
