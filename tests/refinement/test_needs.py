"""What a refiner says it needs beside the clusters reaches it, in a run and in a profile."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from rapids_slr import run
from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.profiling.profile import profile_run
from rapids_slr.refinement.base import RefinerSpec
from rapids_slr.refinement.none import NoRefinement
from rapids_slr.settings import tables
from rapids_slr.settings.keys import values_of
from rapids_slr.settings.spec import RunSpec
from tests.conftest import TINY
from tests.test_run import changed

SEEN: list[tuple[torch.Tensor, dict[str, Any]]] = []


class Curious(NoRefinement):
    def update(self, labels, others=(), **needed):
        SEEN.append((labels, needed))
        return super().update(labels, others)


class CuriousSpec(RefinerSpec):
    """Looks at all there is."""

    name: Literal["curious"] = "curious"
    needs = frozenset({"features", "graph"})

    def build(self):
        return Curious()


@pytest.fixture
def curious(monkeypatch, tmp_path) -> RunSpec:
    monkeypatch.setitem(tables.REFINERS, "curious", CuriousSpec)
    SEEN.clear()
    checkpoint = run.pretrain(RunSpec.model_validate(TINY), tmp_path / "pretrained") / "checkpoints/pretrained.pt"
    spec = RunSpec.model_validate(TINY | {"refine": "curious"})
    return changed(spec, pretrain={"checkpoint": str(checkpoint)}, training={"epochs": 2, "iterations": 1})


def test_features_and_graph_are_those_of_the_clusters(curious, tmp_path):
    spec = changed(curious, clusters={"cameras": "ignore"})
    run.train(spec, tmp_path / "run")
    assert len(SEEN) == 2
    for labels_N, needed in SEEN:
        assert needed.keys() == {"features", "graph"}
        again = JaccardDBSCAN(**values_of(JaccardDBSCANKeys, spec.clusters)).fit(needed["features"])
        torch.testing.assert_close(needed["features"].norm(dim=1), torch.ones(48))
        assert torch.equal(again.labels_, labels_N)
        assert torch.equal(again.graph_.to_dense(), needed["graph"].to_dense())


def test_a_profile_gives_it_too(curious, tmp_path):
    profile_run(curious, tmp_path / "profile", repetitions=1)
    assert SEEN
    assert all(needed.keys() == {"features", "graph"} for _, needed in SEEN)


def test_a_clusterer_without_distances_is_refused(curious):
    with pytest.raises(ValueError, match=r"refine: curious needs the distances .* set clusters\.method: dbscan"):
        changed(curious, clusters={"method": "hdbscan"})
