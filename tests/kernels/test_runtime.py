"""What kernels are made with: where compiled code is kept, and what of Numba's settings is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest

from rapids_slr.kernels import runtime

REPOSITORY = Path(__file__).parents[2]


def write_on(x):
    x[0] = 1


@pytest.fixture
def cuda():
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (pip install 'rapids-slr[cuda13]')")
    if runtime.SIMULATED:
        pytest.skip("the simulator takes the place of numba.cuda")
    return pytest.importorskip("numba.cuda")


@pytest.fixture
def kernel(monkeypatch):
    """A CUDA kernel that nobody else hears of."""
    monkeypatch.setattr(runtime, "_cuda_kernels", [])
    return runtime.gpu("void(int64[::1])")(write_on)


def test_a_small_grid_is_no_reason_to_warn(cuda, monkeypatch):
    monkeypatch.setattr(runtime, "_stream", lambda: 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        launch = runtime._configured(cuda.jit(write_on), 3, 128)
    assert (launch.griddim, launch.blockdim) == ((3, 1, 1), (128, 1, 1))
    with pytest.warns(numba.cuda.core.errors.NumbaPerformanceWarning, match="Grid size 3"):
        cuda.jit(write_on)[3, 128]


def test_a_kernel_is_on_the_device_before_its_first_launch(cuda, kernel, monkeypatch):
    """Numba loads what it finds on disk when it is first launched, which would be in a timed stage."""
    bound = []
    found = SimpleNamespace(overloads={"signature": SimpleNamespace(bind=lambda: bound.append("on the device"))})
    monkeypatch.setattr(cuda, "jit", lambda *_, **__: lambda function: found)
    assert kernel.compile() is kernel.compile() is found
    assert bound == ["on the device"]


def test_settings_of_numba_are_those_of_the_user(cuda, kernel, monkeypatch):
    names = ("CUDA_ARRAY_INTERFACE_SYNC", "CUDA_LOW_OCCUPANCY_WARNINGS", "CACHE_DIR")
    before, during = [getattr(numba.config, name) for name in names], []
    monkeypatch.setattr(
        cuda,
        "jit",
        lambda *_, **__: during.append(numba.config.CACHE_DIR) or (lambda function: SimpleNamespace(overloads={})),
    )
    kernel.compile()
    assert during == [runtime.FOLDER]
    assert [getattr(numba.config, name) for name in names] == before


def test_no_more_threads_than_shared_memory_has_places(kernel, monkeypatch):
    monkeypatch.setattr(runtime, "THREADS", 2 * runtime.PLACES)
    with pytest.raises(AssertionError, match=r"256 threads a block, but kernels are compiled for 128"):
        kernel.blocks(1)
    assert not kernel.launches


HELPER = """
from rapids_slr.kernels.runtime import shared

@shared
def following(x):
    return x + {step}
"""
LOOP = """
from rapids_slr.kernels.following import following
from rapids_slr.kernels.runtime import cpu

@cpu("int64(int64)")
def loop(x):
    return following(x)
"""


@pytest.mark.slow
def test_a_helper_that_changes_is_compiled_anew(tmp_path):
    """Its callers too, though their files stay as they are."""
    shutil.copytree(REPOSITORY / "rapids_slr", tmp_path / "rapids_slr", ignore=shutil.ignore_patterns("kernels"))
    kernels = tmp_path / "rapids_slr" / "kernels"
    shutil.copytree(REPOSITORY / "kernels", kernels, ignore=shutil.ignore_patterns("__pycache__"))
    (kernels / "loop.py").write_text(LOOP)
    code = "from rapids_slr.kernels.loop import loop; print(loop(1))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def result(step: int) -> str:
        (kernels / "following.py").write_text(HELPER.format(step=step))
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert not done.returncode, done.stderr
        return done.stdout.strip()

    assert [result(step) for step in (1, 20)] == ["2", "21"]
    assert len(list((kernels / "__pycache__").glob("rapids_slr-*"))) == 2
