"""Machine code of every CUDA kernel, made as on a GPU but without one: registers, stack, spills, shared memory.

    python benchmarks/cubin.py                          # sm_90a, an H100; benchmarks/results/cubin-sm_90a.json
    python benchmarks/cubin.py --capability 8.0 7.5     # other GPUs

numba-cuda compiles to LTO-IR, and nvJitLink, with what a cooperative launch needs, to the code that a GPU runs. The
exit code is 1 where a kernel spills registers to memory.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba.cuda.dispatcher as dispatcher
from numba.cuda import codegen
from numba.cuda.core import sigutils
from numba.cuda.cudadrv import driver

from rapids_slr.files import write_atomically
from rapids_slr.kernels.runtime import CudaKernel, load_all
from rapids_slr.provenance import environment

RESULTS = Path(__file__).parent / "results"
USED = {
    "registers": r"Used (\d+) registers",
    "stack": r"(\d+) bytes stack frame",
    "spilled": r"(\d+) bytes spill stores",
    "shared": r"(\d+) bytes smem",
}
"""What ptxas says of a kernel; bytes but for the registers. It says nothing of shared memory where there is none."""


def table(capability: str) -> dict[str, dict[str, Any]]:
    """What every kernel takes on a GPU of a compute capability such as 9.0, by the name of its file and its own."""
    major, minor = map(int, capability.split("."))
    whole = (major, minor, "a" if major >= 9 else "")  # as numba-cuda takes the features of the one GPU that it finds
    logs = _pretend(whole)
    return {
        f"{kernel.function.__module__.rpartition('.')[2]}.{kernel.__name__}": _compiled(kernel, whole, logs)
        for kernel in load_all()[1]
    }


def _pretend(capability: tuple[int, int, str]) -> list[str]:
    """Let numba-cuda believe in a GPU, and keep what the linker says, in the list returned."""
    logs: list[str] = []
    options, close = driver._Linker._get_linker_options, driver._Linker.close

    def close_with_log(linker: Any) -> None:
        close(linker)
        logs.append(linker._info_log)

    def verbose(linker: Any, ptx: bool) -> Any:
        return replace(options(linker, ptx), verbose=True, ptxas_options=["-v"])

    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability[:2])
    codegen.CUDACodeLibrary._ensure_cc = lambda library, cc: cc or capability
    driver._Linker.close, driver._Linker._get_linker_options = close_with_log, verbose
    return logs


def _compiled(kernel: CudaKernel, capability: tuple[int, int, str], logs: list[str]) -> dict[str, Any]:
    argument_types, _ = sigutils.normalize_signature(kernel.signature)
    made = dispatcher._Kernel(kernel.function, argument_types, lto=True, **kernel.options)
    target = next(line.split()[1] for line in made.library.get_asm_str().splitlines() if line.startswith(".target"))
    cubin = made.library.get_cubin(cc=capability)
    found = {name: re.search(pattern, logs[-1]) for name, pattern in USED.items()}
    assert found["registers"], logs[-1]
    used = {name: int(match[1]) if match else 0 for name, match in found.items()}
    return {"target": target, "cooperative": made.cooperative, "bytes": len(cubin.code), **used}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", nargs="+", default=["9.0"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    spills = []
    for capability in options.capability:
        kernels = table(capability)
        target = next(iter(kernels.values()))["target"]
        print(f"{target:32} {'registers':>10} {'stack':>7} {'spilled':>8} {'shared':>7} {'code':>8}")
        for name, used in kernels.items():
            columns = [used[column] for column in ("registers", "stack", "spilled", "shared", "bytes")]
            print(f"{name:32} {columns[0]:10} {columns[1]:7} {columns[2]:8} {columns[3]:7} {columns[4]:8}")
        text = json.dumps({"environment": environment(), "kernels": kernels}, indent=1) + "\n"
        write_atomically(options.out / f"cubin-{target}.json", lambda part, text=text: part.write_text(text))
        spills += [name for name, used in kernels.items() if used["spilled"] or used["stack"]]
    for name in spills:
        print(f"{name} spills registers to memory, which is slow: keep less at a time, or take more blocks")
    return int(bool(spills))


if __name__ == "__main__":
    sys.exit(main())
