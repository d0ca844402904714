"""Centring by camera: its formula, what it leaves alone, and that it puts together what cameras part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from rapids_slr import JaccardDBSCAN
from rapids_slr.clustering.cameras import FEWEST, centre_cameras, takes_centre
from rapids_slr.errors import InputError
from rapids_slr.evaluation import label_quality
from tests.reference.cameras import centred


def unit(x_ND: np.ndarray) -> np.ndarray:
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)


def seen_by(cameras: int, identities: int = 12, each: int = 8, gap: float = 1.0, seed: int = 0):
    """Features of identities, each shifted by the camera that saw it; identities and cameras of all images."""
    rng = np.random.default_rng(seed)
    identity_N, camera_N = (
        np.repeat(np.arange(identities), cameras * each),
        np.tile(np.arange(cameras), identities * each),
    )
    people, places = rng.normal(size=(identities, 24)), gap * rng.normal(size=(cameras, 24))
    noise_ND = 0.25 * rng.normal(size=(len(identity_N), 24))
    return unit(people[identity_N] + places[camera_N] + noise_ND), identity_N, camera_N


@pytest.mark.parametrize("cameras", [[20, 20], [20, 3, 4, 2], [30, 3], [5, 5]], ids=str)
def test_every_feature_is_less_the_mean_of_its_camera(cameras):
    camera_N = np.random.default_rng(1).permutation(np.repeat(np.arange(len(cameras)), cameras))
    x_ND = unit(np.random.default_rng(2).normal(size=(len(camera_N), 5)))
    expected = centred(x_ND.astype(float).tolist(), camera_N.tolist(), FEWEST)
    assert_allclose(centre_cameras(x_ND, camera_N), expected, atol=1e-6)


@given(st.integers(1, 5), st.integers(0, 99))
def test_the_order_of_images_and_the_numbers_of_cameras_mean_nothing(cameras, seed):
    rng = np.random.default_rng(seed)
    x_ND, camera_N = unit(rng.normal(size=(40, 6))), rng.integers(0, cameras, 40)
    order, names = rng.permutation(40), rng.permutation(1000)[:cameras]
    once = centre_cameras(x_ND, camera_N)
    assert_allclose(centre_cameras(x_ND[order], names[camera_N][order]), once[order], atol=1e-6)
    assert_allclose(np.linalg.norm(once, axis=1), 1, atol=1e-5)


def test_what_has_nothing_left_stays_as_it_is():
    x_ND = unit(np.vstack([np.tile([1.0, 0, 0], (10, 1)), np.random.default_rng(0).normal(size=(10, 3))]))
    centred_ND = centre_cameras(x_ND, np.repeat([0, 1], 10))
    assert_array_equal(centred_ND[:10], x_ND[:10])
    assert np.isfinite(centred_ND).all()


def test_clusters_follow_identities_and_no_longer_cameras():
    x_ND, identity_N, camera_N = seen_by(cameras=3)
    parted, joined = (
        JaccardDBSCAN(k1=23, pairs_per_image=11, cameras=cameras).fit_predict(x_ND, cameras=camera_N)
        for cameras in ("ignore", "centre")
    )
    quality = [label_quality(labels_N, identity_N)["ari"] for labels_N in (parted, joined)]
    assert quality[0] < 0.6
    assert quality[1] > 0.9


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_auto_centres_where_there_are_cameras(convert):
    x_ND, _, camera_N = seen_by(cameras=3)
    model = JaccardDBSCAN(k1=15, pairs_per_image=8, cameras="auto")
    plain = JaccardDBSCAN(k1=15, pairs_per_image=8).fit_predict(convert(x_ND))
    centre = JaccardDBSCAN(k1=15, pairs_per_image=8, cameras="centre")
    assert_array_equal(model.fit_predict(convert(x_ND)), plain)  # nobody knows the cameras
    assert_array_equal(model.fit_predict(convert(x_ND), cameras=np.zeros(len(x_ND), int)), plain)  # there is one
    expected = centre.fit_predict(convert(x_ND), cameras=convert(camera_N))
    assert_array_equal(model.fit_predict(convert(x_ND), cameras=convert(camera_N)), expected)
    assert not np.array_equal(expected, plain)


def test_auto_passes_over_cameras_of_a_few_images():
    assert takes_centre("auto", np.repeat([0, 1], [40, FEWEST]))
    assert not takes_centre("auto", np.repeat([0, 1, 2], [40, FEWEST - 1, 1]))


def test_the_source_term_is_that_of_the_features_as_they_are():
    """The source has cameras of its own, so nearness to it is told by features that were not centred."""
    x_ND, _, camera_N = seen_by(cameras=2)
    source = unit(np.random.default_rng(5).normal(size=(30, 24)))
    model = JaccardDBSCAN(k1=15, pairs_per_image=8, source_weight=0.1, cameras="centre")
    model.fit(x_ND, source=source, cameras=camera_N)
    alone = JaccardDBSCAN(k1=15, pairs_per_image=8, source_weight=0.1).fit(x_ND, source=source)
    assert_allclose(model._distances.reach_N, alone._distances.reach_N)


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (None, "`centre` needs the camera of every image"),
        (np.zeros(5, int), r"cameras: expected \(288,\) integers, one an image, got \(5,\)"),
        (np.zeros(288), "got .* float64"),
    ],
)
def test_cameras_that_cannot_be_used_are_refused(cameras, message):
    x_ND, *_ = seen_by(cameras=3)
    with pytest.raises(InputError, match=message):
        JaccardDBSCAN(k1=15, cameras="centre").fit(x_ND, cameras=cameras)
