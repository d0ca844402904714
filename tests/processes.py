"""Several processes on this machine, as torchrun would start them, for tests of what they do together."""

from __future__ import annotations

import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from rapids_slr.group import Group


def together(size: int, work: Callable[..., Any], *args: Any, through: str = "gloo") -> list[Any]:
    """What `work(group, *args)`, a function of a module, gives in each process of a group."""
    with TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        torch.multiprocessing.spawn(_process, (size, port, folder, through, work, args), nprocs=size)
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(size)]


def _process(rank: int, size: int, port: int, folder: str, through: str, work: Callable[..., Any], args: tuple) -> None:
    torch.set_num_threads(1)
    tempfile.tempdir = folder
    if "nccl" in through:
        torch.cuda.set_device(rank)
    dist.init_process_group(through, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    found = work(Group(rank, size), *args)
    Path(folder, str(rank)).write_bytes(pickle.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
