"""What benchmarks/labels.py times beside the engine computes what it says."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rapids_slr.bench import clustered_features
from rapids_slr.clustering import JaccardDBSCAN
from tests.reference import peers

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import labels


def test_the_way_by_faiss_is_that_of_its_family():
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    x_ND = clustered_features(200, 24)
    np.testing.assert_allclose(labels.faiss_distances(x_ND, 12, 6), peers.faiss_family(x_ND, 12, 6), atol=1e-5)
    ours = JaccardDBSCAN(k1=12, convention="faiss", eps=0.6, min_samples=4).fit_predict(x_ND)
    np.testing.assert_array_equal(labels.faiss_labels(x_ND, 12, 0.6), ours)


def test_features_in_a_file_cluster_as_those_that_are_drawn(tmp_path):
    identity_N = labels.clustered_into(tmp_path / "f.npy", 500, 24, 0)
    x_ND = np.load(tmp_path / "f.npy")
    np.testing.assert_allclose(np.linalg.norm(x_ND, axis=1), 1, atol=1e-5)
    near = (x_ND @ x_ND.T)[identity_N[:, None] == identity_N].mean()
    drawn = clustered_features(500, 24)
    assert near > 3 * abs((drawn @ drawn.T).mean())
    assert np.bincount(identity_N).min() >= 17


def test_results_of_other_features_are_kept(tmp_path):
    kept = {"features": "isotropic", "dim": 512, "k1": 30, "samples": 4000}
    again = kept | {"features": "clustered", "search": "approximate"}
    assert labels.of_what(kept) != labels.of_what(again)
    assert labels.of_what(kept) == labels.of_what(json.loads(json.dumps(kept)))
    options = argparse.Namespace(network=None, features="isotropic")
    assert labels.features_of(options)(10, 4, 0, 0).shape == (10, 4)
