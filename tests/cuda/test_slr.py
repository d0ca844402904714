"""SLR from labels to refined labels over CUDA kernels, against the CPU engine and dense one-hot matrices."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
import torch

from rapids_slr.errors import InputError
from rapids_slr.kernels import runtime
from rapids_slr.refinement import SLR
from rapids_slr.refinement.slr import estimator as module
from tests.cuda.cases import assert_same
from tests.reference import slr as reference
from tests.refinement.slr.cases import canonical, label_pair

SIMULATED = runtime.SIMULATED
HARD = ["hdbscan", "argmax", "dbscan", "none"]
LARGE = 7  # entries from which a matrix is sparse in some of the tests


def to_numpy(x):
    """A NumPy array of an array or a matrix of any library."""
    for step in ("toarray", "to_dense", "cpu", "numpy", "get"):
        x = getattr(x, step)() if hasattr(x, step) else x
    return np.asarray(x)


def contents(refined):
    """Everything a refinement gives, as NumPy."""
    parts = (
        refined.hard,
        refined.soft,
        refined.projection,
        refined.overlap,
        refined.confidence,
        refined.rows.matrix,
        refined.rows.counts,
        refined.rows.row_of_image,
    )
    return (*map(to_numpy, parts), np.array(refined.rescued))


def epochs(labels, **settings):
    slr = SLR(**settings)
    return [contents(slr.update(labels_N)) for labels_N in labels]


@pytest.fixture
def by_cpu(monkeypatch):
    """Runs the epochs on the CPU engine, in the simulator too."""

    def run(labels, **settings):
        with monkeypatch.context() as patched:
            patched.setattr(runtime, "SIMULATED", False)
            return epochs(labels, **settings)

    return run


def several_epochs(rng, N):
    first, second = label_pair(rng, N, 5, 0.3, 0.2)
    return [first, second, label_pair(rng, N, 3, 0.4, 0.3)[0]]


@pytest.mark.parametrize(
    ("case", "settings"),
    list(enumerate(product(HARD, ["drop", "argmax"], ["project", "drop"], ["clusters", "refined"]))),
)
def test_every_setting_equals_the_cpu_over_epochs(case, settings, device, by_cpu):
    hard, noise, outliers, memory = settings
    rng = np.random.default_rng(case)
    labels = several_epochs(rng, 18)
    settings = {"hard": hard, "noise": noise, "outliers": outliers, "memory": memory}
    settings |= {"alpha": float(rng.choice([0.0, 0.3, 0.5, 0.7, 1.0])), "min_cluster_size": 2 + case % 3}
    for found, expected in zip(
        epochs([device(x) for x in labels], **settings), by_cpu(labels, **settings), strict=True
    ):
        assert_same(found, expected)


def test_several_clusterings_equal_the_cpu(device, by_cpu, monkeypatch):
    labels = several_epochs(np.random.default_rng(7), 18)
    others = [label_pair(np.random.default_rng(8), 18, 4, 0.4, 0.3)[0] for _ in range(2)]
    found = contents(SLR(min_cluster_size=3).update(device(labels[0]), [device(x) for x in others]))
    monkeypatch.setattr(runtime, "SIMULATED", False)
    assert_same(found, contents(SLR(min_cluster_size=3).update(labels[0], others)))


@pytest.mark.parametrize("outliers", ["project", "drop"])
def test_soft_labels_equal_one_hot_matrices(outliers, device):
    before_N, now_N = label_pair(np.random.default_rng(0), 40, 6, 0.4, 0.3)
    P, K = before_N.max() + 1, now_N.max() + 1
    settings = {"alpha": 0.3, "outliers": outliers, "hard": "none"}
    hard_N, soft, projection, overlap, confidence, *_ = epochs(device((before_N, now_N)), **settings)[1]
    expected = reference.soft_labels(before_N, now_N, 0.3, outliers)
    np.testing.assert_allclose(soft, expected, rtol=0, atol=2**-23)
    np.testing.assert_allclose(projection, reference.projection(before_N, now_N, P, K), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(overlap, reference.one_hot(before_N, P).T @ reference.one_hot(now_N, K))
    np.testing.assert_allclose(confidence, expected.max(axis=1), rtol=0, atol=2**-23)
    clear = np.sort(expected, axis=1)[:, -1] > np.sort(expected, axis=1)[:, -2] + 1e-6
    np.testing.assert_array_equal(hard_N[clear], expected.argmax(axis=1)[clear])


@pytest.mark.parametrize("noise", ["drop", "argmax"])
@pytest.mark.parametrize("hard", HARD)
def test_neither_the_order_of_images_nor_the_numbers_of_clusters_matter(hard, noise, device):
    rng = np.random.default_rng(HARD.index(hard))
    before_N, now_N = label_pair(rng, 24, 4, 0.4, 0.2)
    order = rng.permutation(24)
    renumbered = [np.append(rng.permutation(x.max() + 1), -1)[x][order].astype(np.int32) for x in (before_N, now_N)]
    settings = {"hard": hard, "noise": noise, "min_cluster_size": 3}
    expected = epochs(device((before_N, now_N)), **settings)[1][0]
    found = epochs(device(tuple(renumbered)), **settings)[1][0]
    assert canonical(expected[order]) == canonical(found)


@pytest.mark.parametrize("hard", ["hdbscan", "argmax"])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([0] * 6 + [1] * 6, [-1] * 12),
        ([-1] * 12, [0] * 6 + [1] * 6),
        ([-1] * 12, [-1] * 12),
        ([0] * 12, [0] * 12),
        ([5] * 6 + [2] * 6, [3] * 6 + [1] * 6),
        ([0], [0]),
        ([-1], [0]),
        ([], []),
    ],
)
def test_corner_cases_equal_the_cpu(before, now, hard, device, by_cpu):
    labels = [np.array(x, np.int32) for x in (before, now, before)]
    settings = {"hard": hard, "noise": "argmax", "min_cluster_size": 4}
    for found, expected in zip(
        epochs([device(x) for x in labels], **settings), by_cpu(labels, **settings), strict=True
    ):
        assert_same(found, expected)


def test_large_matrices_are_sparse(device, by_cpu, monkeypatch):
    labels = label_pair(np.random.default_rng(3), 20, 5)
    expected = by_cpu(labels, hard="argmax")[1]
    monkeypatch.setattr(module, "DENSE", LARGE)
    slr = SLR(hard="argmax")
    slr.update(device(labels[0]))
    refined = slr.update(device(labels[1]))
    assert hasattr(refined.projection, "indptr")
    np.testing.assert_array_equal(to_numpy(refined.projection), expected[2])
    np.testing.assert_array_equal(to_numpy(refined.overlap), expected[3])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int8, torch.float32])
def test_torch_in_torch_out(dtype, by_cpu):
    place = torch.device("cpu" if SIMULATED else "cuda")
    labels = label_pair(np.random.default_rng(0), 30, 4)
    slr = SLR(hard="argmax")
    slr.update(torch.from_numpy(labels[0]).to(place, dtype))
    refined = slr.update(torch.from_numpy(labels[1]).to(place, dtype))
    assert refined.hard.dtype == torch.int64
    for name in ("hard", "soft", "projection", "overlap", "confidence"):
        assert isinstance(getattr(refined, name), torch.Tensor)
        assert getattr(refined, name).device.type == place.type
    for one, other in zip(contents(refined), by_cpu(labels, hard="argmax")[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_goes_from_device_to_device(device, host, by_cpu):
    """Taken on the GPU and continued on the CPU, and the other way round."""
    before_N, now_N = label_pair(np.random.default_rng(1), 30, 4)
    expected = by_cpu([before_N, now_N], hard="argmax")[1][0]
    for first, second in ((device, host), (host, device), (device, device)):
        slr = SLR(hard="argmax")
        slr.update(first(before_N))
        state = slr.state_dict()
        assert isinstance(state["previous"], torch.Tensor)
        assert state["previous"].device.type == "cpu"
        np.testing.assert_array_equal(slr.update(second(now_N)).hard.tolist(), expected)  # without one, too
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        resumed = SLR(hard="argmax")
        resumed.load_state_dict(torch.load(file, weights_only=True))
        found = resumed.update(second(now_N)).hard
        assert isinstance(found, type(second(now_N)))
        np.testing.assert_array_equal(found.tolist(), expected)


def test_what_is_given_and_returned_is_not_the_memory(device):
    labels_N = device(np.repeat([0, 1], 5).astype(np.int32))
    for memory in ("clusters", "refined"):
        slr = SLR(memory=memory, hard="argmax")
        given_N = labels_N.copy()
        slr.update(given_N).hard[:] = -1
        given_N[:] = -1
        slr.state_dict()["previous"][:] = -1
        assert slr.state_dict()["previous"].tolist() == labels_N.tolist()
        assert slr.update(labels_N).projection.tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.array([0, 1, -2, -3], np.int32),
            r"labels\[2\] is -2, expected -1 \(outlier\) or a cluster from 0 \(2 such",
        ),
        (np.array([0, -5, 1.5]), r"labels\[2\] is 1.5, expected a whole number \(1 such labels\)"),
        (np.array([0, np.nan], np.float32), r"labels\[1\] is nan, expected a whole number"),
        (np.array([0, 2**40]), r"labels\[1\] is 1099511627776, expected below 16777216"),
        (np.array([0, 2**64 - 1], np.uint64), r"labels\[1\] is 18446744073709551615, expected below 16777216"),
        (np.array([0, -7], np.int8), r"labels\[1\] is -7, expected -1"),
        (np.array([[0]]), r"labels: expected \(N,\) integers, got shape \(1, 1\)"),
    ],
)
def test_the_first_label_that_cannot_be_used_is_named(labels, message, device):
    with pytest.raises(InputError, match=message):
        SLR().update(device(labels))
