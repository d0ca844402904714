"""What kernels are made with: where compiled code is kept, and what of Numba's settings is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from numba.core.registry import CPUDispatcher

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


class OnDevice:
    """What a launch sees of a CuPy array."""

    def __init__(self, x: np.ndarray) -> None:
        self.size, self.itemsize, self.shape, self.strides = x.size, x.itemsize, x.shape, x.strides
        self.data = SimpleNamespace(ptr=x.ctypes.data)


def of_numba(kernel, signature, args) -> list:
    """Arguments as Numba's own launch prepares them."""
    words: list = []
    dispatcher = pytest.importorskip("numba.cuda.dispatcher")
    view = pytest.importorskip("cuda.core.utils").StridedMemoryView
    launcher = dispatcher._Kernel.__new__(dispatcher._Kernel)
    launcher.extensions = []
    kinds, _ = pytest.importorskip("numba.cuda.core.sigutils").normalize_signature(signature)
    for kind, arg in zip(kinds, args, strict=True):
        array = view.from_dlpack(arg, stream_ptr=-1) if isinstance(arg, np.ndarray) else arg
        launcher._prepare_args(kind, array, 0, [], words)
    return kinds, words


SIGNATURES = {
    "void(int32[:, ::1], int64, float32, boolean, float64[::1])": (
        np.zeros((3, 4), np.int32),
        7,
        0.5,
        True,
        np.ones(5),
    ),
    "void(uint32[:, ::1], boolean[::1], float64, int64)": (
        np.ones((1, 9), np.uint32),
        np.ones(2, bool),
        2,
        np.int64(-1),
    ),
    "void(int64[::1], float32[:, ::1], int32)": (np.zeros(0, np.int64), np.zeros((0, 3), np.float32), 9),
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_arguments_are_those_that_numba_passes(cuda, kernel, signature):
    def plain(words):
        return [(type(word), word.value) if hasattr(word, "value") else word for word in words]

    args = SIGNATURES[signature]
    kinds, expected = of_numba(kernel, signature, args)
    found = runtime.as_numba_passes(kinds, [OnDevice(arg) if isinstance(arg, np.ndarray) else arg for arg in args])
    assert plain(found) == plain(expected)


def test_every_number_of_a_signature_has_its_type():
    wanted = {
        word.strip(" )")
        for kernel in runtime.load_all()[1]
        for word in kernel.signature.removeprefix("void(").replace(", ::1", "").split(",")
        if "[" not in word
    }
    assert wanted - {"boolean"} <= set(runtime.NUMBERS)


def test_a_launch_hands_the_device_what_was_asked_for(cuda, monkeypatch):
    """Everything but the driver is real: grid, stream and arguments come to cuda.core."""
    core = pytest.importorskip("cuda.core")
    launched = []
    monkeypatch.setattr(core, "launch", lambda *args: launched.append(args))
    monkeypatch.setattr(runtime, "_stream", lambda: "stream")
    code = SimpleNamespace(get_cufunc=lambda: SimpleNamespace(kernel="code"))
    kinds = (numba.types.Array(numba.int64, 1, "C"), numba.int64)
    compiled = SimpleNamespace(cooperative=False, library=code, argument_types=kinds)
    x = np.arange(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a small grid is no reason to warn
        runtime._start(compiled, 3, 128, (OnDevice(x), 4))
    ((stream, config, kernel, *words),) = launched
    assert (stream, kernel) == ("stream", "code")
    assert (config.grid, config.block, config.is_cooperative) == ((3, 1, 1), (128, 1, 1), False)
    assert words[:-1] == [0, 0, 3, 8, x.ctypes.data, 3, 8]
    assert words[-1].value == 4


def test_a_kernel_is_on_the_device_before_its_first_launch(cuda, kernel, monkeypatch):
    """Numba loads what it finds on disk when it is first launched, which would be in a timed stage."""
    bound = []
    found = SimpleNamespace(overloads={"signature": SimpleNamespace(bind=lambda: bound.append("on the device"))})
    monkeypatch.setattr(cuda, "jit", lambda *_, **__: lambda function: found)
    assert kernel.compile() is kernel.compile() is found.overloads["signature"]
    assert bound == ["on the device"]


def test_settings_of_numba_are_those_of_the_user(cuda, kernel, monkeypatch):
    names = ("CUDA_ARRAY_INTERFACE_SYNC", "CUDA_LOW_OCCUPANCY_WARNINGS", "CACHE_DIR")
    before, during = [getattr(numba.config, name) for name in names], []
    monkeypatch.setattr(
        cuda,
        "jit",
        lambda *_, **__: (
            during.append(numba.config.CACHE_DIR)
            or (lambda function: SimpleNamespace(overloads={1: SimpleNamespace(bind=list)}))
        ),
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


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_items_come_back_in_order_and_torch_has_one_thread_for_each(threads):
    def seen(item: int) -> tuple[int, int]:
        time.sleep(0.002 * (item % 3))
        return item, torch.get_num_threads()

    assert list(runtime.each_in_parallel(seen, range(40))) == [(item, 1) for item in range(40)]
    assert list(runtime.each_in_parallel(seen, [])) == []
    assert torch.get_num_threads() == threads
    found = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [threads], "a thread that begins later has as many as before"


def test_items_are_taken_as_threads_need_them_and_none_after_a_fault(threads):
    taken, begun = [], []

    def items():
        for item in range(1000):
            taken.append(item)
            yield item

    def fails(item: int) -> None:
        begun.append(item)
        if item == 3:
            raise ValueError("the fourth")

    with pytest.raises(ValueError, match="the fourth"):
        list(runtime.each_in_parallel(fails, items()))
    number = len(begun)
    assert 4 <= number <= len(taken) <= 4 + 2 * threads
    time.sleep(0.01)
    assert len(begun) == number


def test_whoever_stops_early_waits_for_what_has_begun(threads):
    running = []

    def slow(item: int) -> int:
        running.append(item)
        time.sleep(0.02)
        running.remove(item)
        return item

    results = runtime.each_in_parallel(slow, range(100))
    assert next(results) == 0
    results.close()
    assert running == []


def test_parts_of_kernels_give_no_array_back():
    """They count no references, and whoever called would let go of one that nobody has counted."""
    kernels, _ = runtime.load_all()
    for kernel in kernels:
        kernel.compile()
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(runtime.PACKAGE)]
    parts = {id(part): part for module in modules for part in vars(module).values() if isinstance(part, CPUDispatcher)}
    given = [(part.__name__, each.return_type) for part in parts.values() for each in part.nopython_signatures]
    assert len(given) > 20
    assert [name for name, kind in given if isinstance(kind, numba.types.Array)] == []
