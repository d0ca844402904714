"""What is made ready before a clock runs: every label step, once, and nothing that a run draws or remembers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rapids_slr import SLR, JaccardDBSCAN, kernels, warmup
from rapids_slr.warmup import dry_run, warm_up


@pytest.fixture
def calls(monkeypatch) -> list[object]:
    """What is warmed up, on a machine that is pretended to have a GPU."""
    made: list[object] = []
    monkeypatch.setattr(kernels, "warm_up", lambda progress, cuda: made.append(("kernels", cuda)))
    monkeypatch.setattr(warmup, "dry_run", made.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    return made


def test_on_cuda_the_label_steps_run_once(calls):
    warm_up(cuda=True)
    assert calls == [("kernels", True), torch.device("cuda", 1)]


def test_on_the_cpu_the_kernels_are_all(calls):
    warm_up()
    assert calls == [("kernels", False)]


def test_a_dry_run_goes_through_what_a_run_does(monkeypatch):
    fitted, refined = [], []
    fit, update = JaccardDBSCAN.fit, SLR.update
    monkeypatch.setattr(JaccardDBSCAN, "fit", lambda self, x, **others: fitted.append(self) or fit(self, x, **others))
    monkeypatch.setattr(SLR, "update", lambda self, x: refined.append((x.dtype, update(self, x))) or refined[-1][1])
    dry_run(torch.device("cpu"))
    assert {len(model.labels_) for model in fitted} == {512}
    assert all(int(model.labels_.max()) > 10 for model in fitted)
    assert {model.source_weight > 0 for model in fitted} == {True, False}
    assert {dtype for dtype, _ in refined} == {torch.int32, torch.int64}
    results = [result for _, result in refined]
    assert {"rows", "soft", "projection", "overlap", "confidence"} <= set(vars(results[-1]))
    assert any(result.rescued for result in results)
    assert all(len(result.rows.counts) > 20 for result in results[1::2])  # or nothing is a tree, nor a cluster of it


def test_a_dry_run_draws_nothing_from_the_run():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the state that others may rely on
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    dry_run(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
