"""SLR as users call it: the epochs, the hard steps, the laws, bad input, torch."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import issparse
from sklearn.base import clone

from rapids_slr.errors import InputError
from rapids_slr.refinement import SLR
from tests.reference import hdbscan as reference_hdbscan
from tests.reference import slr as reference
from tests.refinement.slr.cases import canonical, label_pair

HARD = ["hdbscan", "argmax", "dbscan", "none"]


def refine(before, now, **settings):
    slr = SLR(**settings)
    slr.update(before)
    return slr.update(now)


@pytest.mark.parametrize("seed", range(40))
def test_equals_hdbscan_on_all_images(seed):
    """The whole of SLR on dense soft labels, image by image."""
    rng = np.random.default_rng(seed)
    before, now = label_pair(rng, 90, int(rng.integers(3, 9)), rng.choice([0.1, 0.3]), rng.choice([0.05, 0.3]))
    alpha, outliers = float(rng.choice([0.3, 0.5, 0.8])), str(rng.choice(["project", "drop"]))
    refined = refine(before, now, alpha=alpha, outliers=outliers, min_cluster_size=5)
    soft = reference.soft_labels(before, now, alpha, outliers)
    kept = soft.sum(axis=1) > 0
    expected = np.full(90, -1)
    expected[kept] = reference_hdbscan.hdbscan(np.rint(soft[kept] * 2**26) / 2**26, 5, 5)
    assert refined.hard.tolist() == canonical(expected)  # numbered by first image, too
    assert refined.rescued == ((now < 0) & (expected >= 0)).sum()


@pytest.mark.parametrize("noise", ["drop", "argmax"])
@pytest.mark.parametrize("seed", range(12))
def test_images_without_confidence_take_no_part(seed, noise):
    """As if the others were all there is: HDBSCAN on dense soft labels, image by image."""
    rng = np.random.default_rng(seed)
    before, now = label_pair(rng, 90, int(rng.integers(3, 9)), 0.3, 0.2)
    least = float(rng.choice([0.55, 0.7, 0.8]))
    refined = refine(before, now, min_confidence=least, min_cluster_size=5, noise=noise)
    soft = np.rint(reference.soft_labels(before, now, 0.5) * 2**26) / 2**26
    kept = soft.max(axis=1).astype(np.float32) >= np.float32(least)
    assert 5 < kept.sum() < (soft.sum(axis=1) > 0).sum()
    expected = np.full(90, -1)
    expected[kept] = reference_hdbscan.hdbscan(soft[kept], 5, 5)
    assert (refined.hard[~kept] == -1).all()
    assert (refined.confidence[~kept] == 0).all()
    assert_array_equal(refined.soft.toarray()[~kept], 0)
    if noise == "drop":
        assert refined.hard.tolist() == canonical(expected)
    else:
        assert (refined.hard[kept] >= 0).all()


@pytest.mark.parametrize("noise", ["drop", "argmax"])
@pytest.mark.parametrize("hard", HARD)
def test_neither_the_order_of_images_nor_the_numbers_of_clusters_matter(hard, noise):
    """Over 200 random cases: the same partition, and the same images left out."""
    rng = np.random.default_rng(HARD.index(hard))
    for case in range(200):
        before, now = label_pair(rng, int(rng.integers(20, 200)), int(rng.integers(2, 15)))
        settings = {"hard": hard, "noise": noise, "min_cluster_size": int(rng.integers(2, 8))}
        settings |= {"alpha": float(rng.choice([0.3, 0.5, 0.5, 0.7])), "outliers": ["project", "drop"][case % 2]}
        expected = refine(before, now, **settings).hard
        order = rng.permutation(len(now))
        renumbered = [
            np.append(rng.permutation(labels.max() + 1), -1)[labels][order].astype(np.int32) for labels in (before, now)
        ]
        assert canonical(expected[order]) == canonical(refine(*renumbered, **settings).hard)


@pytest.mark.parametrize("hard", HARD)
def test_equal_labelings_are_a_fixed_point(hard):
    labels = np.repeat([0, 1, 2, -1, 3], [9, 12, 8, 5, 20])
    refined = refine(labels, labels, hard=hard)
    assert_array_equal(refined.hard, labels)
    assert refined.rescued == 0


@settings(max_examples=60)
@given(st.data())
def test_every_clustered_image_keeps_a_soft_label(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    before, now = label_pair(rng, 40, 5)
    refined = refine(before, now, hard=data.draw(st.sampled_from(HARD)))
    assert (refined.rows.row_of_image[now >= 0] >= 0).all()
    assert (refined.rows.row_of_image[refined.hard >= 0] >= 0).all()
    assert set(refined.hard[refined.hard >= 0]) <= set(range(refined.soft.shape[1] + 1))


def test_first_epoch_gives_back_the_labels():
    labels = np.array([2, 0, 0, -1, 1])
    refined = SLR().update(labels)
    assert_array_equal(refined.hard, labels)
    assert refined.projection.shape == (0, 3)
    assert_array_equal(refined.soft.toarray(), reference.one_hot(labels, 3))
    assert refined.confidence.tolist() == [1, 1, 1, 0, 1]
    assert refined.rescued == 0


def test_an_outlier_that_was_clustered_is_rescued_or_dropped():
    before, now = [0] * 9 + [1] * 9, [0] * 8 + [-1] + [1] * 9
    assert refine(before, now).hard.tolist() == before
    assert refine(before, now).rescued == 1
    assert refine(before, now, outliers="drop").hard.tolist() == now


def test_memory_of_refined_labels():
    """The rescued image is still remembered in its cluster an epoch later."""
    first, second = [0] * 9 + [1] * 9, [0] * 8 + [-1] + [1] * 9
    slr = SLR(memory="refined")
    slr.update(first)
    slr.update(second)
    assert slr.update(second).hard.tolist() == first
    slr = SLR(memory="clusters")
    slr.update(first)
    slr.update(second)
    assert slr.update(second).hard.tolist() == second


def test_changing_what_was_given_or_returned_does_not_change_the_memory():
    labels = np.repeat([0, 1], 9).astype(np.int32)
    for memory in ("clusters", "refined"):
        slr = SLR(memory=memory)
        given_labels = labels.copy()
        slr.update(given_labels).hard[:] = -1
        given_labels[:] = -1
        assert_array_equal(slr.update(labels).projection, np.eye(2))


def test_noise_joins_the_cluster_that_holds_its_raw_cluster():
    """The core distance of image 22 reaches both clusters: it joins them at one distance, and so belongs to neither."""
    before = np.repeat([0, 1, 2], [20, 3, 20])
    now = np.concatenate([[0] * 20, [0, 0, 1], [1] * 20])
    dropped, placed = refine(before, now, alpha=0.3), refine(before, now, alpha=0.3, noise="argmax")
    assert dropped.hard.tolist() == [0] * 22 + [-1] + [1] * 20
    assert placed.hard.tolist() == now.tolist()


def test_noise_without_such_a_cluster_gets_its_own():
    labels = np.repeat([0, 1, 2], [10, 10, 3])
    assert refine(labels, labels).hard.tolist() == [0] * 10 + [1] * 10 + [-1] * 3
    assert refine(labels, labels, noise="argmax").hard.tolist() == labels.tolist()


def test_argmax_ties_go_to_the_current_cluster_and_torn_outliers_are_left_out():
    before = [0, 0, 0, 0, 0, 1, 1]
    now = [0, 0, 1, 1, -1, 2, 2]
    refined = refine(before, now, hard="argmax")
    assert refined.hard.tolist() == [0, 0, 1, 1, -1, 2, 2]
    assert refine(before, [0, 0, 0, 1, -1, 2, 2], hard="argmax").hard.tolist() == [0, 0, 0, 1, 0, 2, 2]


def test_low_alpha_returns_to_the_old_cluster():
    before, now = [0] * 9 + [1] * 9, [0] * 8 + [1] * 10
    assert refine(before, now, alpha=0.2, hard="argmax").hard.tolist() == before
    assert refine(before, now, alpha=0.8, hard="argmax").hard.tolist() == now


def test_hard_none_keeps_the_numbers_of_the_clusters():
    before, now = [0] * 4 + [1] * 4, [1] * 4 + [0] * 4
    assert refine(before, now, hard="none").hard.tolist() == now


def test_dbscan_joins_pure_and_nearly_pure_labels():
    before = np.repeat([0, 1, 2], [20, 2, 20])
    now = np.repeat([0, 0, 1], [20, 2, 20])
    assert refine(before, now, hard="dbscan").hard.tolist() == now.tolist()


def test_all_outliers_and_back():
    slr = SLR()
    slr.update([0] * 8 + [1] * 8)
    refined = slr.update([-1] * 16)
    assert refined.hard.tolist() == [-1] * 16
    assert refined.soft.shape == (16, 0)
    assert refined.projection.shape == (2, 0)
    assert slr.update([0] * 8 + [1] * 8).hard.tolist() == [0] * 8 + [1] * 8


def test_one_cluster():
    assert refine([0] * 10, [0] * 10).hard.tolist() == [0] * 10
    assert refine([0] * 5 + [1] * 5, [0] * 10).hard.tolist() == [0] * 10


def test_no_images():
    assert refine([], []).hard.shape == (0,)


def test_tenfold_change_of_the_number_of_clusters():
    rng = np.random.default_rng(0)
    many, few = np.arange(2000) // 10, np.arange(2000) // 100
    for before, now in ((many, few), (few, many), (rng.permutation(2000), few)):
        hard = refine(before, now, min_cluster_size=5).hard
        assert hard.min() >= 0
        assert hard.shape == (2000,)
    assert canonical(refine(many, few, min_cluster_size=5).hard) == canonical(few)


def test_large_matrices_are_sparse():
    labels = np.arange(3000) // 2
    refined = refine(labels, labels)
    assert issparse(refined.projection)
    assert issparse(refined.overlap)
    assert refined.projection.shape == (1500, 1500)
    assert (refined.projection.diagonal() == 1).all()


def test_gaps_in_the_numbering_are_empty_clusters():
    refined = refine(np.repeat([0, 5], 9), np.repeat([3, 1], 9))
    assert refined.hard.tolist() == [0] * 9 + [1] * 9
    assert refined.soft.shape == (18, 4)
    assert refined.projection.shape == (6, 4)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.float32, np.float64])
def test_other_types_and_strides_are_converted(dtype):
    labels = np.repeat(np.arange(3), 20).astype(dtype)[::2]
    assert refine(labels, labels).hard.tolist() == np.repeat(np.arange(3), 10).tolist()


def test_torch_in_torch_out():
    before, now = label_pair(np.random.default_rng(0), 200, 8)
    ours = refine(before, now)
    theirs = refine(torch.from_numpy(before).long(), torch.from_numpy(now).long())
    for name in ("hard", "confidence", "projection", "overlap"):
        assert isinstance(getattr(theirs, name), torch.Tensor)
        assert_array_equal(getattr(theirs, name).numpy(), getattr(ours, name))
    assert theirs.hard.dtype == torch.int64
    assert theirs.soft.layout == torch.sparse_csr
    assert_array_equal(theirs.soft.to_dense().numpy(), ours.soft.toarray())
    row_of_image = theirs.rows.row_of_image.numpy()
    kept = row_of_image >= 0
    assert_array_equal(theirs.rows.to_dense().numpy()[row_of_image[kept]], ours.soft.toarray()[kept])
    assert theirs.rows.counts.tolist() == ours.rows.counts.tolist()


def test_state_survives_a_checkpoint():
    before, now = label_pair(np.random.default_rng(1), 100, 6)
    slr = SLR()
    assert slr.state_dict() == {"previous": None}
    slr.update(before)
    file = io.BytesIO()
    torch.save(slr.state_dict(), file)
    file.seek(0)
    resumed = SLR()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert_array_equal(resumed.update(now).hard, slr.update(now).hard)
    with pytest.raises(InputError, match=r"expected the key 'previous', got \['labels'\]"):
        resumed.load_state_dict({"labels": None})


def test_scikit_learn_conventions():
    settings = {"alpha": 0.7, "min_cluster_size": 5, "min_samples": 3, "hard": "argmax", "outliers": "drop"}
    settings |= {"noise": "argmax", "memory": "refined", "merge_distance": 0.1, "min_confidence": 0.2}
    slr = SLR(**settings)
    assert slr.get_params() == settings
    slr.update([0, 1])
    copy = clone(slr)
    assert copy.get_params() == settings
    assert copy.state_dict() == {"previous": None}  # the memory is no setting
    assert copy.set_params(alpha=0.2).alpha == 0.2
    assert slr.set_params(hard="none").state_dict()["previous"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="Invalid parameter 'beta'"):
        slr.set_params(beta=1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1]], r"labels: expected \(N,\) integers, got shape \(1, 2\)"),
        (["a", "b"], r"labels: expected \(N,\) integers, got shape \(2,\)"),
        ([True, False], r"labels: expected \(N,\) integers, got shape \(2,\) of bool"),
        ([0, 1, -2, -3], r"labels\[2\] is -2, expected -1 \(outlier\) or a cluster from 0 \(2 such labels\)"),
        ([0, 1.5], r"labels\[1\] is 1.5, expected a whole number \(1 such labels\)"),
        ([0, np.nan], r"labels\[1\] is nan, expected a whole number"),
        (
            np.array([0, -7], np.int8),
            r"labels\[1\] is -7, expected -1 \(outlier\) or a cluster from 0 \(1 such labels\)",
        ),
        (np.array([2**64 - 1], np.uint64), r"labels\[0\] is 18446744073709551615, expected below 16777216"),
        ([-2, 1.5], r"labels\[1\] is 1.5, expected a whole number \(1 such labels\)"),
        ([0, 2**40], r"labels\[1\] is 1099511627776, expected below 16777216; number clusters 0, 1, ..."),
    ],
)
def test_labels_that_cannot_be_used_are_named(labels, message):
    with pytest.raises(InputError, match=message):
        SLR().update(labels)


def test_another_number_of_images_is_named_and_forgets_nothing():
    slr = SLR()
    slr.update([0, 0, 1])
    with pytest.raises(InputError, match="labels: 2 images, but the last epoch had 3"):
        slr.update([0, 0])
    assert slr.state_dict()["previous"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"hard": "kmeans"}, "hard must be one of hdbscan, argmax, dbscan, none, cuml; got 'kmeans'"),
        ({"noise": "keep"}, "noise must be one of drop, argmax"),
        ({"outliers": "keep"}, "outliers must be one of project, drop"),
        ({"memory": "all"}, "memory must be one of clusters, refined"),
        ({"min_cluster_size": 1}, "min_cluster_size must be a whole number of at least 2, got 1"),
        ({"min_samples": 0}, "min_samples must be None or a whole number of at least 1, got 0"),
        ({"merge_distance": -1}, "merge_distance must not be negative, got -1"),
        ({"min_confidence": 1.5}, "min_confidence must lie in"),
    ],
)
def test_settings_that_cannot_be_used_are_named(setting, message):
    with pytest.raises(InputError, match=message):
        SLR(**setting).update([0, 1])
