"""The estimator against the dense formulas and scikit-learn."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.sparse import issparse
from sklearn.base import clone, is_clusterer
from sklearn.cluster import DBSCAN
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from rapids_slr.clustering import JaccardDBSCAN, jaccard_dbscan
from rapids_slr.clustering.sections import DBSCANSpec
from rapids_slr.errors import InputError
from tests.clustering.cases import canonical, families, groups
from tests.reference import jaccard as reference

FAMILIES = families(np.random.default_rng(3))


@pytest.mark.parametrize("rule", [{"pairs_per_image": 3}, {"pairs_per_image": 13}, {"rho": 2e-3}, {"rho": 0.5}])
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_equal_the_dense_way(family, rule):
    """eps from the dense rule, then scikit-learn's DBSCAN on the dense matrix: the same labels, number by number."""
    features = FAMILIES[family]
    model = JaccardDBSCAN(k1=12, k2=4, **rule).fit(features)
    distance, among_kept = reference.with_copies(features, 12, 4)
    related = among_kept[(among_kept > 0) & (among_kept < 1)]
    eps = reference.radius(among_kept, **rule) if related.size else 0.0
    assert model.eps_ == pytest.approx(eps, abs=1e-5)
    ours = np.ones(distance.shape)  # distances next to eps may round either way; decide on ours
    ours[np.arange(len(ours)), np.arange(len(ours))] = 0
    graph = model.graph_.tocoo()
    ours[graph.row, graph.col] = graph.data
    np.testing.assert_allclose(ours, distance, atol=1e-5)
    expected = DBSCAN(eps=max(model.eps_, 1e-9), min_samples=4, metric="precomputed").fit(ours).labels_
    assert_array_equal(model.labels_, reference.shared_labels(expected, features))
    if not (np.abs(distance - eps) < 1e-5).any():
        expected = DBSCAN(eps=max(eps, 1e-9), min_samples=4, metric="precomputed").fit(distance).labels_
        assert_array_equal(model.labels_, reference.shared_labels(expected, features))


def test_a_radius_of_one_reaches_every_pair():
    features = FAMILIES["clustered"]
    assert set(JaccardDBSCAN(k1=5, k2=1, eps=1.0).fit_predict(features)) == {0}


def test_radius_of_equal_images_is_zero_and_one_cluster_is_found():
    model = JaccardDBSCAN(k1=5).fit(FAMILIES["constant"][:6])
    assert model.eps_ == 0
    assert set(model.labels_) == {0}


@pytest.mark.parametrize("rule", [{"pairs_per_image": 3}, {"rho": 0.01}, {"rho": 0.3}, {"rho": 1.0}])
@pytest.mark.parametrize("weight", [0.1, 0.6])
def test_radius_with_a_source_term_counts_pairs_that_are_not_stored(rule, weight):
    rng = np.random.default_rng(4)
    features, source = groups(rng, 80, 9), groups(rng, 40, 9)
    J = reference.jaccard_distances(features, 6, 3)
    distance = reference.with_source(J, features, source, weight)
    model = JaccardDBSCAN(k1=6, k2=3, source_weight=weight, **rule)
    eps = reference.radius(distance, **rule)
    if eps >= distance[J == 1].min():
        with pytest.raises(InputError, match=rf"eps={eps:.3f}\d* reaches pairs without a common neighbour"):
            model.fit(features, source=source)
        return
    assert model.fit(features, source=source).eps_ == pytest.approx(eps, abs=1e-5)
    near = DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit(distance).labels_
    assert_array_equal(model.labels_, near)


def core_points(model):
    graph = model.graph_.copy()
    near = np.add.reduceat(np.append(graph.data <= np.float32(model.eps_), False), graph.indptr[:-1])
    return np.where(np.diff(graph.indptr) > 0, near, 0) + 1 >= model.min_samples


def test_the_order_of_images_does_not_matter():
    """The same clusters of core points and the same outliers; a border point between two may choose the other one."""
    rng = np.random.default_rng(5)
    for _ in range(30):
        features = groups(rng, 150, 12)
        order = rng.permutation(150)
        model, shuffled = (JaccardDBSCAN(k1=12, pairs_per_image=4).fit(x) for x in (features, features[order]))
        assert model.eps_ == pytest.approx(shuffled.eps_, abs=1e-6)
        core = core_points(model)
        assert_array_equal(core[order], core_points(shuffled))
        assert canonical(model.labels_[order][core[order]]) == canonical(shuffled.labels_[core[order]])
        assert_array_equal(model.labels_[order] < 0, shuffled.labels_ < 0)


