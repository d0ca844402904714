"""Nearest neighbours against full sorting, at every blocking, and what features must be like."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from rapids_slr.bench import clustered_features
from rapids_slr.clustering import descent, neighbours, tiles
from rapids_slr.clustering.neighbours import RECALL, check_features, nearest_neighbours
from rapids_slr.engine import blocks
from rapids_slr.errors import InputError
from rapids_slr.kernels import nearest
from tests.clustering.cases import families, unit
from tests.reference import jaccard as reference

FAMILIES = families(np.random.default_rng(0))


@pytest.fixture
def five_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("k", [1, 2, 7, 31])
@pytest.mark.parametrize("family", FAMILIES)
def test_lists_equal_a_full_sort(family, k):
    features = FAMILIES[family]
    found = nearest_neighbours(features, k)
    d = reference.squared_distances(features)
    assert_array_equal(found.indices_Nk, reference.ranks(d)[:, :k])
    assert_allclose(found.distances_Nk, np.take_along_axis(d, found.indices_Nk.astype(int), axis=1), atol=1e-6)
    assert_allclose(found.furthest_N, d.max(axis=1), atol=1e-6)
    assert (found.indices_Nk.dtype, found.distances_Nk.dtype, found.furthest_N.dtype) == ("i4", "f4", "f4")


@pytest.mark.parametrize("family", ["clustered", "duplicated", "constant"])
def test_tiles_and_threads_change_nothing(family, monkeypatch):
    features = FAMILIES[family]
    whole = nearest_neighbours(features, 9)
    for tile in (1, 7, 64):
        monkeypatch.setattr(tiles, "TILE", tile)
        monkeypatch.setattr(tiles, "TILES", 3)
        parts = nearest_neighbours(features, 9)
        assert_array_equal(parts.indices_Nk, whole.indices_Nk)
        assert_array_equal(parts.distances_Nk, whole.distances_Nk)
        assert_array_equal(parts.furthest_N, whole.furthest_N)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert_array_equal(nearest_neighbours(features, 9).indices_Nk, whole.indices_Nk)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("parts", ["one", "two"])
def test_no_two_threads_change_the_lists_of_an_image_at_once(parts, monkeypatch, five_threads):
    monkeypatch.setattr(tiles, "TILE", 4)
    monkeypatch.setattr(tiles, "TILES", 3)
    features = FAMILIES["random"][:26]
    rows = nearest.part(features, nearest.similarities(features), 3)
    columns = rows if parts == "one" else nearest.part(features, nearest.similarities(features), 3)
    looking, changing, clashes, together, met_NN = threading.Lock(), Counter(), [], [0], np.zeros((26, 26), int)

    def offer(block_IJ, row, column, rows, columns):
        mine = {(id(part.candidates), i // 4) for part, i in ((rows, row), (columns, column))}
        with looking:
            clashes.extend(group for group in mine if changing[group])
            changing.update(mine)
            together[0] = max(together[0], changing.total())
            met_NN[row : row + block_IJ.shape[0], column : column + block_IJ.shape[1]] += 1
        time.sleep(0.002)
        with looking:
            changing.subtract(mine)

    monkeypatch.setattr(nearest, "offer", offer)
    tiles.multiply(rows, columns, lambda pairs: None)
    assert clashes == []
    assert together[0] > 2, "threads were at work at the same time"
    every = np.ones((26, 26), int)
    group = np.arange(26) // 4
    assert_array_equal(met_NN, every if parts == "two" else every * (group[:, None] <= group))


def test_lists_longer_than_a_tile_and_full_many_times_over():
    """Similarities that rise along the columns: every image is a candidate when it is met."""
    angle = np.linspace(0, 1.5, 3000)
    features = unit(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    found = nearest_neighbours(features, 40)
    d = reference.squared_distances(features[:5], features)
    for i in range(5):
        order = [i, *(j for j in np.lexsort((np.arange(3000), d[i])) if j != i)]
        assert found.indices_Nk[i].tolist() == order[:40]


def test_all_neighbours():
    features = FAMILIES["random"]
    assert_array_equal(
        nearest_neighbours(features, 100).indices_Nk, reference.ranks(reference.squared_distances(features))
    )


def test_more_neighbours_than_images():
    with pytest.raises(InputError, match="features: 100 rows, but k=101 neighbours were asked for"):
        nearest_neighbours(FAMILIES["random"], 101)


@pytest.mark.slow
def test_an_approximate_search_measures_what_it_finds(caplog):
    features = clustered_features(2000, 32)
    found, exact = nearest_neighbours(features, 16, approximate=True), nearest_neighbours(features, 16)
    assert found.recall is not None
    assert found.recall > 0.95
    share = np.mean([len({*mine} & {*all_}) for mine, all_ in zip(found.indices_Nk, exact.indices_Nk, strict=True)])
    assert found.recall == pytest.approx((share - 1) / 15, abs=0.02)
    same = found.indices_Nk == exact.indices_Nk
    assert_array_equal(found.distances_Nk[same], exact.distances_Nk[same])
    assert (found.furthest_N <= exact.furthest_N + 1e-6).all()
    assert found.recall >= RECALL or "the approximate search found" in caplog.text


def test_images_of_which_too_few_are_found_are_searched_among_all(monkeypatch):
    features = FAMILIES["clustered"]
    exact = nearest_neighbours(features, 8)
    near_NC = np.repeat(exact.indices_Nk[:, 1:].astype(np.int64), 2, axis=1)
    near_NC[3], near_NC[5, 2:], near_NC[7] = -1, 5, near_NC[7, 0]
    monkeypatch.setattr(descent, "_descend_cpu", lambda features_ND, near: near_NC.copy())
    found = nearest_neighbours(features, 8, approximate=True)
    assert_array_equal(found.indices_Nk, exact.indices_Nk)
    assert_array_equal(found.distances_Nk, exact.distances_Nk)
    assert found.recall == 1


@pytest.mark.parametrize("kind", [np.float64, np.float16, "fortran", "strided", "read-only", "torch", "bfloat16"])
def test_features_are_converted(kind):
    x = FAMILIES["random"]
    given = {
        "fortran": np.asfortranarray(x),
        "strided": np.repeat(x, 2, axis=0)[::2],
        "torch": torch.from_numpy(x),
        "bfloat16": torch.from_numpy(x).bfloat16(),
        "read-only": x,
    }.get(kind, x.astype(kind) if not isinstance(kind, str) else None)
    if kind == "read-only":
        given = x.copy()
        given.flags.writeable = False
    checked = check_features(given)
    assert checked.dtype == np.float32
    assert checked.flags.c_contiguous
    assert_allclose(checked, x, atol=2e-2 if kind in ("bfloat16", np.float16) else 1e-7)
    assert nearest_neighbours(checked, 3).indices_Nk.shape == (100, 3)


def test_usable_features_are_not_copied():
    x = FAMILIES["random"]
    assert np.shares_memory(check_features(x), x)
    assert np.shares_memory(check_features(torch.from_numpy(x)), x)


def spoilt(rows, value):
    x = FAMILIES["random"].copy()
    x[rows, 3] = value
    return x


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones(5), r"features: expected \(N, D\) real numbers, a row an image, got \(5,\) float64"),
        (np.ones((0, 4)), r"features: expected \(N, D\) real numbers, a row an image, got \(0, 4\)"),
        (np.array([["a"]]), r"features: expected \(N, D\) real numbers"),
        (np.ones((3, 2), complex), r"features: expected \(N, D\) real numbers"),
        (spoilt([4, 17], np.nan), "features: NaN or infinite values in 2 of 100 rows: 4, 17; look at the images"),
        (spoilt([99], -np.inf), "features: NaN or infinite values in 1 of 100 rows: 99"),
        (spoilt(range(30), 5.0), r"lengths 1..5\.\d+ in 30 of 100 rows: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.; divide"),
        (np.zeros((2, 2)), r"expected rows of unit length, got lengths 0..0 in 2 of 2 rows: 0, 1"),
    ],
)
def test_features_that_cannot_be_used_are_named(features, message):
    with pytest.raises(InputError, match=message):
        check_features(features)


def test_lists_do_not_depend_on_the_precision_of_other_products(torch_settings):
    expected = nearest_neighbours(FAMILIES["tight"], 9)
    torch.set_float32_matmul_precision("medium")
    assert_array_equal(nearest_neighbours(FAMILIES["tight"], 9).indices_Nk, expected.indices_Nk)


def alike(noise: float, N: int = 300, D: int = 40) -> np.ndarray:
    """Features of a network that finds all images nearly the same."""
    rng = np.random.default_rng(8)
    return unit(rng.standard_normal(D) + noise * rng.standard_normal((N, D)))


@pytest.mark.parametrize("noise", [1e-2, 3e-3, 1e-4, 0.0])
def test_features_that_are_nearly_alike_are_told_apart(noise, monkeypatch):
    features = alike(noise)
    of = nearest.similarities(features)
    assert of.shift_N is not None
    assert of.rounding < nearest.rounding(40) / 50
    exact = features.astype(np.float64) @ features.astype(np.float64).T
    computed = (of.x_ND @ of.x_ND.T + of.shift_N[:, None]) + of.shift_N
    assert np.abs(computed.astype(np.float64) + of.offset - exact).max() <= of.rounding
    d = reference.squared_distances(features)
    for tile in (512, 7):
        monkeypatch.setattr(tiles, "TILE", tile)
        found = nearest_neighbours(features, 9)
        assert_array_equal(found.indices_Nk, reference.ranks(d)[:, :9])
        assert_allclose(found.furthest_N, d.max(axis=1), atol=1e-6)


def test_features_that_differ_are_multiplied_as_they_are():
    features = alike(0.5)
    assert nearest.similarities(features).x_ND is features


def nearest_in(monkeypatch, features, k: int, bfloat16: bool):
    monkeypatch.setattr(neighbours, "COARSE", 0)
    monkeypatch.setattr(blocks, "bfloat16_pays", lambda: (bfloat16, "as the test asks"))
    return nearest_neighbours(features, k)


def all_kinds(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Features of 40 to 700 images in 8 to 200 dimensions."""
    N, D = int(rng.integers(40, 700)), int(rng.integers(8, 200))
    x = rng.standard_normal((N, D))
    if kind == "clustered":
        x = rng.standard_normal((N // 8 + 1, D))[rng.integers(N // 8 + 1, size=N)] + 0.4 * x
    elif kind == "positive":  # as pooled activations are
        x = np.abs(x)
    elif kind == "duplicated":
        x[N // 2 :] = x[: N - N // 2]
    elif kind == "opposite":
        x[N // 2 :] = -x[: N - N // 2]
    elif kind == "one side":
        x = x + 2 * rng.standard_normal(D)
    return unit(x)


@pytest.mark.parametrize("kind", ["isotropic", "clustered", "positive", "duplicated", "opposite", "one side"])
def test_a_product_in_bfloat16_finds_the_same_bits(kind, monkeypatch):
    rng = np.random.default_rng(7)
    for tile in (512, 64, 7):
        monkeypatch.setattr(tiles, "TILE", tile)
        monkeypatch.setattr(tiles, "TILES", 3)
        features, k = all_kinds(kind, rng), int(rng.integers(1, 31))
        coarse, fine = (nearest_in(monkeypatch, features, k, bfloat16) for bfloat16 in (True, False))
        assert_array_equal(coarse.indices_Nk, fine.indices_Nk)
        assert_array_equal(coarse.distances_Nk, fine.distances_Nk)
        assert_array_equal(coarse.furthest_N, fine.furthest_N)


@pytest.mark.parametrize("kind", ["isotropic", "clustered", "positive", "one side"])
@pytest.mark.parametrize("seed", range(4))
def test_what_bfloat16_loses_is_bounded(kind, seed):
    features = all_kinds(kind, np.random.default_rng(seed))
    of = nearest.coarsely_cpu(nearest.similarities(features))
    exact = features.astype(np.float64) @ features.astype(np.float64).T
    rows = torch.from_numpy(features).bfloat16()
    computed = (rows @ rows.T).double().numpy()
    off = np.abs(computed - exact)
    assert (off <= of.rounding + of.share * np.abs(computed)).all()
    # Half of the bound is met, so that no smaller one would be known to hold.
    assert off.max() > (of.rounding + of.share) / 8


def test_features_that_bfloat16_cannot_tell_apart_are_multiplied_in_float32():
    rng = np.random.default_rng(3)
    near = unit(rng.standard_normal(64) + 0.06 * rng.standard_normal((2000, 64)))
    assert nearest.similarities(near).shift_N is None
    assert nearest.in_bfloat16_cpu(nearest.similarities(near), 10) is None
    far = unit(rng.standard_normal((2000, 64)))
    assert nearest.in_bfloat16_cpu(nearest.similarities(far), 10) is not None
    assert nearest.in_bfloat16_cpu(nearest.similarities(alike(1e-4)), 10) is None


@pytest.mark.parametrize("shift", [0, 16])
def test_keys_are_in_the_order_of_their_values(shift):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.standard_normal(500), [0.0, 1.0, -1.0, np.inf, -np.inf]]).astype(np.float32)
    keys = np.array([nearest._key(value, shift) for value in values])
    back = np.array([nearest._value(key, shift) for key in keys])
    order = np.argsort(values)
    assert (np.diff(keys[order]) >= 0).all()
    if shift == 0:
        assert_array_equal(back, values)
    else:  # rounded towards 0, and of what is a bfloat16 itself the bits of it, in their order
        assert (np.abs(back) <= np.abs(values)).all()
        bits = torch.from_numpy(back).bfloat16().view(torch.int16).numpy()
        assert_array_equal(np.where(bits >= 0, bits, bits ^ 0x7FFF), keys)
        assert_array_equal([nearest._key(value, shift) for value in back], keys)


@pytest.mark.parametrize(("N", "D", "approximate"), [(100_000, 512, False), (1_000_000, 256, True)])
def test_auto_searches_approximately_where_that_is_faster(N, D, approximate, monkeypatch):
    monkeypatch.setattr(blocks, "speed", lambda: blocks.Speed(1e-11, 4.7e-12))
    takes, why = neighbours.takes_approximate("auto", N, D, 30, shared=False)
    assert takes == approximate
    assert f"{N:,} images" in why
    for machine in (1e-12, 1e-10):  # what decides is how the two compare, not how fast the machine is
        monkeypatch.setattr(blocks, "speed", lambda machine=machine: blocks.Speed(machine, 0.47 * machine))
        assert neighbours.takes_approximate("auto", N, D, 30, shared=False)[0] == approximate
    assert neighbours.takes_approximate("approximate", 100, D, 30, shared=False)[0]
    assert not neighbours.takes_approximate("exact", N, D, 30, shared=False)[0]
    assert not neighbours.takes_approximate("auto", N, D, 30, shared=True)[0]


def test_it_is_tried_out_whether_bfloat16_pays(monkeypatch):
    blocks.speed.cache_clear()
    try:
        pays, why = blocks.bfloat16_pays()
        assert not pays or "takes 0." in why
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        blocks.speed.cache_clear()
        assert blocks.bfloat16_pays() == (False, "the processor has no instructions for bfloat16")
    finally:
        blocks.speed.cache_clear()


@pytest.mark.parametrize("N", [1, 60, 300])
def test_progress_counts_every_image_once(N, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 50)
    monkeypatch.setattr(tiles, "TILES", 2)
    told: list[int] = []
    nearest_neighbours(FAMILIES["random"][:1].repeat(N, axis=0), 1, progress=told.append)
    assert sum(told) == N
    assert min(told) >= 0
    assert N < 100 or len(told) > 5
