from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from rapids_slr.clustering import neighbours
from rapids_slr.clustering.neighbours import Neighbours, nearest_neighbours, nearest_on_cpu, nearest_on_cuda
from rapids_slr.engine import blocks
from rapids_slr.engine.arrays import array_module
from rapids_slr.errors import InputError, RunError
from rapids_slr.kernels import nearest_cuda, runtime
from tests.clustering.cases import families, unit
from tests.reference import jaccard as reference

FAMILIES = families(np.random.default_rng(0))
product = blocks.product


def truncated(x: torch.Tensor) -> torch.Tensor:
    """What tensor cores read of float32 in TF32: 10 bits of the 23."""
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.fixture(autouse=True)
def rows_of_products(monkeypatch):
    """The product in TF32 as inexact as it may be; precision -> rows asked for."""
    asked = {"tf32": 0, "ieee": 0}

    def inexact(x, y, out, precision):
        asked[precision] += len(x)
        if precision == "tf32":
            x, y = truncated(x), truncated(y)
        product(x, y, out, "ieee")

    monkeypatch.setattr(blocks, "product", inexact)
    return asked


def on_cpu(features: np.ndarray, k: int) -> Neighbours:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "product", product)
        return nearest_on_cpu(features, k)


def near_ties(N: int) -> np.ndarray:
    """Images whose similarities differ by less than TF32 can tell."""
    rng = np.random.default_rng(3)
    return unit(unit(rng.normal(size=(1, 4))) + 0.03 * rng.normal(size=(N, 4)))


def assert_equals_the_cpu(found: Neighbours, features: np.ndarray, k: int, host) -> None:
    expected, index_NK = on_cpu(features, k), host(found.indices_Nk)
    assert_array_equal(index_NK, expected.indices_Nk)
    assert_allclose(host(found.distances_Nk), expected.distances_Nk, rtol=1e-7)
    assert_allclose(host(found.furthest_N), reference.squared_distances(features).max(axis=1), rtol=1e-6, atol=1e-12)
    results = (index_NK, host(found.distances_Nk), host(found.furthest_N))
    assert [x.dtype for x in results] == ["i4", "f4", "f4"]


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_cpu(family, device, host):
    features = np.ascontiguousarray(FAMILIES[family][::4][:18])
    assert_equals_the_cpu(nearest_neighbours(device(features), 5), features, 4, host)


def test_what_the_product_cannot_tell_apart(device, host, rows_of_products):
    features = near_ties(24)
    x = truncated(torch.from_numpy(features)).numpy()
    inexact = np.argsort(2 - 2 * x @ x.T, axis=1)[:, :4]
    assert (np.sort(inexact) != np.sort(on_cpu(features, 3).indices_Nk)).any(axis=1).sum() > 10
    assert_equals_the_cpu(nearest_on_cuda(device(features), 3), features, 3, host)
    assert rows_of_products == {"tf32": 24, "ieee": 0}


def test_products_are_as_exact_as_the_search_takes_them_to_be(device, host, monkeypatch):
    """Every number loses as much as TF32 can take: its 13 lowest bits are set, and those above them are not."""
    features = np.random.default_rng(4).choice([-1, 1], (10, 64)) * np.float32(0.125 * (1 + 2**-10 - 2**-23))
    features = features.astype(np.float32)
    features[:, 0] = np.sqrt(1 - np.square(features[:, 1:], dtype=np.float64).sum(axis=1))
    features[4:] = features[0]
    pick, errors = nearest_cuda.pick, []

    def measured(similarity_IN, image_I, k, rounding, lists, **options):
        exact_IN = features[host(image_I)].astype(np.float64) @ features.T.astype(np.float64)
        errors.append((np.abs(host(similarity_IN) - exact_IN).max(), rounding))
        pick(similarity_IN, image_I, k, rounding, lists, **options)

    monkeypatch.setattr(nearest_cuda, "pick", measured)
    monkeypatch.setattr(neighbours, "SPARE", 2)
    assert_equals_the_cpu(nearest_on_cuda(device(features), 1), features, 1, host)
    (tf32, may_be_tf32), (ieee, may_be_ieee) = errors
    assert 1.8e-3 < tf32 <= may_be_tf32 < 2e-3
    assert ieee <= may_be_ieee < 1e-5


