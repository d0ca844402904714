"""Every CUDA kernel becomes machine code, as on a GPU but without one, for every architecture that is promised.

numba-cuda compiles to PTX and to LTO-IR, and nvJitLink links that, with cudadevrt for the cooperative kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rapids_slr.kernels import runtime

ROOT = Path(__file__).parents[1]
ARCHITECTURES = {"7.5": "sm_75", "8.0": "sm_80", "9.0": "sm_90a", "10.0": "sm_100a"}
"""With the features of the one architecture from 9.0 on, as numba-cuda compiles on such a GPU."""
MOST_REGISTERS = 128  # of a thread, so that a multiprocessor takes at least four blocks of 128
MOST_SHARED = 48 * 1024  # bytes of a block, beyond which a kernel would have to ask
CHANGED = """
import sys
sys.path.insert(0, "benchmarks")
import numpy
{change}
from rapids_slr.kernels import runtime
kernels = [kernel for kernel in runtime.load_all()[1] if kernel.__name__ == "{kernel}"][-1:]
kernels[0].options |= {options}
import cubin
cubin.load_all = lambda: ([], kernels)
sys.exit(cubin.main())
"""

pytestmark = pytest.mark.ptx


def run(out: Path, *words: str) -> subprocess.CompletedProcess:
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (pip install 'rapids-slr[cuda13]')")
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "0"}
    command = [sys.executable, *words, "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=900)


def changed(out: Path, kernel: str, change: str = "", **options: int) -> subprocess.CompletedProcess:
    """One kernel, with other options or in another environment."""
    return run(out, "-c", CHANGED.format(kernel=kernel, change=change, options=options), "--capability", "8.0")


@pytest.mark.slow
@pytest.mark.parametrize("capability", ARCHITECTURES)
def test_every_kernel_becomes_code_that_spills_nothing(capability, tmp_path):
    done = run(tmp_path, "benchmarks/cubin.py", "--capability", capability)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    kernels = json.loads((tmp_path / f"cubin-{ARCHITECTURES[capability]}.json").read_text())["kernels"]
    assert len(kernels) == len(runtime.load_all()[1])
    assert {used["target"] for used in kernels.values()} == {ARCHITECTURES[capability]}
    assert all(used["registers"] <= MOST_REGISTERS and used["shared"] <= MOST_SHARED for used in kernels.values())
    assert [name for name, used in kernels.items() if used["cooperative"]] == ["spanning_tree._boruvka_cuda"]


def test_the_table_that_is_kept_has_every_kernel():
    kept = json.loads((ROOT / "benchmarks" / "results" / "cubin-sm_90a.json").read_text())["kernels"]
    names = {f"{kernel.function.__module__.rpartition('.')[2]}.{kernel.__name__}" for kernel in runtime.load_all()[1]}
    assert kept.keys() == names, "run python benchmarks/cubin.py"
    assert not any(used["spilled"] or used["stack"] for used in kept.values())


def test_a_kernel_that_spills_is_refused(tmp_path):
    done = changed(tmp_path, "_project_cuda", max_registers=16)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "projection._project_cuda spills registers to memory" in done.stdout


def test_kernels_compile_where_numpy_has_no_row_stack(tmp_path):
    """As NumPy 2.5, with which numba-cuda 0.30 compiles nothing of its own accord."""
    done = changed(tmp_path, "_first_image_cuda", change="vars(numpy).pop('row_stack', None)")
    assert done.returncode == 0, done.stderr[-3000:]
