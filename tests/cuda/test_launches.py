"""What a launch takes: arguments that fit, and no more launches than have to be."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rapids_slr import SLR, JaccardDBSCAN
from rapids_slr.bench import clustered_features
from rapids_slr.kernels import runtime
from rapids_slr.kernels.renumber import _first_image_cuda
from tests.cuda.conftest import assert_fits

simulated = pytest.mark.skipif(not runtime.SIMULATED, reason="the device checks no arguments")

GROUPS, LABELS, FIRST = np.zeros(3, np.int32), np.zeros(3, np.int32), np.zeros(1, np.int32)
UNFIT = {
    "too few": (GROUPS, LABELS),
    "another type": (GROUPS.astype(np.int64), LABELS, FIRST),
    "another shape": (GROUPS[:, None], LABELS, FIRST),
    "gaps": (np.zeros(6, np.int32)[::2], LABELS, FIRST),
    "no array": (3, LABELS, FIRST),
}


@simulated
@pytest.mark.parametrize("args", UNFIT.values(), ids=UNFIT)
def test_arguments_that_do_not_fit_are_refused(args):
    with pytest.raises(AssertionError):
        _first_image_cuda.each(3, *args)


def test_numbers_that_fit():
    assert_fits("void(float32, int64, boolean)", (np.float32(1), np.int64(2), True))
    for unfit in [(1.0, 2.0, True), (1.0, 2, 1), ("1", 2, True)]:
        with pytest.raises(AssertionError):
            assert_fits("void(float32, int64, boolean)", unfit)


@pytest.fixture
def launches(monkeypatch) -> list[tuple[str, int, int]]:
    """Name, threads a block and arguments of every launch."""
    made: list[tuple[str, int, int]] = []
    launch = runtime.CudaKernel._launch

    def counted(kernel, blocks, threads, args):
        made.append((kernel.__name__, threads, len(args)))
        launch(kernel, blocks, threads, args)

    monkeypatch.setattr(runtime.CudaKernel, "_launch", counted)
    return made


def test_a_refinement_takes_few_launches(launches, device, host):
    draw, slr = np.random.default_rng(0), SLR()
    labels_N = np.repeat(np.arange(12), 12)
    for _ in range(3):
        launches.clear()
        refined = slr.update(device(np.where(draw.random(144) < 0.2, draw.integers(-1, 12, 144), labels_N)))
    assert host(refined.hard).max() > 3
    assert len(launches) <= 12
    assert sum(arguments for _, _, arguments in launches) <= 115


class Waits:
    """In place of NumPy in the simulator: CuPy as launchers see it, which waits where a number comes to the host."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __getattr__(self, name: str):
        value = getattr(np, name)
        if not callable(value) or isinstance(value, type):
            return value
        return lambda *args, **options: self.watched(value(*args, **options))

    def watched(self, result):
        if isinstance(result, tuple):
            return tuple(map(self.watched, result))
        return np.asarray(result).view(Watched) if isinstance(result, np.ndarray | np.generic) else result


class Watched(np.ndarray):
    """An array whose numbers are waited for; single ones stay arrays, as CuPy's do."""

    waits = Waits()

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return np.asarray(array).view(Watched)

    def __getitem__(self, index):
        found = super().__getitem__(index)
        return found if isinstance(found, Watched) else np.asarray(found).view(Watched)

    def _wait(self, how: str):
        self.waits.found.append(f"{how} of {self.size}")
        return getattr(self.view(np.ndarray), how)()

    def __int__(self):
        return self._wait("__int__")

    def __float__(self):
        return self._wait("__float__")

    def __bool__(self):
        return self._wait("__bool__")

    def __index__(self):
        return self._wait("__index__")

    def tolist(self):
        return self._wait("tolist")

    def item(self):
        return self._wait("item")


@pytest.fixture
def waits(monkeypatch) -> list[str]:
    """What the host waits for: all arrays of launchers are watched, those of kernels are not."""
    watch = Watched.waits = Waits()
    for module in list(sys.modules.values()):
        if module.__name__.startswith("rapids_slr") and hasattr(module, "array_module"):
            monkeypatch.setattr(module, "array_module", lambda x: watch)
    launch = runtime.CudaKernel._launch
    plain = [lambda arg: arg.view(np.ndarray) if isinstance(arg, Watched) else arg][0]
    monkeypatch.setattr(
        runtime.CudaKernel,
        "_launch",
        lambda kernel, blocks, threads, args: launch(kernel, blocks, threads, tuple(map(plain, args))),
    )
    return watch.found


@simulated
def test_a_clustering_waits_a_few_times(waits):
    features_ND = clustered_features(60, 8).view(Watched)
    JaccardDBSCAN(k1=5, k2=2, pairs_per_image=3, solver="graph").fit(features_ND)
    assert 3 <= len(waits) <= 8, waits


def test_no_launch_is_of_a_single_thread(launches, device):
    """What goes step by step takes a thread of a GPU far longer than the host."""
    features_ND = device(clustered_features(60, 8))
    labels_N = JaccardDBSCAN(k1=5, k2=2, pairs_per_image=3, solver="graph").fit_predict(features_ND)
    slr = SLR(min_cluster_size=2)
    for other in (labels_N, labels_N[::-1].copy()):
        slr.update(other)
    assert len(launches) > 20
    assert {threads for _, threads, _ in launches} == {runtime.THREADS}