def test_more_candidates_than_a_list_holds(device, host, monkeypatch, rows_of_products):
    """Ten equal images crowd their own lists and those of whom they are nearest to or furthest from."""
    monkeypatch.setattr(neighbours, "SPARE", 2)
    some = unit(np.random.default_rng(1).normal(size=(10, 24)))
    features = np.concatenate([some[:4], np.repeat(some[4:5], 10, axis=0), some[5:]])
    order = reference.ranks(reference.squared_distances(features))
    crowded = np.isin(order[:, [1, 2, -1]], range(4, 14)).any(axis=1).sum()
    assert 10 < crowded < 19
    assert_equals_the_cpu(nearest_on_cuda(device(features), 2), features, 2, host)
    assert rows_of_products == {"tf32": 19, "ieee": crowded}


def test_many_images_that_are_furthest_need_one_place(device, host, monkeypatch, rows_of_products):
    """Features with a floor, as after a ReLU: nearly all images are at the largest distance, and exactly so."""
    monkeypatch.setattr(neighbours, "SPARE", 2)
    settle, lists_of = nearest_cuda.settle, []
    monkeypatch.setattr(nearest_cuda, "settle", lambda *args: lists_of.append(args[2]) or settle(*args))
    parts = np.abs(np.random.default_rng(0).normal(size=(6, 4, 5))) + 0.3
    features = np.zeros((24, 30), np.float32)
    for group in range(6):
        features[4 * group : 4 * group + 4, 5 * group : 5 * group + 5] = parts[group]
    assert_equals_the_cpu(nearest_on_cuda(device(unit(features)), 2), unit(features), 2, host)
    assert rows_of_products == {"tf32": 24, "ieee": 24}
    assert host(lists_of[-1].far_I)[:24].tolist() == [1] * 24


@pytest.mark.parametrize("places", [1, 2, 20])
def test_a_list_is_full_to_the_last_place(places, device, host, monkeypatch, rows_of_products):
    """Of equal images every other is near as well as far; the image itself takes a place too."""
    features = np.repeat(FAMILIES["constant"][:1], 11, axis=0)
    monkeypatch.setattr(neighbours, "SPARE", places - 4)
    assert_equals_the_cpu(nearest_on_cuda(device(features), 1), features, 1, host)
    assert rows_of_products["ieee"] == 11
    monkeypatch.setattr(neighbours, "SPARE", 17)
    assert_equals_the_cpu(nearest_on_cuda(device(features), 1), features, 1, host)
    assert rows_of_products["ieee"] == 11


@pytest.mark.parametrize(("block", "threads"), [(1, 4), (5, 1), (8, 16)])
def test_blocks_and_threads_change_nothing(block, threads, device, host, monkeypatch):
    features = np.concatenate([near_ties(12), np.roll(near_ties(2), 1, axis=1)])
    whole = nearest_on_cuda(device(features), 3)
    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr(neighbours, "FEWEST_ROWS", 1)
    monkeypatch.setattr(runtime, "THREADS", threads)
    parts = nearest_on_cuda(device(features), 3)
    assert_array_equal(host(parts.indices_Nk), host(whole.indices_Nk))
    assert_array_equal(host(parts.distances_Nk), host(whole.distances_Nk))
    assert_array_equal(host(parts.furthest_N), host(whole.furthest_N))


def test_the_order_of_images_changes_their_numbers_alone(device, host):
    features, order = near_ties(14), np.random.default_rng(2).permutation(14)
    found, shuffled = (nearest_on_cuda(device(np.ascontiguousarray(x)), 4) for x in (features, features[order]))
    assert_array_equal(order[host(shuffled.indices_Nk)], host(found.indices_Nk)[order])
    assert_array_equal(host(shuffled.furthest_N), host(found.furthest_N)[order])


@pytest.mark.parametrize(("N", "k"), [(1, 0), (2, 1), (9, 0), (9, 8)])
def test_no_neighbour_and_all(N, k, device, host):
    features = FAMILIES["random"][:N] * np.float32(0.99998)  # just long enough: not at distance 0 from themselves
    assert_equals_the_cpu(nearest_on_cuda(device(features), k), features, k, host)


