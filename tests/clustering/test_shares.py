"""Any number of processes gives the labels of one, bit by bit, and none of them ever has all features."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from rapids_slr.bench import clustered_features, collapsed_features, isotropic_features
from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.clustering.neighbours import check_features
from rapids_slr.clustering.shares import nearest_of_shares_cpu
from rapids_slr.engine import blocks
from rapids_slr.errors import InputError
from rapids_slr.group import ALONE, Group
from tests.processes import together

D = 24
SIZES = (2, 3, 4)


def tied(N: int) -> np.ndarray:
    x_ND = np.random.default_rng(0).integers(-1, 2, (N, 9)).astype(np.float32)
    x_ND[~x_ND.any(axis=1), 0] = 1
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def many_copies(N: int) -> np.ndarray:
    x_ND = clustered_features(N, D, 5)
    x_ND[500:1700] = x_ND[7]  # across the border of two shares
    return x_ND


def cases() -> dict[str, tuple[np.ndarray, dict, dict]]:
    """Features, keys of JaccardDBSCAN and options of `fit`, by name."""
    rng = np.random.default_rng(1)
    found = {f"clustered {N}": (clustered_features(N, D, N), {}, {}) for N in (3000, 2999, 2050, 2049, 1500)}
    found["more blocks than a strip has"] = clustered_features(6200, D, 2), {}, {}
    found["duplicated"] = isotropic_features(2999, 8, 2)[rng.integers(0, 1500, 2999)], {}, {}
    found["many copies"] = many_copies(2999), {}, {}
    found["tied"] = tied(2999), {}, {}
    found["isotropic"] = isotropic_features(2999, 16, 1), {}, {}
    found["collapsed"] = collapsed_features(2999, 64, 3, noise=1e-3), {}, {}
    found["few distinct"] = many_copies(2999)[rng.integers(500, 512, 2100)], {}, {}
    found["cameras"] = clustered_features(3000, D, 9), {}, {"cameras": rng.permutation(np.arange(3000) % 600 % 7)}
    source = {"source": clustered_features(700, D, 11), "cameras": np.arange(3000) % 3}
    found["source"] = np.concatenate([many_copies(2500), clustered_features(500, D, 3)]), {"source_weight": 0.1}, source
    found["faiss"] = clustered_features(2050, D, 12), {"convention": "faiss", "eps": 0.6}, {}
    found["no expansion"] = clustered_features(2050, D, 13), {"k2": 1, "rho": 1e-3}, {}
    return found


def outcomes(group: Group) -> dict[str, dict[str, object]]:
    """All that clustering leaves, of each case."""
    found = {}
    for name, (x_ND, keys, options) in cases().items():
        share = group.share(len(x_ND)) if group.size > 1 else range(len(x_ND))
        own_ND = torch.from_numpy(x_ND[share.start : share.stop].copy())
        model = JaccardDBSCAN(**({"k1": 15, "k2": 5, "pairs_per_image": 6} | keys)).fit(own_ND, group=group, **options)
        graph, weights = model._distances.graph, model._distances.rows
        found[name] = {
            "labels": model.labels_,
            "also": model.labels_at(pairs_per_image=2.5),
            "eps": model.eps_,
            "copies": model.copies_,
            "met": model._distances.met,
            **dict(zip(("rows", "columns", "weights"), weights, strict=True)),
            **{"indptr": graph.indptr, "indices": graph.indices, "distances": graph.distances},
        }
    return found


@pytest.fixture(scope="module")
def of_one() -> dict[str, dict[str, object]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return outcomes(ALONE)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_labels_radius_and_distances_are_those_of_one_process(of_one, size):
    for of_process in together(size, outcomes):
        for name, expected in of_one.items():
            for what, value in expected.items():
                assert_array_equal(of_process[name][what], value, err_msg=f"{name}: {what}")


class Watched(Group):
    """Remembers the shapes of all that is gathered."""

    def gather(self, rows):
        self.gathered = [*getattr(self, "gathered", []), tuple(rows.shape)]
        return super().gather(rows)


def sent_by_a_fit(group: Group) -> tuple[dict[str, int], list[tuple[int, ...]]]:
    watched, x_ND = Watched(group.rank, group.size), many_copies(3000)
    share = watched.share(3000)
    JaccardDBSCAN(k1=15).fit(x_ND[share.start : share.stop], group=watched, cameras=np.arange(3000) % 3)
    return dict(watched.sent), watched.gathered


def test_features_are_never_gathered():
    """They go by in blocks, a few times; what all processes get has a row of D numbers nowhere."""
    found = together(2, sent_by_a_fit)
    for sent, shapes in found:
        assert shapes
        assert all(len(shape) == 1 or shape[1] < D for shape in shapes)
        assert set(sent) == {"gather", "blocks", "ring", "total", "in_turn"}
    # Copies compared and the kept ones taken; of these alone, members beyond the lists.
    number = 3000 - 1201 + 3 * 16  # of the copies in three cameras, k1 + 1 of each
    whole, kept = 3000 * D * 4, number * D * 4
    assert 2 * whole + kept <= sum(sent["blocks"] for sent, _ in found) <= 3 * whole + 2 * kept
    # Neighbours of the kept ones: all of one share go to the other process, and half of the other share to this one.
    # With an image two bounds go, and its list and its furthest come back.
    of_an_image = 4 * D + 2 * 8 + 15 * (8 + 4) + 8
    assert sum(sent["ring"] for sent, _ in found) == (1024 + (number - 1024) // 2) * of_an_image


def peak_of_a_search(group: Group, N: int) -> int:
    """Bytes, with the strips of a few images so narrow as those of a million are beside a share."""
    blocks.STRIP = blocks.BLOCK
    tracemalloc.start()
    x_ND = np.random.default_rng(group.rank).standard_normal((len(group.share(N)), 1024), np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    tracemalloc.reset_peak()
    nearest_of_shares_cpu(x_ND, N, 10, group)
    return tracemalloc.get_traced_memory()[1]


@pytest.mark.slow
def test_memory_falls_with_the_number_of_processes():
    one, two, three = (max(together(size, peak_of_a_search, 9216)) for size in (1, 2, 3))
    assert two < 0.8 * one
    assert three < 0.85 * two


def refused(group: Group) -> list[str]:
    """Messages of fits that cannot be."""
    x_ND, said = clustered_features(3000, D), []
    share = group.share(3000)
    for features, keys in ((x_ND[:1500], {}), (x_ND[share.start : share.stop], {"search": "approximate"})):
        with pytest.raises(InputError) as fault:
            JaccardDBSCAN(**keys).fit(features, group=group)
        said.append(str(fault.value))
    return said


def test_what_is_no_share_is_refused():
    first, _ = together(2, refused)
    assert re.search(r"1500 rows of 3000, but process 0 of 2 has a share of 1024; give those of group.share", first[0])
    assert "search: approximate is for one process" in first[1]


@pytest.mark.parametrize(("N", "size"), [(0, 2), (1, 3), (1024, 2), (1025, 2), (10_000, 3), (3000, 4)])
def test_shares_are_whole_blocks_that_cover_all_rows_once(N, size):
    found = [Group(rank, size).share(N) for rank in range(size)]
    assert [row for share in found for row in share] == list(range(N))
    assert all(share.start % 1024 == 0 or not share for share in found)
    blocks = [-(-len(share) // 1024) for share in found]
    assert max(blocks) - min(blocks) <= 1
    dealt = np.concatenate([Group(rank, size).dealt(N) for rank in range(size)])
    assert_array_equal(np.sort(dealt), np.arange(N))


def test_rows_of_a_share_have_the_numbers_of_all():
    x_ND = clustered_features(100, D)
    x_ND[40, 3] = np.nan
    with pytest.raises(InputError, match="1 of 100 rows: 1064"):
        check_features(x_ND, first=1024)
