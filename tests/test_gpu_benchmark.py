"""benchmarks/gpu.py measures what a run does: here on the CPU, at sizes that show no speed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rapids_slr import bench
from rapids_slr.errors import InputError
from tests.scripts import loaded

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    return loaded(FILE)


@pytest.fixture
def quick(gpu):
    return gpu.Bench(gpu.options_of(["--device", "cpu", "--quick"]))


def test_networks_are_placed_as_in_a_run(quick):
    for network in (quick.student, quick.teacher):
        weights = [weight for weight in network.parameters() if weight.ndim == 4 and weight.shape[2] > 1]
        assert weights
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_the_epoch_clusters_what_clusters(gpu, quick, monkeypatch):
    """Features of a network that has learnt nothing are all alike, which is the worst case of the search."""
    seen = []
    fit = gpu.JaccardDBSCAN.fit_predict
    monkeypatch.setattr(gpu.JaccardDBSCAN, "fit_predict", lambda self, x: seen.append(x) or fit(self, x))
    result = gpu.epoch(quick)
    similarity_NN = seen[0] @ seen[0].T
    assert similarity_NN.shape == (240, 240)
    assert similarity_NN.quantile(0.9) - similarity_NN.quantile(0.1) > 0.2
    assert {"seconds/features", "seconds/clusters", "seconds/training"} <= set(result["seconds"])


def test_blocks_of_any_size_are_compared(gpu, tmp_path):
    output = tmp_path / "search.json"
    words = ["--device", "cpu", "--quick", "--parts", "search", "--repeats", "1", "--pick-threads", "4", "32"]
    assert gpu.main([*words, "-o", str(output)]) == 0
    found = json.loads(output.read_text())["search"]
    assert [(result["threads"], result["equal"]) for result in found] == [(4, True), (32, True)]


def test_a_pool_that_cannot_be_shared_is_an_error(gpu):
    torch.zeros(1)
    with pytest.raises(InputError, match="--memory-pool rmm: a pool for each library, because"):
        gpu.Bench(gpu.options_of(["--memory-pool", "rmm"]))


def test_the_bare_product_has_the_precision_of_the_search(monkeypatch, torch_settings):
    asked = []
    real = bench.product
    monkeypatch.setattr(bench, "product", lambda *args: asked.append(args[3]) or real(*args))
    torch.set_float32_matmul_precision("medium")
    bench.bare_product(np.eye(5, dtype=np.float32))
    assert asked == ["ieee"]
