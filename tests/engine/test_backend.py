"""The choice of an engine, with the reasons it gives, on machines that are only pretended."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from rapids_slr.clustering.sections import DBSCANSpec, HDBSCANSpec
from rapids_slr.engine.arrays import on_torch_stream
from rapids_slr.engine.backend import choose_backend, steps
from rapids_slr.errors import InputError
from rapids_slr.refinement.sections import NoRefinementSpec, SLRSpec
from tests.engine.machines import NO_DRIVER


def refusal() -> str:
    with pytest.raises(InputError) as raised:
        choose_backend("cuda")
    return str(raised.value)


def test_the_cpu_is_had_for_the_asking():
    chosen = choose_backend("cpu")
    assert (chosen.name, chosen.device) == ("cpu", torch.device("cpu"))
    assert chosen.why


def test_cuda_is_taken_where_it_works(machine):
    machine()
    for device in ("auto", "cuda"):
        chosen = choose_backend(device)
        assert (chosen.name, chosen.device) == ("cuda", torch.device("cuda", 0))
        assert chosen.why == "NVIDIA H100, compute capability 9.0"


def test_without_a_driver_cuda_is_refused_and_auto_says_why(machine):
    machine(fault=NO_DRIVER)
    assert refusal() == (
        "device cuda: no usable GPU: Found no NVIDIA driver on your system "
        "(install the NVIDIA driver; give a container its GPU with --gpus all); or run with --device cpu"
    )
    chosen = choose_backend("auto")
    assert chosen.name == "cpu"
    assert chosen.why.startswith("no usable GPU: Found no NVIDIA driver on your system")


@pytest.mark.parametrize(
    ("lacks", "cuda", "text"),
    [
        (("cupy",), "13.2", "CuPy is not installed (pip install 'rapids-slr[cuda13]')"),
        (("cupy", "numba_cuda"), "12.9", "CuPy and numba-cuda are not installed (pip install 'rapids-slr[cuda12]')"),
        (("numba_cuda",), "13.2", "numba-cuda is not installed"),
    ],
)
def test_missing_libraries_are_named_with_the_command_that_brings_them(machine, lacks, cuda, text):
    machine(lacks=lacks, cuda=cuda)
    assert text in refusal()
    assert text in choose_backend("auto").why


def test_all_that_is_missing_is_named_at_once(machine):
    machine(fault=NO_DRIVER, lacks=("cupy", "numba_cuda", "cuml", "cudf"))
    assert "no usable GPU" in refusal()
    assert "CuPy and numba-cuda are not installed" in refusal()


def test_a_torch_without_cuda_is_named(machine):
    machine(cuda=None)
    assert "is built without CUDA" in refusal()


def test_a_gpu_that_torch_has_no_code_for_is_found_out(machine, monkeypatch):
    machine()

    def fail(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch, "ones", fail)
    assert "no kernel image is available for execution on the device (" in refusal()


def test_an_unknown_device_is_refused():
    with pytest.raises(InputError, match="expected auto, cpu or cuda, got gpu"):
        choose_backend("gpu")


def test_steps_name_engine_and_library(machine):
    machine()
    on_cuda = {step.name: step for step in steps(choose_backend("cuda"))}
    on_cpu = {step.name: step for step in steps(choose_backend("cpu"))}
    assert on_cuda.keys() == on_cpu.keys()
    assert {step.engine for step in on_cuda.values()} == {"cuda"}
    assert {step.engine for step in on_cpu.values()} == {"cpu"}
    assert (on_cuda["label tables"].library, on_cpu["label tables"].library) == ("cuDF", "pandas")
    assert on_cuda["DBSCAN"].library == "CuPy, Numba"
    assert on_cuda["label tables"].why == "NVIDIA H100, compute capability 9.0"
    assert on_cpu["DBSCAN"].why == "device: cpu was asked for"


def test_cuda_does_without_cuml_and_cudf(machine):
    machine(lacks=("cuml", "cudf"))
    for device in ("auto", "cuda"):
        chosen = choose_backend(device)
        assert (chosen.name, chosen.why) == ("cuda", "NVIDIA H100, compute capability 9.0")
    found = {step.name: (step.engine, step.library, step.why) for step in steps(chosen)}
    assert found["DBSCAN"] == ("cuda", "CuPy, Numba", "own kernels on the sparse graph")
    assert found["HDBSCAN on features"] == (
        "cuda",
        "none",
        "needs cuML: not installed (pip install 'rapids-slr[cuda13]'); DBSCAN does without",
    )
    assert found["label tables"] == ("cpu", "pandas", "cuDF is not installed: columns come to the host")
    assert found["map of a report"] == ("cpu", "umap-learn", "cuML is not installed")
    assert {engine for engine, _, why in found.values() if why == chosen.why} == {"cuda"}


CUML_FOR = {
    "clusters.method: hdbscan": HDBSCANSpec(),
    "clusters.solver: cuml": DBSCANSpec(solver="cuml"),
    "refine.hard: cuml": SLRSpec(hard="cuml"),
}


@pytest.mark.parametrize("key", CUML_FOR)
def test_what_only_cuml_does_is_refused_without_it(machine, key):
    asked = CUML_FOR[key].cuml_for
    assert list(asked) == [key]
    machine(lacks=("cuml", "cudf"))
    for device in ("auto", "cuda"):
        with pytest.raises(InputError) as raised:
            choose_backend(device, cuml_for=asked)
        assert str(raised.value) == (
            f"{key} needs cuML: not installed (pip install 'rapids-slr[cuda13]'); or set {asked[key]}"
        )
    assert choose_backend("cpu", cuml_for=asked).name == "cpu"
    machine()
    assert choose_backend("cuda", cuml_for=asked).name == "cuda"


def test_only_what_cuml_does_asks_for_it():
    assert not DBSCANSpec().cuml_for | SLRSpec().cuml_for | NoRefinementSpec().cuml_for


def test_cupy_follows_the_stream_of_torch(monkeypatch):
    """By CUDA's protocol for streams: CuPy warns of any other way."""
    cupy = pytest.importorskip("cupy")
    chosen, entered = SimpleNamespace(cuda_stream=1234), []
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: chosen)

    class Stream(cupy.cuda.Stream):
        def __enter__(self):
            entered.append(self.ptr)

        def __exit__(self, *_):
            entered.append("left")

    monkeypatch.setattr(cupy.cuda, "Stream", Stream)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with on_torch_stream(torch.device("cuda", 0)):
            assert entered == [1234]
    assert entered == [1234, "left"]


def test_on_the_cpu_there_is_no_stream_to_change():
    with on_torch_stream(torch.zeros(2)), on_torch_stream(torch.device("cpu")), on_torch_stream([1.0]):
        pass
