"""mAP and CMC equal a plain implementation, and obey the laws of ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from rapids_slr.errors import InputError
from rapids_slr.evaluation import nearest_answers, query_results, retrieval_scores
from tests.reference import reid_metrics

seeds = st.integers(0, 2**16)


def case(seed: int, queries: int, gallery: int, people: int = 4, cameras: int = 3, values: int = 4) -> list:
    """Whole-numbered features (few values make ties), identities from junk -1 and distractors 0 up, cameras."""
    rng = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int, *shape: int) -> list:
        return torch.randint(low, high, shape, generator=rng).tolist()

    return [
        whole(0, values, queries, 3),
        whole(0, values, gallery, 3),
        whole(-1, people, queries),
        whole(0, cameras, queries),
        whole(-1, people, gallery),
        whole(0, cameras, gallery),
    ]


def tensors(lists: list) -> list:
    return [torch.tensor(x, dtype=torch.float32 if i < 2 else torch.int64) for i, x in enumerate(lists)]


@given(
    seeds, st.integers(1, 8), st.integers(1, 30), st.integers(2, 6), st.integers(1, 3), st.sampled_from([1, 2, 4, 50])
)
@example(0, 6, 20, 3, 1, 4)  # one camera: every image of a query's identity is left out
@example(0, 6, 20, 3, 3, 1)  # all features equal: the gallery's order decides
def test_scores_equal_a_plain_implementation(seed, queries, gallery, people, cameras, values):
    lists = case(seed, queries, gallery, people, cameras, values)
    expected = reid_metrics.scores(*lists)
    if expected is None:
        with pytest.raises(InputError, match=f"none of {queries} queries has a match among {gallery} gallery images"):
            retrieval_scores(*tensors(lists))
    else:
        assert retrieval_scores(*tensors(lists)) == pytest.approx(expected, abs=1e-12)


def test_a_larger_case_in_blocks_of_any_size():
    lists = case(1, 60, 400, people=12, values=40)
    expected = pytest.approx(reid_metrics.scores(*lists), abs=1e-12)
    for block in (1, 7, 60, 1000):
        assert retrieval_scores(*tensors(lists), block=block) == expected


def test_a_case_by_hand():
    # The query, identity 1 of camera 0, at the origin; gallery images at distances 1..6.
    gallery = torch.arange(1.0, 7.0)[:, None]
    identities = torch.tensor([-1, 0, 1, 1, 2, 1])  # junk, distractor, same view, match, other, match
    cameras = torch.tensor([1, 1, 0, 1, 1, 2])
    scores = retrieval_scores(
        torch.zeros(1, 1), gallery, torch.tensor([1]), torch.tensor([0]), identities, cameras
    )  # ranked: distractor, match, other, match
    assert scores == {
        "mAP": pytest.approx((1 / 2 + 2 / 4) / 2),
        "rank1": 0.0,
        "rank5": 1.0,
        "rank10": 1.0,
        "queries": 1,
        "unmatched": 0,
    }


def test_distractors_match_no_query_of_identity_0():
    lists = [[[0]], [[0]], [0], [0], [0], [1]]
    with pytest.raises(InputError, match="none of 1 queries has a match"):
        retrieval_scores(*tensors(lists))


def test_ties_rank_by_gallery_index():
    def first_match(identities):
        lists = [[[0, 0]], [[1, 0], [0, 1], [1, 0]], [1], [0], identities, [1, 1, 1]]
        return query_results(*tensors(lists)).first_match.item()

    assert [first_match(x) for x in ([1, 2, 2], [2, 1, 2], [2, 2, 1])] == [1, 2, 3]


@given(seeds)
def test_scores_do_not_depend_on_the_order_of_a_gallery_without_ties(seed):
    rng = torch.Generator().manual_seed(seed)
    query, gallery, *labels = tensors(case(seed, 8, 40))
    query, gallery = torch.rand(query.shape, generator=rng), torch.rand(gallery.shape, generator=rng)
    labels[0][0], labels[1][0], labels[2][0], labels[3][0] = 1, 0, 1, 1  # at least one match
    order = torch.randperm(len(gallery), generator=rng)
    expected = retrieval_scores(query, gallery, *labels)
    permuted = retrieval_scores(query, gallery[order], *labels[:2], labels[2][order], labels[3][order])
    assert permuted == pytest.approx(expected, abs=1e-12)


@given(seeds, st.sampled_from([2.0**-20, 0.5, 1024.0]))
def test_scores_do_not_depend_on_the_scale_of_the_features(seed, scale):
    query, gallery, *labels = tensors(case(seed, 8, 40))
    labels[0][0], labels[1][0], labels[2][0], labels[3][0] = 1, 0, 1, 1
    assert retrieval_scores(scale * query, scale * gallery, *labels) == retrieval_scores(query, gallery, *labels)


def test_perfect_features_score_one():
    identities, cameras = torch.arange(1, 9).repeat(2), torch.arange(2).repeat_interleave(8)
    features = torch.eye(8).repeat(2, 1)
    scores = retrieval_scores(features, features, identities, cameras, identities, cameras)
    assert (scores["mAP"], scores["rank1"], scores["queries"]) == (1.0, 1.0, 16)


def test_results_by_query_mark_those_without_a_match():
    lists = [[[0], [0]], [[1], [0], [2]], [1, 5], [0, 0], [1, 2, 1], [1, 1, 1]]
    results = query_results(*tensors(lists))
    assert results.matches.tolist() == [2, 0]
    assert results.first_match.tolist() == [2, 0]
    assert results.average_precision.tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 0.0])


def test_features_that_are_not_finite_are_named():
    arguments = tensors(case(0, 4, 10))
    arguments[1][3, 0] = torch.nan
    with pytest.raises(InputError, match="gallery: 1 of 10 feature rows are not finite, the first is row 3"):
        retrieval_scores(*arguments)


def test_lengths_that_differ_are_named():
    arguments = tensors(case(0, 4, 10))
    with pytest.raises(InputError, match=r"gallery_cameras: expected one integer for each of 10 images, got \(9,\)"):
        retrieval_scores(*arguments[:5], arguments[5][:9])
    with pytest.raises(InputError, match="nothing to rank: 0 queries and 10 gallery images"):
        retrieval_scores(arguments[0][:0], arguments[1], *arguments[2:])
    with pytest.raises(InputError, match=r"expected \(Q, D\) and \(G, D\), got \(4, 2\) and \(10, 3\)"):
        retrieval_scores(arguments[0][:, :2], *arguments[1:])


def test_an_identity_may_fill_the_gallery():
    lists = [[[0], [3]], [[1], [2], [0]], [4, 4], [0, 9], [4, 4, 4], [1, 2, 0]]
    results = query_results(*tensors(lists))
    assert results.matches.tolist() == [2, 3]
    assert results.average_precision.tolist() == [1.0, 1.0]
    assert retrieval_scores(*tensors(lists)) == reid_metrics.scores(*lists)


@given(seeds, st.integers(1, 6), st.integers(1, 20), st.sampled_from([1, 3, 50]))
@example(0, 6, 20, 50)
def test_the_nearest_answers_are_those_that_a_plain_ranking_starts_with(seed, queries, gallery, most):
    lists = case(seed, queries, gallery, cameras=2)
    index_QK, right_QK = nearest_answers(*tensors(lists), most)
    for row, (query, identity, camera) in enumerate(zip(lists[0], *lists[2:4], strict=True)):
        offered = [
            (sum((a - b) ** 2 for a, b in zip(query, features, strict=True)), i)
            for i, features in enumerate(lists[1])
            if lists[4][i] != -1 and not (lists[4][i] == identity and lists[5][i] == camera)
        ]
        expected = [i for _, i in sorted(offered)[:most]]
        found = [i for i in index_QK[row].tolist() if i >= 0]
        assert found == expected
        assert index_QK[row, len(found) :].eq(-1).all()
        right = [identity > 0 and lists[4][i] == identity for i in found]
        assert right_QK[row].tolist() == right + [False] * (index_QK.shape[1] - len(right))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_identities_that_have_lost_their_sign_are_refused(kind):
    features, cameras = torch.eye(3), torch.tensor([1, 2, 3])
    identities = np.array([1, 1, -1]).astype(kind)
    with pytest.raises(InputError, match=r"gallery_identities: (255|65535) is what -1 \(junk\) becomes without a sign"):
        retrieval_scores(features, features, torch.tensor([1, 1, 2]), cameras, identities, cameras)
