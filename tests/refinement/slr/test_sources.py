"""Several clusterings of one epoch, projected together, against plain loops over images."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from rapids_slr.errors import InputError
from rapids_slr.refinement import SLR
from rapids_slr.refinement.slr.sources import combine
from tests.reference import hdbscan as reference_hdbscan
from tests.reference import slr as reference
from tests.refinement.slr.cases import canonical, label_pair

LABELS = arrays(np.int32, (4, 13), elements=st.integers(-1, 3))
HARD = ["hdbscan", "argmax", "dbscan", "none"]


def dense(indptr, indices, values, columns):
    out = np.zeros((len(indptr) - 1, columns))
    out[np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), indices] = values
    return out


@given(LABELS, st.integers(1, 3))
@example(np.full((4, 13), -1, np.int32), 3)
@example(np.array([[-1] * 13, [-1] * 13, [-1] * 13, [0] * 13], np.int32), 3)  # outliers everywhere but now
@example(np.array([[0] * 13, [-1] * 13, [1] * 13, [-1] * 13], np.int32), 3)  # clusters without an heir
def test_combinations_are_projected_to_the_mean(labels, count):
    sources, now = list(labels[:count]), labels[3]
    shared, projection = combine(sources, now)
    rows = np.vstack([dense(*projection, now.max() + 1), np.zeros((1, now.max() + 1))])
    combination_N = shared.before_Q[shared.pair_N]
    assert_allclose(rows[combination_N], reference.mean_projection(sources, now), atol=1e-12)
    assert_array_equal(combination_N < 0, np.all(np.array(sources) < 0, axis=0))
    assert_array_equal(shared.now_Q[shared.pair_N], now)
    starts, indices, _ = projection
    assert all((np.diff(indices[a:b]) > 0).all() for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("seed", range(10))
def test_equals_hdbscan_on_all_images(seed):
    rng = np.random.default_rng(seed)
    before, now = label_pair(rng, 90, 6, outliers=0.3)
    others = [label_pair(np.random.default_rng(seed), 90, 6, 0.4)[0], label_pair(rng, 90, 4)[1]]
    alpha = float(rng.choice([0.3, 0.6]))
    slr = SLR(alpha=alpha, min_cluster_size=5)
    slr.update(before)
    refined = slr.update(now, others)
    soft = reference.soft_labels_of_several([before, *others], now, alpha)
    assert_allclose(refined.soft.toarray(), soft, atol=1e-6)
    kept = soft.sum(axis=1) > 0
    expected = np.full(90, -1)
    # Entries meet the grid of soft labels in another order of sums, so rows that differ by rounding are made equal.
    expected[kept] = reference_hdbscan.hdbscan(np.rint(soft[kept] * 2**26) / 2**26, 5, 5)
    assert canonical(refined.hard) == canonical(expected)


@pytest.mark.parametrize("hard", HARD)
def test_neither_the_order_of_images_nor_the_numbers_of_clusters_matter(hard):
    rng = np.random.default_rng(HARD.index(hard))
    for _ in range(40):
        labels = [*label_pair(rng, 80, int(rng.integers(2, 9))), *label_pair(rng, 80, 5)]
        order = rng.permutation(80)
        renumbered = [np.append(rng.permutation(x.max() + 1), -1)[x][order].astype(np.int32) for x in labels]
        results = []
        for before, now, *others in (labels, renumbered):
            slr = SLR(hard=hard, min_cluster_size=4)
            slr.update(before)
            results.append(slr.update(now, others).hard)
        assert canonical(results[0][order]) == canonical(results[1])


def test_last_epoch_is_one_of_several():
    """A clustering given as another one counts as one remembered."""
    before, now = label_pair(np.random.default_rng(0), 120, 6)
    remembering = SLR()
    remembering.update(before)
    assert_array_equal(SLR().update(now, [before]).soft.toarray(), remembering.update(now).soft.toarray())


def test_others_refine_the_first_epoch_and_are_forgotten():
    before, now = label_pair(np.random.default_rng(1), 120, 6)
    slr = SLR()
    first = slr.update(now, [before])
    assert first.rescued > 0
    assert first.projection.shape == (0, now.max() + 1)
    assert_array_equal(slr.state_dict()["previous"], now)


def test_torch_in_torch_out():
    labels = [torch.from_numpy(x) for x in label_pair(np.random.default_rng(2), 60, 4)]
    refined = SLR().update(labels[0], labels[1:])
    assert isinstance(refined.hard, torch.Tensor)
    assert_array_equal(refined.hard, SLR().update(labels[0].numpy(), [labels[1].numpy()]).hard)


def test_bad_others_are_named_and_the_memory_is_kept():
    slr = SLR()
    slr.update(np.zeros(9, int))
    with pytest.raises(InputError, match=r"others\[1\]: 8 images, but labels has 9"):
        slr.update(np.ones(9, int), [np.zeros(9, int), np.zeros(8, int)])
    with pytest.raises(InputError, match=r"others\[0\]\[2\] is -3"):
        slr.update(np.ones(9, int), [np.array([0, 0, -3, 0, 0, 0, 0, 0, 0])])
    assert slr.state_dict()["previous"].tolist() == [0] * 9