def test_fixed_radius_before_rho_before_pairs():
    features = FAMILIES["clustered"]
    assert JaccardDBSCAN(k1=8, eps=0.4, rho=0.1).fit(features).eps_ == 0.4
    by_rho = JaccardDBSCAN(k1=8, rho=0.1, pairs_per_image=None).fit(features).eps_
    assert JaccardDBSCAN(k1=8, rho=0.1, pairs_per_image=2).fit(features).eps_ == by_rho


@pytest.mark.parametrize("radius", [{"pairs_per_image": 4}, {"rho": 0.1}, {"eps": 0.4}])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_another_radius_gives_what_a_new_fit_would(radius, convert):
    features = FAMILIES["clustered"]
    model = JaccardDBSCAN(k1=8, pairs_per_image=2, min_size=3).fit(convert(features))
    labels = model.labels_at(**radius)
    assert type(labels) is type(convert(features))
    settings = {"pairs_per_image": None} | radius
    assert_array_equal(labels, JaccardDBSCAN(k1=8, min_size=3, **settings).fit_predict(features))
    assert model.eps_ == JaccardDBSCAN(k1=8, pairs_per_image=2).fit(features).eps_  # the fit is as it was


def test_another_radius_needs_a_fit_and_a_radius():
    with pytest.raises(NotFittedError):
        JaccardDBSCAN().labels_at(eps=0.5)
    model = JaccardDBSCAN(k1=8, pairs_per_image=2).fit(FAMILIES["clustered"])
    with pytest.raises(InputError, match="give one of pairs_per_image, rho and eps"):
        model.labels_at()
    with pytest.raises(InputError, match=r"rho must lie in \(0, 1\], got 2"):
        model.labels_at(rho=2)


def test_small_clusters_of_a_fit_become_outliers():
    model = JaccardDBSCAN(k1=8, pairs_per_image=4, min_size=11).fit(FAMILIES["clustered"])
    assert np.bincount(model.labels_[model.labels_ >= 0]).min() >= 11


def test_estimator_holds_what_it_promises():
    features = groups(np.random.default_rng(6), 200, 10, noise=0.5)
    model = JaccardDBSCAN(k1=15)
    assert_array_equal(model.fit_predict(features), model.labels_)
    assert model.labels_.dtype == np.int32
    assert model.labels_.max() + 1 == 10
    assert isinstance(model.eps_, float)
    assert issparse(model.graph_)
    assert model.graph_.shape == (200, 200)
    assert model.graph_.data.max() < 1
    assert model.n_features_in_ == 24


def test_scikit_learn_conventions():
    settings = {"k1": 9, "k2": 3, "pairs_per_image": 4, "rho": 0.1, "eps": 0.5, "min_samples": 3, "min_size": 2}
    settings |= {"min_share": 0.3}
    settings |= {"source_weight": 0.2, "search": "approximate", "solver": "graph", "cameras": "auto"}
    settings |= {"convention": "faiss"}
    model = JaccardDBSCAN(**settings)
    assert model.get_params() == settings
    copy = clone(model.set_params(k1=11))
    assert copy.get_params() == {**settings, "k1": 11}
    assert not hasattr(clone(JaccardDBSCAN(k1=8).fit(FAMILIES["clustered"])), "labels_")
    assert is_clusterer(model)
    with pytest.raises(ValueError, match="Invalid parameter 'k3'"):
        model.set_params(k3=1)


def test_the_last_step_of_a_pipeline():
    rng = np.random.default_rng(10)
    features = groups(rng, 120, 8)
    pipeline = make_pipeline(Normalizer(), JaccardDBSCAN(k1=10))
    lengths = rng.uniform(0.5, 2, (120, 1))
    assert_array_equal(pipeline.fit_predict(features * lengths), JaccardDBSCAN(k1=10).fit_predict(features))
    pipeline.set_params(jaccarddbscan__k1=6, jaccarddbscan__eps=0.4)
    assert_array_equal(clone(pipeline).fit(features)[-1].labels_, JaccardDBSCAN(k1=6, eps=0.4).fit_predict(features))
    pipeline.set_params(jaccarddbscan__source_weight=0.1, jaccarddbscan__eps=0.2)
    source = groups(rng, 30, 3)
    expected = JaccardDBSCAN(k1=6, eps=0.2, source_weight=0.1).fit_predict(features, source=source)
    assert_array_equal(pipeline.fit_predict(features, jaccarddbscan__source=source), expected)


