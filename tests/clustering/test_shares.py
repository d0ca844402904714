"""Any number of processes gives the labels of one, bit by bit, and none of them ever has all features."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from rapids_slr.bench import clustered_features, collapsed_features, isotropic_features
from rapids_slr.clustering import JaccardDBSCAN, neighbours, shares, tiles
from rapids_slr.clustering.neighbours import check_features, nearest_neighbours
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


def sent_by_fits(group: Group, widths: tuple[int, ...]) -> list[tuple[dict[str, int], list[tuple[int, ...]]]]:
    """What is sent for the same images with columns of zeros behind their features."""
    found = []
    for width in widths:
        watched, x_ND = Watched(group.rank, group.size), np.pad(many_copies(3000), ((0, 0), (0, width - D)))
        share = watched.share(3000)
        JaccardDBSCAN(k1=15).fit(x_ND[share.start : share.stop], group=watched, cameras=np.arange(3000) % 3)
        found.append((dict(watched.sent), watched.gathered))
    return found


def test_features_are_never_gathered():
    """They go by in blocks, a few times; what all processes get has no row of D numbers, and does not grow with D."""
    widths = D, 3 * D
    of_processes = together(2, sent_by_fits, widths)
    for (sent, shapes), (sent_wide, shapes_wide) in of_processes:
        assert shapes
        assert shapes == shapes_wide
        assert all(len(shape) == 1 or shape[1] < D for shape in shapes)
        assert set(sent) == {"gather", "blocks", "ring", "total", "in_turn"}
        assert [sent_wide[how] for how in ("gather", "total")] == [sent[how] for how in ("gather", "total")]
    number = 3000 - 1201 + 3 * 16  # kept: of the copies in three cameras, k1 + 1 of each
    for width, found in zip(widths, zip(*of_processes, strict=True), strict=True):
        row = 4 * width

        def sent_by(how, found=found):
            return sum(sent[how] for sent, _ in found)

        # All rows go by three times: copies are compared, and the kept rows taken, centred and as they are. The kept
        # ones once more, for members that are in no list.
        assert sent_by("blocks") == (3 * 3000 + number) * row
        # Neighbours of the kept ones: all of one share go to the other process, and half of the other share to this
        # one. With an image two bounds go, and its list and its furthest come back.
        assert sent_by("ring") == (1024 + (number - 1024) // 2) * (row + 2 * 8 + 15 * (8 + 4) + 8)
        # Sums go from the first process to the second, and back when they are complete: of each camera and of all; of
        # the kept ones too, which tells the search whether these are nearly alike.
        assert sent_by("in_turn") == 2 * (3 + 1 + 1) * row


def lists_from_bfloat16(group: Group, deciding: tuple[int, ...]) -> list[tuple[np.ndarray, ...]]:
    """Neighbours of some features, where these processes find that bfloat16 pays; and whether it was taken."""
    found = []
    with pytest.MonkeyPatch.context() as patched:
        taken, real = set(), shares.multiply

        def watched(rows, *args):
            taken.add(rows.of.share > 0)
            return real(rows, *args)

        patched.setattr(neighbours, "COARSE", 0)
        patched.setattr(blocks, "bfloat16_pays", lambda: (group.rank in deciding, ""))
        patched.setattr(shares, "multiply", watched)
        patched.setattr(neighbours, "multiply", watched)
        for x_ND in in_many_ways():
            share, taken = group.share(len(x_ND)), set()
            of = nearest_neighbours(x_ND[share.start : share.stop].copy(), 12, group=group)
            found.append((of.indices_Nk, of.distances_Nk, of.furthest_N, np.array(sorted(taken))))
    return found


def in_many_ways() -> list[np.ndarray]:
    return [
        clustered_features(3000, D, 4),
        isotropic_features(2999, 16, 1),
        tied(2999),
        collapsed_features(2999, 64, 3, noise=1e-3),
        many_copies(2050),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_lists_nominated_in_bfloat16_are_those_of_one_process_in_float32(size):
    expected = [nearest_neighbours(x_ND, 12) for x_ND in in_many_ways()]
    found = together(size, lists_from_bfloat16, tuple(range(size)))
    assert any(taken.tolist() == [True] for *_, taken in found[0])
    for of_process in found:
        for of, (indices_Nk, distances_Nk, furthest_N, taken) in zip(expected, of_process, strict=True):
            assert len(taken) == 1
            assert_array_equal(indices_Nk, of.indices_Nk)
            assert_array_equal(distances_Nk, of.distances_Nk)
            assert_array_equal(furthest_N, of.furthest_N)


@pytest.mark.slow
def test_where_bfloat16_does_not_pay_on_one_process_none_takes_it():
    for of_process in together(2, lists_from_bfloat16, (1,)):
        assert all(taken.tolist() == [False] for *_, taken in of_process)


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("N", [7168, 4096, 3072, 1500, 2049])
def test_every_two_images_are_multiplied_once(size, N):
    met_NN, work = np.zeros((N, N), np.uint8), []
    for rank in range(size):
        group = Group(rank, size)
        own = group.share(N)
        met_NN[own.start : own.stop, own.start : own.stop] += 1
        work.append(len(own) ** 2)
        for by in range(1, size // 2 + 1):
            mine, theirs = shares._turn(group, N, rank, by)
            assert {*mine} <= {*own}
            assert {*theirs} <= {*group.share(N, (rank - by) % size)}
            for rows, columns in ((mine, theirs), (theirs, mine)):
                met_NN[rows.start : rows.stop, columns.start : columns.stop] += 1
            work[-1] += 2 * len(mine) * len(theirs)
    assert (met_NN == 1).all()
    assert sum(work) == N * N
    if size * 1024 == N:
        assert len({*work}) == 1  # all have as much to do


def peak_of_a_search(group: Group, N: int) -> int:
    """Bytes, with the strips of a few images so narrow as those of a million are beside a share."""
    blocks.STRIP = blocks.BLOCK
    tiles.TILES = 2
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


def searched_by_itself(group: Group) -> list[bool]:
    """Whether labels of `auto` are those of `exact`, where one of the processes finds an approximate search faster."""
    x_ND = clustered_features(3000, D)
    share = group.share(3000)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(neighbours, "A_NEIGHBOUR", 1e-9 if group.rank else 1e9)
        labels = [
            JaccardDBSCAN(search=how).fit(x_ND[share.start : share.stop], group=group) for how in ("auto", "exact")
        ]
    return [np.array_equal(labels[0].labels_, labels[1].labels_), labels[0].recall_ == 1]


def test_auto_is_exact_on_several_processes():
    assert together(2, searched_by_itself) == [[True, True]] * 2


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
    first, _ = together(2, refused)  # which come back: no process waits for another
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
