"""The surroundings of a command: what is closed whatever happens, and what a user who stops it is told."""

from __future__ import annotations

import pytest
import torch

from rapids_slr.clustering.sections import HDBSCANSpec
from rapids_slr.engine.backend import choose_backend
from rapids_slr.refinement.sections import SLRSpec
from rapids_slr.session import RunSession, Session


def test_ctrl_c_while_kernels_are_compiled_closes_the_bars_and_says_how_to_go_on(tiny, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rapids_slr.session.warm_up", stop)
    closed = []
    monkeypatch.setattr("rapids_slr.progress.Progress.__exit__", lambda *_: closed.append("bars"))
    with pytest.raises(KeyboardInterrupt), RunSession(tiny, tmp_path / "run"):
        pytest.fail("nothing is run")
    assert closed == ["bars"]
    said = capsys.readouterr().err
    assert f"stopped; no epoch was finished yet. Go on with: rapids-slr train --resume --out {tmp_path / 'run'}" in said


def test_a_fault_at_the_start_closes_what_was_open(tiny, tmp_path, monkeypatch, capsys):
    closed = []
    monkeypatch.setattr("rapids_slr.progress.Progress.__exit__", lambda *_: closed.append("bars"))
    monkeypatch.setattr("rapids_slr.session.warm_up", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError), Session(tiny, tmp_path / "folder"):
        pytest.fail("nothing is run")
    assert closed == ["bars"]
    assert "Go on with" not in capsys.readouterr().err


def test_a_session_closes_in_the_order_it_opened(tiny, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr("rapids_slr.progress.Progress.__exit__", lambda *_: closed.append("bars"))
    monkeypatch.setattr("rapids_slr.record.log.Log.close", lambda *_: closed.append("log"))
    with RunSession(tiny, tmp_path / "run"):
        assert closed == []
    assert closed == ["log", "bars"]


def test_a_warning_is_said_once(tiny, tmp_path, capsys):
    with Session(tiny, tmp_path / "folder") as session:
        session.warn("this")
        session.warn("this")
        session.warn("that")
    assert capsys.readouterr().err.count("warning: this") == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("has", [True, False])
def test_a_precision_that_the_processor_lacks_is_told(tiny, tmp_path, monkeypatch, capsys, precision, has):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    spec = tiny.model_copy(update={"model": tiny.model.model_copy(update={"precision": precision})})
    with Session(spec, tmp_path / "folder"):
        told = "model.precision=float32 is faster" in capsys.readouterr().err
    assert told == (precision == "bfloat16" and not has)


def test_what_only_cuml_serves_is_asked_for_before_anything_is_trained(tiny, tmp_path, monkeypatch):
    asked = []

    def choose(device, pool, cuml_for):
        asked.append(cuml_for)
        return choose_backend("cpu")

    monkeypatch.setattr("rapids_slr.session.choose_backend", choose)
    Session(tiny, tmp_path)
    clusters, refine = HDBSCANSpec(), SLRSpec(hard="cuml")
    Session(tiny.model_copy(update={"clusters": clusters, "refine": refine}), tmp_path)
    assert asked == [{}, clusters.cuml_for | refine.cuml_for]
    assert len(asked[1]) == 2
