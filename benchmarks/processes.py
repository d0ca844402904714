"""Memory of each of several processes that cluster together on this machine, and whether labels are those of one.

    OMP_NUM_THREADS=1 python benchmarks/processes.py                    # 30,000 x 2,048 on 1, 2 and 4
    OMP_NUM_THREADS=1 python benchmarks/processes.py --samples 3000 --dim 64 --sizes 1 2

Prints a line of JSON for each number of processes: the features that a process holds and how far its resident memory
rises above them, MB of 2^20 bytes, the largest of all processes. The exit code is 1 where labels or radius differ.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch.distributed as dist
import torch.multiprocessing

from rapids_slr.bench import clustered_features
from rapids_slr.clustering import JaccardDBSCAN
from rapids_slr.group import ALONE, Group
from rapids_slr.provenance import commit

MB = 2**20


class Found(NamedTuple):
    features_mb: float
    rise_mb: float
    eps: float
    labels: bytes


def clustered(group: Group, N: int, D: int) -> Found:
    """Cluster this process's share of the features of N images."""
    own_ND = clustered_features(N, D)[slice(group.share(N).start, group.share(N).stop)].copy()
    JaccardDBSCAN(k1=15).fit(own_ND[:200])  # compiled and loaded, by each for itself
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    model = JaccardDBSCAN(k1=30).fit(own_ND, group=group)
    rise = resident("VmHWM") - before
    return Found(own_ND.nbytes / MB, rise, model.eps_, np.asarray(model.labels_).tobytes())


def resident(what: str) -> float:
    """A line of this process's status, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def in_process(rank: int, size: int, port: int, folder: str, N: int, D: int) -> None:
    if size > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    found = clustered(Group(rank, size) if size > 1 else ALONE, N, D)
    Path(folder, str(rank)).write_bytes(pickle.dumps(found))
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


def together(size: int, N: int, D: int) -> list[Found]:
    with TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(in_process, (size, port, folder, N, D), nprocs=size)
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(size)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=30_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args(argv)
    outcomes = set()
    for size in args.sizes:
        found = together(size, args.samples, args.dim)
        outcomes |= {(one.eps, one.labels) for one in found}
        row = {name: round(max(getattr(one, name) for one in found)) for name in ("features_mb", "rise_mb")}
        head = {"processes": size, "samples": args.samples, "dim": args.dim, **row, "same_labels": len(outcomes) == 1}
        environment = {"torch": torch.__version__, "threads": os.environ.get("OMP_NUM_THREADS"), "commit": commit()}
        print(json.dumps(head | environment), flush=True)
    return int(len(outcomes) > 1)


if __name__ == "__main__":
    raise SystemExit(main())
