"""Re-ranking against transcriptions of person-re-ranking and torchreid."""

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from rapids_slr.errors import InputError
from rapids_slr.evaluation import Reranking, query_results, rerank, reranking, retrieval_scores
from tests.clustering.cases import groups, unit
from tests.reference import peers


def case(kind, queries=30, gallery=150):
    rng = np.random.default_rng(31)
    if kind == "random":
        return unit(rng.normal(size=(queries, 24))), unit(rng.normal(size=(gallery, 24)))
    features = groups(rng, queries + gallery, 15)
    if kind == "duplicated":
        features[queries : queries + 20] = features[:20]
    return features[:queries], features[queries:]


def theirs(query, gallery, k1, k2, lambda_value, squared):
    """person-re-ranking is given Euclidean distances, torchreid squared ones."""
    pairs = [(query, gallery), (query, query), (gallery, gallery)]
    parts = [np.maximum(0, peers.squared_euclidean(x.astype(np.float64), y.astype(np.float64))) for x, y in pairs]
    return peers.re_ranking(*(part if squared else np.sqrt(part) for part in parts), k1, k2, lambda_value)


@pytest.mark.parametrize("squares", [False, True], ids=["person-re-ranking", "torchreid"])
@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (7, 1, 0), (30, 8, 0.5), (3, 2, 1)])
@pytest.mark.parametrize("kind", ["clustered", "random", "duplicated"])
def test_equals_the_code_of_others(kind, k1, k2, lambda_value, squares):
    query, gallery = case(kind)
    found = rerank(query, gallery, k1, k2, lambda_value, squares)
    assert (found.shape, found.dtype) == ((30, 150), np.float32)
    assert_allclose(found, theirs(query, gallery, k1, k2, lambda_value, squared=squares), atol=1e-6)


def test_blocks_and_libraries_give_the_same(monkeypatch):
    query, gallery = case("clustered")
    expected = rerank(query, gallery)
    whole = rerank(torch.from_numpy(query), torch.from_numpy(gallery))
    assert isinstance(whole, torch.Tensor)
    assert_array_equal(whole.numpy(), expected)
    monkeypatch.setattr(reranking, "BLOCK", 7)
    assert_allclose(rerank(query, gallery), expected, atol=1e-6)  # products of other blocks round otherwise


def test_no_array_of_all_images_by_all_images():
    """Of 40 queries among 3,000 images: what is kept, and what a block takes, is far from 3,040 x 3,040."""
    features = groups(np.random.default_rng(32), 3040, 100, noise=0.3)
    tracemalloc.start()
    found = Reranking(features[:40], features[40:])
    found.block(0, 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found._graph[1].size < 40 * 600
    assert peak < 3040 * 3040 * 4 / 2 + 16e6  # 16 MB is the block of the search


def test_scores_are_those_of_the_distances():
    query, gallery = map(torch.from_numpy, case("clustered"))
    rng = torch.Generator().manual_seed(1)
    labels = [torch.randint(1, 6, (n,), generator=rng) for n in (30, 30, 150, 150)]
    found = Reranking(query, gallery)
    by_block = query_results(query, gallery, *labels, block=4, reranking=found)
    scores = retrieval_scores(query, gallery, *labels, reranking=found)
    identities_Q, cameras_Q, identities_G, cameras_G = (part.numpy() for part in labels)
    precisions = []
    for q, distances in enumerate(rerank(query, gallery).numpy()):
        counted = ~((identities_G == identities_Q[q]) & (cameras_G == cameras_Q[q]))
        order = np.flatnonzero(counted)[np.argsort(distances[counted], kind="stable")]
        hits = np.flatnonzero(identities_G[order] == identities_Q[q])
        precisions.append(((np.arange(hits.size) + 1) / (hits + 1)).mean())
    assert_allclose(by_block.average_precision, precisions)
    assert scores["mAP"] == pytest.approx(np.mean(precisions))
    assert scores != retrieval_scores(query, gallery, *labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0}, "expected k1 and k2 of 1 or more and lambda in"),
        ({"lambda_value": 1.5}, r"lambda in \[0, 1\], got 20, 6 and 1.5"),
        ({"k1": 180}, "30 queries and 150 gallery images, but k1=180 and k2=6 need 181 together; lower k1 and k2"),
        ({"query": np.ones((30, 24), np.float32)}, "query: expected rows of unit length"),
        ({"query": unit(np.ones((3, 5)))}, "queries of 5 dimensions, but a gallery of 24"),
    ],
)
def test_what_cannot_be_used_is_named(change, message):
    query, gallery = case("clustered")
    with pytest.raises(InputError, match=message):
        rerank(**{"query": query, "gallery": gallery} | change)
