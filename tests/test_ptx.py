"""Every CUDA kernel compiles for every architecture that the project promises. No GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

ARCHITECTURES = {"7.5": "sm_75", "8.0": "sm_80", "9.0a": "sm_90a", "10.0a": "sm_100a"}
"""With the features of the one architecture from 9.0 on, as numba-cuda compiles on such a GPU."""

COMPILE = """
import json, re, sys
from types import SimpleNamespace
import numpy
if len(sys.argv) > 2:
    vars(numpy).pop(sys.argv[2], None)
from rapids_slr.kernels.runtime import load_all
from numba import cuda
import numba.cuda.dispatcher

major, minor, features = re.fullmatch("([0-9]+)[.]([0-9]+)(a?)", sys.argv[1]).groups()
capability = int(major), int(minor), features
numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability[:2])
found = {}
for kernel in load_all()[1][: 1 if len(sys.argv) > 2 else None]:
    options = {name: value for name, value in kernel.options.items() if name in ("fastmath", "opt")}
    ptx, _ = cuda.compile(
        kernel.function, kernel.signature, cc=capability, device=False, abi="numba", output="ptx", **options
    )
    target = next(line.split()[1] for line in ptx.splitlines() if line.startswith(".target"))
    found[kernel.function.__module__ + "." + kernel.__name__] = (target, ".visible .entry" in ptx)
print(json.dumps(found))
"""


def compiled(*arguments: str) -> dict[str, tuple[str, bool]]:
    """What COMPILE finds: of each kernel the target, and whether it can be launched."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (pip install 'rapids-slr[cuda13]')")
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, *arguments], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: tuple(result) for name, result in json.loads(done.stdout).items()}


@pytest.mark.ptx
@pytest.mark.parametrize("capability", ARCHITECTURES)
def test_every_kernel_compiles(capability):
    found = compiled(capability)
    assert found
    assert found == dict.fromkeys(found, (ARCHITECTURES[capability], True))


@pytest.mark.ptx
def test_kernels_compile_where_numpy_has_no_row_stack():
    """As NumPy 2.5, with which numba-cuda 0.30 compiles nothing of its own accord."""
    assert len(compiled("8.0", "row_stack")) == 1
