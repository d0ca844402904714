"""Overlap, projection and soft labels against dense matrices and plain loops."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from rapids_slr.refinement.slr.estimator import SLR
from rapids_slr.refinement.slr.overlap import overlap
from rapids_slr.refinement.slr.projection import project
from rapids_slr.refinement.slr.soft_labels import soft_labels
from tests.reference import slr as reference
from tests.refinement.slr.cases import label_pair

LABELS = arrays(np.int32, (2, 14), elements=st.integers(-1, 4))


def dense(indptr, indices, values, columns):
    out = np.zeros((len(indptr) - 1, columns))
    out[np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), indices] = values
    return out


@given(LABELS)
@example(np.full((2, 14), -1, np.int32))
def test_overlap_counts_every_pair(labels):
    before, now = labels
    found = overlap(before, now)
    P, K = before.max() + 1, now.max() + 1
    pairs = sorted(zip(before.tolist(), now.tolist(), strict=True))
    assert list(zip(found.before_Q, found.now_Q, strict=True)) == sorted(set(pairs))
    assert found.count_Q.tolist() == [pairs.count(pair) for pair in sorted(set(pairs))]
    assert_array_equal(found.before_Q[found.pair_N], before)
    assert_array_equal(found.now_Q[found.pair_N], now)
    assert found.size_P.tolist() == [(before == a).sum() for a in range(P)]
    assert_array_equal(
        dense(*found.shared, K), [[((before == a) & (now == b)).sum() for b in range(K)] for a in range(P)]
    ) if P and K else None


@given(LABELS)
@example(np.full((2, 14), -1, np.int32))
@example(np.zeros((2, 14), np.int32))
def test_projection_equals_plain_loops(labels):
    P, K = labels.max(axis=1) + 1
    assert_allclose(dense(*project(overlap(*labels)), K), reference.projection(*labels, P, K), atol=1e-12)


@given(LABELS, st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]), st.sampled_from(["project", "drop"]))
@example(np.array([[0] * 7 + [1] * 7, [-1] * 14], np.int32), 0.5, "project")
def test_soft_labels_equal_the_dense_blend(labels, alpha, outliers):
    before, now = labels
    shared = overlap(before, now)
    soft = soft_labels(shared, project(shared), alpha, outliers)
    rows = np.concatenate([dense(soft.indptr, soft.indices, soft.values, now.max() + 1), np.zeros((1, now.max() + 1))])
    row_N = soft.row_Q[shared.pair_N]
    assert_allclose(rows[row_N], reference.soft_labels(before, now, alpha, outliers), atol=2**-26)
    assert len(np.unique(rows[:-1], axis=0)) == len(rows) - 1  # distinct
    assert soft.count_R.tolist() == np.bincount(row_N[row_N >= 0], minlength=len(rows) - 1).tolist()


@given(LABELS, st.floats(0, 1))
def test_soft_rows_sum_to_one_or_are_empty(labels, alpha):
    slr = SLR(alpha=alpha)
    slr.update(labels[0])
    refined = slr.update(labels[1])
    total = np.asarray(refined.soft.sum(axis=1)).ravel()
    left_out = refined.rows.row_of_image < 0
    assert_allclose(total, np.where(left_out, 0, 1), atol=1e-6)


@given(LABELS)
def test_projecting_a_clustering_onto_itself_is_the_identity(labels):
    labels = np.unique(labels[0], return_inverse=True)[1] - 1
    slr = SLR()
    slr.update(labels)
    assert_array_equal(slr.update(labels).projection, np.eye(labels.max() + 1))


def test_alpha_one_gives_back_the_current_clusters():
    before, now = label_pair(np.random.default_rng(0), 300, 12)
    slr = SLR(alpha=1, outliers="drop")
    slr.update(before)
    assert_array_equal(slr.update(now).soft.toarray(), reference.one_hot(now, now.max() + 1))


def test_different_pairs_with_one_soft_label_are_one_row():
    """Both old clusters went into one new cluster as a whole: nothing tells their images from new ones."""
    slr = SLR()
    slr.update([0, 0, 1, 1, -1])
    refined = slr.update([0, 0, 0, 0, 0])
    assert refined.rows.counts.tolist() == [5]
    assert refined.projection.tolist() == [[1.0], [1.0]]
    assert refined.overlap.tolist() == [[2], [2]]


def test_soft_labels_by_hand():
    """IoU of old 0 with new 0 is 2/3, with new 1 is 1/4; of old 1 with new 1 it is 2/3."""
    slr = SLR(alpha=0.6)
    slr.update([0, 0, 0, 1, 1])
    refined = slr.update([0, 0, 1, 1, 1])
    assert_allclose(refined.projection, [[10 / 13, 3 / 13], [0, 1]])
    assert_allclose(
        refined.soft.toarray()[[0, 2, 3]], [[0.6 + 4 / 13, 1.2 / 13], [4 / 13, 0.6 + 1.2 / 13], [0, 1]], atol=1e-7
    )
    assert_allclose(refined.confidence, [0.6 + 4 / 13] * 2 + [0.6 + 1.2 / 13] + [1, 1], atol=1e-7)


@pytest.mark.parametrize("alpha", [0.2, 0.5])
def test_left_out_images_have_no_row(alpha):
    """Out in both epochs, or out now with a cluster that has no heir."""
    slr = SLR(alpha=alpha)
    slr.update([-1, 0, 0, 1])
    refined = slr.update([-1, -1, -1, 0])
    assert refined.rows.row_of_image.tolist() == [-1, -1, -1, 0]
    assert refined.soft.toarray().tolist() == [[0], [0], [0], [1]]
    assert refined.confidence.tolist() == [0, 0, 0, 1]
    assert refined.projection.tolist() == [[0], [1]]