@pytest.mark.parametrize("k", [0, 1, 6])
def test_lists_hold_what_rounding_may_hide_and_little_more(k, device, host):
    rng, rounding = np.random.default_rng(5), 0.01
    similarity_IN = rng.uniform(-1, 1, (8, 60)).astype(np.float32)
    similarity_IN[0, :30] = 0.5
    similarity_IN[1, [2, 3]] = 1.0001, -1.0001
    image_I = np.array([3, 0, 59, 8, 9, 10, 11, 12])
    lists = nearest_cuda.no_lists(array_module(device(similarity_IN)), 8, 120)
    nearest_cuda.pick(*device((similarity_IN, image_I)), k, rounding, lists)
    index_IC, _, near_I, far_I = host(lists)
    for i, similarity_N, index_C, near, far in zip(image_I, similarity_IN, index_IC, near_I, far_I, strict=True):
        others = np.delete(np.arange(60), i)
        kth = np.sort(similarity_N[others])[-k] if k else np.inf
        least, bin_ = similarity_N[others].min(), 2 / nearest_cuda.BINS
        for found, gap_N in (index_C[:near], kth - similarity_N), (index_C[120 - far :], similarity_N - least):
            assert i not in found
            assert len(set(found)) == len(found)
            assert set(found) >= {j for j in others if gap_N[j] <= 2 * rounding}
            assert (gap_N[found] < 2 * rounding + 4 * bin_).all()
        assert index_C[near] == i


OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError, lambda text: RuntimeError(f"std::bad_alloc: {text}"))


@pytest.mark.parametrize("fault", [kind("no memory") for kind in OUT_OF_MEMORY])
def test_blocks_are_halved_when_memory_runs_out(fault, device, host, monkeypatch, caplog):
    features, inexact, sizes = near_ties(14), blocks.product, []

    def scarce(x, y, out, precision):
        sizes.append(len(x))
        if len(x) > 4 or len(sizes) == 4:
            raise fault
        inexact(x, y, out, precision)

    monkeypatch.setattr(blocks, "BLOCK", 12)
    monkeypatch.setattr(neighbours, "FEWEST_ROWS", 1)
    monkeypatch.setattr(blocks, "product", scarce)
    with caplog.at_level(logging.WARNING, "rapids_slr"):
        assert_equals_the_cpu(nearest_on_cuda(device(features), 3), features, 3, host)
    assert sizes == [12, 6, 3, 3, 1, *[1] * 10]
    assert caplog.messages == [
        f"nearest neighbours: GPU memory ran out; going on with blocks of {rows} rows" for rows in (6, 3, 1)
    ]
    monkeypatch.setattr(neighbours, "FEWEST_ROWS", 6)
    with pytest.raises(RunError, match=r"of 14 images: GPU memory does not hold 6 rows .*no memory\); free GPU"):
        nearest_on_cuda(device(features), 3)


@pytest.fixture
def cuvs(monkeypatch, device, host):
    """A cuVS whose NN-descent finds the nearest but leaves gaps; it takes the calls that cuVS 26.10 takes."""
    cupy = pytest.importorskip("cupy")
    modules = {name: ModuleType(name) for name in ("cuvs", "cuvs.common", "cuvs.neighbors")}
    lost = {3: 9, 5: 1}  # image -> neighbours that are missing

    def index_params(*, metric, graph_degree, intermediate_graph_degree):
        assert graph_degree < intermediate_graph_degree
        return metric

    def all_neighbors_params(*, algo, metric, nn_descent_params):
        assert (algo, metric, nn_descent_params) == ("nn_descent", "sqeuclidean", "sqeuclidean")

    def build(dataset, k, params, *, indices, resources):
        order = reference.ranks(reference.squared_distances(host(dataset)))[:, :k].astype(np.int64)
        for i, missing in lost.items():
            order[i, 1 : 1 + missing] = [-1, len(order), order[i, 0], *[order[i, -1]] * 6][:missing]
        indices[:] = device(np.random.default_rng(0).permuted(order, axis=1))

    common, found = modules["cuvs.common"], modules["cuvs.neighbors"]
    common.Resources = lambda stream: SimpleNamespace(sync=lambda: None)
    found.nn_descent = SimpleNamespace(IndexParams=index_params)
    found.all_neighbors = SimpleNamespace(AllNeighborsParams=all_neighbors_params, build=build)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    if runtime.SIMULATED:
        monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: SimpleNamespace(ptr=0))
    monkeypatch.setattr(neighbours, "DEGREE", 12)
    return lost


