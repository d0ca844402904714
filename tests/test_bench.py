"""The benchmark must time what it says, find both ways equal, and say so where it cannot compare."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from rich.console import Console

from rapids_slr import bench
from rapids_slr.bench import (
    DENSE_BYTES,
    FEATURES,
    STAGES,
    bench_labels,
    comparison,
    dense_refinement,
    same_partition,
    show,
)
from rapids_slr.errors import InputError
from rapids_slr.refinement import SLR

CPU_STAGES = {"product", "check", "neighbours", "graph", "radius", "dbscan", "total", "refine"}


def test_both_ways_agree():
    messages: list[str] = []
    result = bench_labels(400, 64, k1=12, repeats=2, say=messages.append)
    assert result["equal"] == {"raw": True, "refined": True}
    assert result["not_compared"] is None
    assert result["clusters"] > 5
    assert set(result["seconds"]) == CPU_STAGES | {"dense_labels", "dense_refine"} == set(STAGES)
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert result["ratio"] == result["seconds"]["total"] / result["seconds"]["product"]
    assert {"device", "threads", "torch", "commit", "date"} <= set(result["environment"])
    assert json.loads(json.dumps(result)) == result
    assert [line for line in messages if line.startswith("run")] == ["run 1 of 2", "run 2 of 2"]
    assert comparison(result) == "beside the dense way: raw labels equal, refined labels equal"


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize(("samples", "k1"), [(6, 5), (31, 30), (90, 7)])
def test_both_ways_agree_on_few_images(features, samples, k1):
    result = bench_labels(samples, 8, k1=k1, repeats=1, features=features)
    assert result["equal"] == {"raw": True, "refined": True}


def test_the_dense_way_is_left_out_where_memory_does_not_suffice(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=DENSE_BYTES * 400**2 - 1))
    result = bench_labels(400, 16, k1=12, repeats=1)
    assert result["equal"] is None
    assert set(result["seconds"]) == CPU_STAGES
    assert comparison(result) == (
        "not compared with the dense way: it needs about 0.0 GB of memory for 400 images, and 0.0 GB are available"
    )
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=DENSE_BYTES * 400**2))
    assert bench_labels(400, 16, k1=12, repeats=1)["equal"]


def test_the_table_has_a_line_for_every_stage(capsys):
    result = bench_labels(200, 16, k1=12, repeats=1, dense=False)
    console = Console(width=120)
    show(result, console)
    text = capsys.readouterr().out
    assert all(STAGES[stage] in text for stage in result["seconds"])
    assert "dense:" not in text
    assert "not compared with the dense way: it was not asked for" in text


def test_differing_labels_are_told(monkeypatch):
    monkeypatch.setattr(bench, "dense_labels", lambda x_ND, k1: np.zeros(len(x_ND), np.int64))
    result = bench_labels(200, 16, k1=12, repeats=1)
    assert result["equal"] == {"raw": False, "refined": True}
    assert comparison(result) == "beside the dense way: raw labels DIFFER, refined labels equal"


def test_dense_refinement_agrees_on_harder_labels():
    rng = np.random.default_rng(0)
    for _ in range(20):
        before, now = rng.integers(-1, 12, (2, 300)).astype(np.int32)
        before[:200] = now[:200]
        slr = SLR()
        slr.update(before)
        assert same_partition(slr.update(now).hard, dense_refinement(before, now))


def test_same_partition():
    assert same_partition(np.array([0, 0, 1, -1]), np.array([5, 5, 2, -1]))
    assert not same_partition(np.array([0, 0, 1, -1]), np.array([5, 5, 2, 3]))
    assert not same_partition(np.array([0, 0, 1]), np.array([0, 0, 0]))


def test_peak_memory_counts_what_was_freed_again():
    """In a process of its own: in this one, memory that earlier tests have freed may serve again."""
    measure = (
        "import numpy as np; from rapids_slr.bench import peak_memory; "
        "print(*peak_memory(lambda n: np.ones(n).sum(), 2**23))"
    )
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
    result, peak_mb = done.stdout.split()
    assert float(result) == 2**23
    if peak_mb == "None":
        pytest.skip("this system does not tell the peak of a process")
    assert 60 < float(peak_mb) < 100  # 2^23 numbers of 8 bytes are 64 MB


@pytest.mark.parametrize("draw", FEATURES.values())
def test_features_are_unit_rows_and_repeatable(draw):
    x = draw(100, 16)
    assert x.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(x, draw(100, 16))
    assert not np.array_equal(x, draw(100, 16, epoch=1))
    assert not np.array_equal(x, draw(100, 16, seed=1))


@pytest.mark.parametrize("sizes", [{"samples": 30}, {"k1": 4}, {"dim": 0}, {"repeats": 0}, {"features": "round"}])
def test_sizes_that_cannot_be_used(sizes):
    with pytest.raises(InputError, match=r"bench: need k1 >= 5, samples > k1, dim >= 1, .*; got k1="):
        bench_labels(**{"samples": 100, "dim": 8, **sizes})