def test_torch_in_torch_out():
    features = groups(np.random.default_rng(7), 100, 6)
    ours, theirs = JaccardDBSCAN(k1=10).fit(features), JaccardDBSCAN(k1=10).fit(torch.from_numpy(features))
    assert theirs.labels_.dtype == torch.int64
    assert theirs.labels_at(eps=0.3).dtype == torch.int64
    assert_array_equal(theirs.labels_.numpy(), ours.labels_)
    assert theirs.graph_.layout == torch.sparse_csr
    assert_array_equal(theirs.graph_.values().numpy(), ours.graph_.data)


def test_read_only_features():
    features = groups(np.random.default_rng(8), 100, 6)
    expected = JaccardDBSCAN(k1=10).fit_predict(features)
    features.flags.writeable = False
    assert_array_equal(JaccardDBSCAN(k1=10).fit_predict(features), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": 60}, "features: 60 rows, but k1=60 and k2=6 need at least 61; lower k1 and k2 or give more images"),
        ({"k1": 0}, "k1 must be a whole number of at least 1, got 0"),
        ({"k2": 2.5}, "k2 must be a whole number of at least 1, got 2.5"),
        ({"min_samples": 0}, "min_samples must be a whole number of at least 1"),
        ({"pairs_per_image": -1}, r"pairs_per_image must lie in \(0, inf\], got -1"),
        ({"rho": 1.5}, r"rho must lie in \(0, 1\], got 1.5"),
        ({"eps": 0}, r"eps must lie in \(0, inf\], got 0"),
        ({"pairs_per_image": None}, "give one of pairs_per_image, rho and eps"),
        ({"search": "fast"}, "search must be exact, approximate or auto, got 'fast'"),
        ({"solver": "cuda"}, "solver must be auto, cuml or graph, got 'cuda'"),
        ({"source_weight": 1}, r"source_weight must lie in \[0, 1\), got 1"),
        ({"source_weight": 0.1}, "source_weight=0.1 needs the features of the source domain"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        JaccardDBSCAN(**settings).fit(FAMILIES["random"][:60])


def test_k1_far_above_the_images_of_an_identity_is_said_once(caplog):
    features = groups(np.random.default_rng(61), 300, 60, noise=0.3)  # 5 images an identity
    model = JaccardDBSCAN(k1=30, pairs_per_image=1, min_samples=2)
    for _ in range(2):
        model.fit(features)
    told = [record.getMessage() for record in caplog.records]
    assert len([text for text in told if text.startswith("k1=30 is more than twice the ")]) == 1
    caplog.clear()
    JaccardDBSCAN(k1=5, pairs_per_image=2, min_samples=2).fit(features)
    assert caplog.records == []


def test_a_dense_graph_is_said(caplog):
    noise = np.random.default_rng(62).normal(size=(2500, 16))
    JaccardDBSCAN(k1=30, min_samples=1).fit((noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32))
    (text,) = [record.getMessage() for record in caplog.records if "distances an image" in record.getMessage()]
    assert "of 2500: neighbourhoods meet nearly everywhere" in text


def test_features_that_are_nearly_alike_are_said_to_have_collapsed(caplog):
    draw = np.random.default_rng(62)
    features = draw.normal(size=16) + 0.05 * draw.normal(size=(2500, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    JaccardDBSCAN(k1=30, min_samples=1).fit(features.astype(np.float32))
    (text,) = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert "the similarity of two images is 0.99" in text


def test_a_run_says_a_doubt_once(caplog):
    features = torch.from_numpy(groups(np.random.default_rng(61), 300, 60, noise=0.3))
    clusterer = DBSCANSpec(k1=30, pairs_per_image=1, min_samples=2).build()
    for _ in range(3):
        clusterer.fit_predict(features)
    assert len([record for record in caplog.records if "median cluster" in record.getMessage()]) == 1


def test_the_graph_of_a_caller_is_made_when_it_is_asked_for(monkeypatch):
    """A run never reads it, and as torch's it would take more memory than the graph."""
    made = []
    real = jaccard_dbscan.csr_like
    monkeypatch.setattr(jaccard_dbscan, "csr_like", lambda *args: made.append(args) or real(*args))
    model = JaccardDBSCAN(k1=12, k2=4, pairs_per_image=3)
    assert not hasattr(model, "graph_")
    model.fit(torch.from_numpy(FAMILIES["clustered"]))
    model.labels_at(pairs_per_image=2)
    assert not made
    assert model.graph_.layout == torch.sparse_csr
    assert len(made) == 1