def test_approximate_neighbours_are_measured_exactly(cuvs, device, host, monkeypatch, caplog, rows_of_products):
    """Of image 3 fewer than 4 others are found, so it is searched exactly; 5 misses its nearest; 0 and 11 are known."""
    monkeypatch.setattr(neighbours, "SAMPLE", 2)
    monkeypatch.setattr(blocks, "BLOCK", 8)
    features = near_ties(22)
    expected = on_cpu(features, 4)
    with caplog.at_level(logging.INFO, "rapids_slr"):
        found = nearest_neighbours(device(features), 5, approximate=True)
    index_NK, others = host(found.indices_Nk), np.arange(22) != 5
    assert_array_equal(index_NK[others], expected.indices_Nk[others])
    assert_allclose(host(found.distances_Nk)[others], expected.distances_Nk[others], rtol=1e-7)
    assert_array_equal(index_NK[5, :4], expected.indices_Nk[5, [0, 2, 3, 4]])
    assert found.recall == 1
    assert caplog.messages == ["nearest neighbours: the approximate search found 100.00 % of those of 2 images"]
    assert rows_of_products == {"tf32": 3, "ieee": 22}  # the latter for the largest distances
    d, furthest_N = reference.squared_distances(features), host(found.furthest_N)
    assert_allclose(furthest_N[[0, 3, 11]], d.max(axis=1)[[0, 3, 11]], rtol=1e-6)
    assert (furthest_N <= d.max(axis=1) + 1e-6).all()
    assert (furthest_N >= d[:, [0, 11]].max(axis=1) - 1e-6).all()
    assert (furthest_N >= host(found.distances_Nk)[:, -1]).all()


def test_recall_counts_no_rows_that_are_searched_exactly(cuvs, device, monkeypatch):
    """All are in the sample: image 3 has no list and hence nothing to count yet, and 5 misses one of its four."""
    no_results = nearest_cuda.no_results

    def no_results_but_rubbish(features_ND, k):
        found = no_results(features_ND, k)
        found.distance_NK[:] = 9
        return found

    monkeypatch.setattr(nearest_cuda, "no_results", no_results_but_rubbish)
    monkeypatch.setattr(neighbours, "SAMPLE", 22)
    assert nearest_neighbours(device(near_ties(22)), 5, approximate=True).recall == 1 - 1 / (4 * 22)


def test_lists_from_an_approximate_search(device, host):
    near_IC = np.array([[-1, 2, 2, 9, 0], [8, 4, 1, 7, 1]])
    index_IC, _, near_I, far_I = host(neighbours._lists(*device((np.array([0, 4]), near_IC)), 9, 1))
    assert (near_I.tolist(), far_I.tolist()) == ([1, 3], [0, 0])
    assert (index_IC[0, :2].tolist(), index_IC[1, :4].tolist()) == ([2, 0], [1, 7, 8, 4])
    assert index_IC.shape == (2, 6)
    _, _, near_I, _ = host(neighbours._lists(*device((np.array([0, 4]), near_IC)), 9, 2))
    assert near_I.tolist() == [6, 3]


def test_the_recall_of_an_approximate_search(cuvs, device, monkeypatch, caplog):
    monkeypatch.setattr(neighbours, "SAMPLE", 22)
    cuvs.pop(3)
    found = nearest_neighbours(device(near_ties(22)), 5, approximate=True)
    assert found.recall == pytest.approx(1 - 1 / (22 * 4))
    assert caplog.messages == ["nearest neighbours: the approximate search found 98.86 % of those of 22 images"]


def test_an_approximate_search_without_cuvs(device, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuvs", None)
    with pytest.raises(InputError, match=r"approximate: needs cuVS \(.*\); pip install cuvs-cu13"):
        nearest_neighbours(device(near_ties(22)), 5, approximate=True)


@pytest.mark.parametrize("noise", [3e-2, 1e-2])
def test_features_that_are_nearly_alike_need_no_product_in_float32(noise, device, host, rows_of_products, monkeypatch):
    rng = np.random.default_rng(9)
    features = unit(rng.standard_normal(8) + noise * rng.standard_normal((160, 8)))
    assert_equals_the_cpu(nearest_on_cuda(device(features), 3), features, 3, host)
    assert rows_of_products == {"tf32": 320, "ieee": 0}
    if noise == 1e-2:
        monkeypatch.setattr(neighbours, "ALIKE", 0.0)
        assert_equals_the_cpu(nearest_on_cuda(device(features), 3), features, 3, host)
        assert rows_of_products["ieee"] == 160
