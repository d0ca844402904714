"""What every refiner of the table does: it trains, goes on after a stop bit for bit, and is reported."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from rapids_slr import run
from rapids_slr.reports import write_report
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.tables import REFINERS
from tests.conftest import TINY
from tests.hosts.test_every_host import differing
from tests.test_run import changed, metrics_without_times, stopped

SOFT = {"slr": {"hard": "none"}, "propagation": {"targets": "soft"}, "ensembling": {"targets": "soft", "majority": 0.0}}
"""How a refiner is asked for soft labels."""


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> RunSpec:
    """Three short epochs from one network."""
    tiny = RunSpec.model_validate(TINY)
    checkpoint = run.pretrain(tiny, tmp_path_factory.mktemp("pretrained")) / "checkpoints/pretrained.pt"
    return changed(
        tiny,
        pretrain={"checkpoint": str(checkpoint)},
        training={"iterations": 2, "weights": "confidence"},
        evaluation={"guard": False, "pick": "last", "every": 3},
    )


def with_refiner(spec: RunSpec, name: str, **keys) -> RunSpec:
    return RunSpec.model_validate(spec.model_dump() | {"refine": {"name": name, **keys}})


@pytest.mark.parametrize("name", REFINERS)
def test_it_resumes_bit_for_bit_and_is_reported(spec, name, tmp_path):
    spec = with_refiner(spec, name)
    whole = run.train(spec, tmp_path / "whole")
    stopped(run.train, spec, tmp_path / "parts", 2)
    parts = run.train(spec, tmp_path / "parts", resume=True)
    assert metrics_without_times(whole) == metrics_without_times(parts)
    one, other = (torch.load(folder / "checkpoints/last.pt", weights_only=True) for folder in (whole, parts))
    assert differing(one, other) == []
    for path in sorted((whole / "labels").iterdir()):
        table = pd.read_parquet(path)
        pd.testing.assert_frame_equal(table, pd.read_parquet(parts / "labels" / path.name))
        assert_sound(table)
    page = write_report([whole]).read_text()
    assert spec.refine.words in page
    assert ("its label tables do not tell soft labels" in page) == (name not in ("slr", "none"))


def assert_sound(table: pd.DataFrame) -> None:
    refined_N, confidence_N = table["refined"].to_numpy(), table["confidence"].to_numpy()
    assert set(refined_N[refined_N >= 0]) == set(range(refined_N.max() + 1))
    assert (confidence_N[refined_N >= 0] > 0).all()
    assert ((confidence_N >= 0) & (confidence_N <= 1)).all()


@pytest.mark.parametrize("name", SOFT)
def test_soft_labels_are_trained_on(spec, name, tmp_path):
    out = run.train(changed(with_refiner(spec, name, **SOFT[name]), training={"epochs": 2}), tmp_path / "run")
    assert [row["epoch"] for row in metrics_without_times(out)] == [1, 2]
    assert np.isfinite(metrics_without_times(out)[-1]["loss/ce"])


@pytest.mark.parametrize("name", REFINERS)
def test_what_it_cannot_read_is_refused(spec, name):
    section, values = REFINERS[name], with_refiner(spec, name).model_dump()
    for clusters, able, words in (
        ({"method": "hdbscan"}, "graph" not in section.needs, "needs the distances"),
        (TINY["clusters"] | {"also": [{"eps": 0.5}]}, section.reads_others, "clusters.also needs refine: slr"),
    ):
        if able:
            RunSpec.model_validate(values | {"clusters": clusters})
        else:
            with pytest.raises(ValueError, match=words):
                RunSpec.model_validate(values | {"clusters": clusters})
