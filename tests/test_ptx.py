"""Every CUDA kernel compiles for every architecture that the project promises. No GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

ARCHITECTURES = {"7.5": "sm_75", "8.0": "sm_80", "9.0": "sm_90", "10.0": "sm_100"}

COMPILE = """
import json, sys
from types import SimpleNamespace
from numba import cuda
import numba.cuda.dispatcher
from rapids_slr.kernels.runtime import load_all

capability = tuple(map(int, sys.argv[1].split(".")))
numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
found = {}
for kernel in load_all()[1]:
    options = {name: value for name, value in kernel.options.items() if name in ("fastmath", "opt")}
    ptx, _ = cuda.compile(
        kernel.function, kernel.signature, cc=capability, device=False, abi="numba", output="ptx", **options
    )
    target = next(line.split()[1] for line in ptx.splitlines() if line.startswith(".target"))
    found[kernel.function.__module__ + "." + kernel.__name__] = (target, ".visible .entry" in ptx)
print(json.dumps(found))
"""


@pytest.mark.ptx
@pytest.mark.parametrize("capability", ARCHITECTURES)
def test_every_kernel_compiles(capability):
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (pip install 'rapids-slr[cuda13]')")
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, capability], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found
    assert {name: tuple(result) for name, result in found.items()} == dict.fromkeys(
        found, (ARCHITECTURES[capability], True)
    )
