"""Tests of CUDA code, on a GPU or in Numba's simulator (NUMBA_ENABLE_CUDASIM=1); elsewhere they are not collected."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numba import types
from numba.core.sigutils import normalize_signature
from numba.np.numpy_support import as_dtype

from rapids_slr.kernels import runtime

SIMULATED = runtime.SIMULATED
BLOCKS = [4] if SIMULATED else [4, runtime.PLACES]
"""Threads a block: a warp hides a barrier that is missing, and the simulator takes its time for every thread."""
if not SIMULATED and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]
if SIMULATED:
    from numba.cuda.simulator import kernelapi
    from numba.cuda.simulator.cudadrv.devicearray import FakeWithinKernelCUDAArray

    sys.setswitchinterval(1e-5)  # the simulator polls its threads, which otherwise wait 5 ms for their turn

    def _shared_array(self: Any, shape: Any, dtype: Any) -> np.ndarray:
        """An array for each place that asks for one. Numba's own makes two if two threads ask at the same time."""
        frame = sys._getframe(1)
        array = np.empty(shape, dtype).view(SharedArray)
        return self._allocations.setdefault((frame.f_code, frame.f_lasti), array)

    kernelapi.FakeCUDAShared.array = _shared_array

    def _checked_launch(self: runtime.CudaKernel, blocks: int, threads: int, args: tuple) -> None:
        """A launch whose arguments fit the signature: on a GPU none is checked, and other bits are read."""
        assert_fits(self.signature, args)
        _launch(self, blocks, threads, args)

    _launch, runtime.CudaKernel._launch = runtime.CudaKernel._launch, _checked_launch  # type: ignore[method-assign]


def assert_fits(signature: str, args: tuple) -> None:
    """Whether a kernel of this signature may be given these arguments as they are."""
    wanted, _ = normalize_signature(signature)
    assert len(args) == len(wanted), f"{len(args)} arguments for {signature}"
    for place, (kind, arg) in enumerate(zip(wanted, args, strict=True)):
        if isinstance(kind, types.Array):
            fits = isinstance(arg, np.ndarray) and (arg.ndim, arg.dtype) == (kind.ndim, as_dtype(kind.dtype))
            fits = fits and (kind.layout == "A" or arg.flags.c_contiguous)
        elif isinstance(kind, types.Float):
            fits = isinstance(arg, float | np.floating | int | np.integer)
        elif isinstance(kind, types.Boolean):
            fits = isinstance(arg, bool | np.bool_)
        else:
            fits = isinstance(arg, int | np.integer) and not isinstance(arg, bool)
        assert fits, f"argument {place} of {signature}: {type(arg)} {getattr(arg, 'dtype', '')}"


class SharedArray(np.ndarray):
    """Shared memory of a simulated block."""


@pytest.fixture
def racing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other threads run after every read of an array in a simulated kernel.

    An addition that is not atomic then reads, waits, and writes over what the others have added.
    """
    if SIMULATED:
        for kind in (FakeWithinKernelCUDAArray, SharedArray):
            monkeypatch.setattr(kind, "__getitem__", _read_and_wait(kind.__getitem__))


def _read_and_wait(read: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def racing_read(array: Any, index: Any) -> Any:
        value = read(array, index)
        if sys._getframe(1).f_globals is vars(kernelapi):  # an atomic operation, which holds a lock
            return value
        thread = threading.current_thread()
        thread.reads = getattr(thread, "reads", 0) + 1  # at first longer, as threads start one after the other
        time.sleep(2e-3 if thread.reads <= 12 else 1e-4)
        return value

    return racing_read


@pytest.fixture(autouse=True, params=BLOCKS, ids="{}-threads".format)
def blocks_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 threads, so that ten items already span three; on a GPU also of four warps, which race in earnest."""
    monkeypatch.setattr(runtime, "THREADS", request.param)


@pytest.fixture
def device() -> Callable[[Any], Any]:
    """Moves NumPy arrays, also in tuples, to where CUDA kernels take them."""
    return _to_device


@pytest.fixture
def host() -> Callable[[Any], Any]:
    """Brings results back to NumPy, also in tuples."""
    return _to_host


def _to_device(x: Any) -> Any:
    if isinstance(x, tuple):
        return type(x)(*map(_to_device, x)) if hasattr(x, "_fields") else tuple(map(_to_device, x))
    if SIMULATED or not isinstance(x, np.ndarray):
        return x
    import cupy

    return cupy.asarray(x)


def _to_host(x: Any) -> Any:
    if isinstance(x, tuple):
        return type(x)(*map(_to_host, x)) if hasattr(x, "_fields") else tuple(map(_to_host, x))
    return x.get() if hasattr(x, "get") else x


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a GPU these are tests of the GPU."""
    for item in items:
        if "tests/cuda/" in item.path.as_posix() and not SIMULATED:
            item.add_marker(pytest.mark.gpu)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A whole run of this folder must have launched every CUDA kernel there is."""
    whole = not session.config.option.keyword and session.config.args == ["tests/cuda"]
    idle = [kernel for kernel in runtime.load_all()[1] if not kernel.launches] if whole else []
    if idle:
        names = ", ".join(f"{kernel.function.__module__}.{kernel.__name__}" for kernel in idle)
        print(f"\nCUDA kernels that no test has launched: {names}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
