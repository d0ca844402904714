"""One pool of memory, one stream, and bridges that share memory, on a real GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from rapids_slr.engine.arrays import as_array, like, on_torch_stream
from rapids_slr.engine.memory import DeviceMemory, device_memory, reset_peak, share_pool
from rapids_slr.kernels.dbscan import dbscan_cuda

cupy = pytest.importorskip("cupy")
SLEEP = 200_000_000
"""Cycles that torch keeps the device busy, about a tenth of a second."""


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def in_a_new_process(code: str) -> dict:
    """What a script leaves in `found`; the pool can be chosen once in a process."""
    code = f"found = {{}}\n{code}\nimport json; print(json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_all_libraries_draw_on_one_pool():
    pytest.importorskip("cuml")
    pytest.importorskip("cudf")
    found = in_a_new_process("""
from rapids_slr.engine.backend import choose_backend
from rapids_slr.engine.memory import device_memory, out_of_memory, reset_peak
backend = choose_backend("cuda")
import cudf, cupy, rmm, torch
found["memory"] = backend.memory

def grows_by(make):
    counted = rmm.mr.get_current_device_resource()
    before = counted.allocation_counts.current_bytes
    made = make()
    grown = counted.allocation_counts.current_bytes - before
    del made
    return grown, counted.allocation_counts.current_bytes - before

found["torch"] = grows_by(lambda: torch.zeros(2**20, device="cuda"))
found["cupy"] = grows_by(lambda: cupy.zeros(2**20, cupy.float32))
found["cudf"] = grows_by(lambda: cudf.Series(range(2**20)))

reset_peak(backend.device)
before = device_memory(backend.device)
x = torch.zeros(2**20, device="cuda")
del x
after = device_memory(backend.device)
found["peak"] = after.peak - before.used
found["left"] = after.used - before.used
found["free"] = after.free

for name, ask in (("torch", lambda: torch.empty(2**48, device="cuda")), ("cupy", lambda: cupy.empty(2**48))):
    try:
        ask()
    except Exception as fault:
        found[f"{name} runs out"] = out_of_memory(fault)
layer = torch.nn.Conv2d(3, 4, 3).cuda()
found["convolves"] = layer(torch.zeros(2, 3, 8, 8, device="cuda")).shape[1]
""")
    assert found["memory"] == "one RMM pool for torch, CuPy, cuML and cuDF"
    for library in ("torch", "cupy", "cudf"):
        grown, left = found[library]
        assert grown >= 4 * 2**20, library
        assert left == 0, library
    assert found["peak"] >= 4 * 2**20
    assert found["left"] == 0
    assert found["free"] > 2**30
    assert found["torch runs out"]
    assert found["cupy runs out"]
    assert found["convolves"] == 4


def test_a_process_that_has_used_the_gpu_goes_on_without_the_pool():
    found = in_a_new_process("""
import torch
torch.ones(1, device="cuda")
from rapids_slr.engine import memory
found["shared"] = memory.share_pool()
found["why"] = memory._no_pool
found["sum"] = float(torch.ones(5, device="cuda").sum())
""")
    assert found == {"shared": False, "why": "torch had used the GPU before the pool was asked for", "sum": 5.0}


def test_memory_without_the_shared_pool(device):
    torch.ones(1, device=device)
    if share_pool():
        pytest.skip("this process shares a pool")
    reset_peak(device)
    before = device_memory(device)
    x = torch.zeros(2**22, device=device)
    during = device_memory(device)
    del x
    after = device_memory(device)
    assert isinstance(after, DeviceMemory)
    assert during.used - before.used == after.peak - before.used == 2**24
    assert after.used == before.used


def test_cupy_reads_what_torch_writes_late(device):
    x = torch.zeros(2**20, device=device)
    view = as_array(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), on_torch_stream(device):
        assert cupy.cuda.get_current_stream().ptr == side.cuda_stream
        torch.cuda._sleep(SLEEP)
        x.add_(1)
        doubled = view * 2
        np.testing.assert_array_equal(doubled.get(), 2)
    assert cupy.cuda.get_current_stream().ptr == 0


def test_kernels_read_what_torch_writes_late(device):
    distances = torch.ones(2, device=device)
    graph = cupy.asarray([0, 1, 2, 2]), cupy.asarray([1, 0], cupy.int32), as_array(distances)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()), on_torch_stream(distances):
        torch.cuda._sleep(SLEEP)
        distances.fill_(0.1)
        labels = dbscan_cuda(*graph, 0.5, 2)
        np.testing.assert_array_equal(labels.get(), [0, 0, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.int64, torch.bool, torch.uint8])
def test_torch_and_cupy_share_memory(device, dtype):
    x = torch.zeros((3, 5), dtype=dtype, device=device)
    there = as_array(x)
    assert isinstance(there, cupy.ndarray)
    assert there.data.ptr == x.data_ptr()
    back = like(there, x)
    assert (back.data_ptr(), back.dtype, back.device) == (x.data_ptr(), dtype, device)


def test_a_graph_of_torch_is_left_behind(device):
    x = torch.ones(3, device=device, requires_grad=True)
    assert as_array(x).data.ptr == x.data_ptr()
    assert as_array(x.detach().bfloat16()).dtype == np.float32


def test_cudf_takes_columns_without_a_copy():
    cudf = pytest.importorskip("cudf")
    column = cupy.arange(1000, dtype=cupy.int32)
    assert cudf.Series(column).values.data.ptr == column.data.ptr
