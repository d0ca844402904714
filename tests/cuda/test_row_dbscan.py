from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from rapids_slr.kernels.row_dbscan import TIE, row_dbscan_cpu, row_dbscan_cuda
from tests.cuda.rows import KINDS, few_entries, on_both, quarters, squared_distances
from tests.refinement.slr.cases import canonical


def by_definition(x_RC: np.ndarray, count_R: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    d = squared_distances(x_RC)
    near = d <= eps * eps * (1 + TIE)
    core_R = near @ count_R >= min_samples
    label_R = np.full(len(d), -1)
    label_R[core_R] = connected_components(near[np.ix_(core_R, core_R)])[1]
    for r in np.flatnonzero(~core_R):
        reached = core_R & near[r]
        if reached.any():
            found = set(label_R[reached & (d[r] <= d[r][reached].min() * (1 + TIE))])
            label_R[r] = found.pop() if len(found) == 1 else -1
    return label_R


def check(x_RC, count_R, eps, min_samples, device, host):
    rows, pairs = on_both(x_RC, device)
    label_R = host(row_dbscan_cuda(pairs, device(count_R), eps, min_samples))
    assert label_R.dtype == np.int32
    assert canonical(label_R) == canonical(row_dbscan_cpu(rows, count_R, eps, min_samples))
    assert canonical(label_R) == canonical(by_definition(x_RC, count_R, eps, min_samples))
    return canonical(label_R)


@pytest.mark.parametrize("eps", [0.4, 0.75])
@pytest.mark.parametrize("min_samples", [1, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_cpu_and_the_definition(kind, min_samples, eps, device, host):
    check(*kind(2, 35, 12 if kind is few_entries else 5), eps, min_samples, device, host)


def test_rows_that_share_no_column_are_neighbours_too(device, host):
    """All norms small: many columns, each with little."""
    x_RC = np.kron(np.eye(6), np.full((1, 16), 1 / 16))  # squared norms of 1 / 16, squared distances of 1 / 8
    assert check(x_RC, np.ones(6, np.int64), 0.36, 6, device, host) == [0] * 6
    assert check(x_RC, np.ones(6, np.int64), 0.35, 2, device, host) == [-1] * 6


def on_a_line(t: list[float]) -> np.ndarray:
    """Rows between two columns, sqrt(2) apart from 0 to 1."""
    return np.array([[1 - part, part] for part in t])


def test_a_border_row_as_near_to_two_clusters_is_noise(device, host):
    x_RC, count_R = on_a_line([0, 0.25, 0.5, 0.75, 1]), np.array([9, 1, 1, 1, 9])
    assert check(x_RC, count_R, 2**0.5 / 4, 10, device, host) == [0, 0, -1, 1, 1]


def test_a_border_row_goes_to_the_nearer_cluster(device, host):
    count_R = np.array([9, 1, 1, 1, 9])
    assert check(on_a_line([0, 0.25, 0.53125, 0.75, 1]), count_R, 0.4, 10, device, host) == [0, 0, 1, 1, 1]
    assert check(on_a_line([0, 0.25, 0.46875, 0.75, 1]), count_R, 0.4, 10, device, host) == [0, 0, 0, 1, 1]


def test_order_of_rows_does_not_matter(device, host):
    x_RC, count_R = quarters(7, 40, 6)
    order = np.random.default_rng(0).permutation(len(x_RC))
    _, pairs = on_both(x_RC, device)
    _, shuffled = on_both(x_RC[order], device)
    label_R = host(row_dbscan_cuda(pairs, device(count_R), 0.5, 5))
    assert canonical(host(row_dbscan_cuda(shuffled, device(count_R[order]), 0.5, 5))) == canonical(label_R[order])
