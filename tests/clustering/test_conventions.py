"""The conventions of other code, against transcriptions of it."""

import zipfile

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.cluster import DBSCAN

from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.errors import InputError
from tests.clustering.cases import canonical, groups, unit
from tests.conftest import shared_data
from tests.reference import peers


def characters():
    """Pixels of the training images of Omniglot, smoothed, as unit rows."""
    path = shared_data("omniglot-small") / "target.zip"
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("bounding_box_train/"))
        images = [Image.open(archive.open(name)).convert("L").resize((16, 16), Image.Resampling.BOX) for name in names]
    return unit(255.0 - np.stack([np.asarray(image, np.float64).ravel() for image in images]))[:600]


def features_of(name):
    rng = np.random.default_rng(21)
    if name == "real":
        return characters()
    clustered = groups(rng, 240, 12, D=32, noise=0.6)
    return {
        "clustered": clustered,
        "duplicated": clustered[rng.permutation(np.concatenate([np.arange(240), np.arange(0, 120, 2)]))],
        "random": unit(rng.normal(size=(200, 32))),
    }[name]


def distances(model):
    """All distances of a fitted model, far ones 1."""
    graph = model.graph_.tocoo()
    found = 1 - np.eye(graph.shape[0])
    found[graph.row, graph.col] = graph.data
    return found


@pytest.mark.parametrize(("k1", "k2"), [(30, 6), (20, 1), (7, 9), (2, 1)])
@pytest.mark.parametrize("name", ["clustered", "duplicated", "random", "real"])
def test_faiss_convention_equals_the_code_it_follows(name, k1, k2):
    features = features_of(name)
    expected = peers.faiss_family(features, k1, k2)
    model = JaccardDBSCAN(k1=k1, k2=k2, convention="faiss", eps=0.6).fit(features)
    np.fill_diagonal(expected, 0)
    assert_allclose(distances(model), expected, atol=1e-6)
    for eps in (0.4, 0.5, 0.6, 0.7):
        if (np.abs(expected - eps) < 1e-6).any():
            continue  # a pair tied at eps
        theirs = DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit(expected.astype(np.float32)).labels_
        assert canonical(model.labels_at(eps=eps)) == canonical(theirs)


def test_the_conventions_differ():
    features = features_of("clustered")
    faiss, rerank = (JaccardDBSCAN(k1=20, convention=word, eps=0.6).fit(features) for word in ("faiss", "rerank"))
    assert np.abs(distances(faiss) - distances(rerank)).max() > 0.05


def test_faiss_convention_by_torch_and_by_its_least_number_of_images():
    features = features_of("clustered")[:20]
    settings = {"k1": 20, "k2": 6, "convention": "faiss", "eps": 0.6}
    expected = JaccardDBSCAN(**settings).fit_predict(features)
    assert_array_equal(JaccardDBSCAN(**settings).fit_predict(torch.from_numpy(features)), expected)
    with pytest.raises(InputError, match="20 rows, but k1=21 and k2=6 need at least 21"):
        JaccardDBSCAN(**settings | {"k1": 21}).fit(features)
    with pytest.raises(InputError, match="convention must be rerank or faiss, got 'fais'"):
        JaccardDBSCAN(convention="fais").fit(features)


@pytest.mark.parametrize(("copied", "kept"), [(20, 20), (60, 20)])
def test_faiss_convention_keeps_copies_that_its_lists_hold(copied, kept):
    """Up to k1 copies are images as in the code it follows; more could only be told apart by the order of files."""
    features = groups(np.random.default_rng(22), 104, 10)
    features = np.concatenate([np.repeat(features[:4], copied, axis=0), features[4:]])
    model = JaccardDBSCAN(k1=20, convention="faiss", eps=0.6).fit(features)
    assert model.copies_ == 4 * (copied - 1)
    assert 4 * kept + 101 == model._distances.N + 1
    assert all(len(set(model.labels_[copied * one : copied * one + copied])) == 1 for one in range(4))
    assert (model.labels_[: 4 * copied] >= 0).all()
