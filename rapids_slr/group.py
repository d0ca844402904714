"""The processes of one run: what each takes as its share, and what they tell each other.

All of them run the same program and call the same methods in the same order. Of one process, a group of size 1, every
method gives back what it was given, so that callers ask for nothing. What is sent goes through torch.distributed: gloo
for arrays in host memory, NCCL for those on CUDA.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from rapids_slr.engine.arrays import Array, array_module, as_array
from rapids_slr.engine.blocks import BLOCK, as_tensor
from rapids_slr.errors import InputError, RunError
from rapids_slr.launch import LOOK_SECONDS, end_with_launcher, processes, speaks

Value = TypeVar("Value")
Given = ParamSpec("Given")


class Group:
    """The processes of a run, as one of them sees them.

    Args:
        rank: which of them this one is.
        size: how many there are; torch.distributed has been set up for as many.
        local: which of those on its machine it is, which have ranks in a row.
        here: how many are on its machine; by default all.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int | None = None, here: int | None = None) -> None:
        self.rank, self.size = rank, size
        self.local, self.here = rank if local is None else local, size if here is None else here
        self._made = 0
        self.sent: Counter[str] = Counter()
        """Bytes that this process has sent so far, by the method that sent them; each counts once, however many get
        them."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    # Shares -----------------------------------------------------------------------------------------------------------

    def share(self, N: int, rank: int | None = None, step: int = BLOCK) -> range:
        """The rows of N that are this process's, or another's: whole blocks of `step` rows but for the last.

        By default blocks of products: so any number of processes multiply the same blocks, and round alike.
        """
        blocks, rank = -(-N // step), self.rank if rank is None else rank
        first, last = (min(N, blocks * r // self.size * step) for r in (rank, rank + 1))
        return range(first, last)

    def dealt(self, N: int, rank: int | None = None, step: int = BLOCK) -> np.ndarray:
        """Rows of N, int32, whose blocks are dealt out in turn: for work that grows or falls with the row."""
        rank = self.rank if rank is None else rank
        blocks = [np.arange(row, min(row + step, N)) for row in range(rank * step, N, self.size * step)]
        return np.concatenate([np.empty(0, np.int32), *blocks]).astype(np.int32)

    # What all get to know ---------------------------------------------------------------------------------------------

    def gather(self, rows: Any) -> Any:
        """The rows of all processes, one after the other; NumPy, CuPy or torch, (n, ...), n may differ."""
        if self.size == 1:
            return rows
        own = rows if isinstance(rows, torch.Tensor) else as_tensor(array_module(rows).ascontiguousarray(rows))
        counts = np.zeros(self.size, np.int64)
        counts[self.rank] = len(own)
        ends = np.cumsum(self.total(counts))
        whole = own.new_empty((int(ends[-1]), *own.shape[1:]))
        for rank, part in enumerate(whole.tensor_split(ends[:-1].tolist())):
            if rank == self.rank:
                part.copy_(own)
            self._broadcast(part, rank, "gather")
        return whole if isinstance(rows, torch.Tensor) else as_array(whole)

    def total(self, values: Any) -> Any:
        """Sums over all processes: of an int, or of an int64 array number by number."""
        return self._reduced(values, dist.ReduceOp.SUM, np.int64)

    def highest(self, value: float) -> float:
        """The largest of all processes' values; exact."""
        return self._reduced(value, dist.ReduceOp.MAX, np.float64)

    def added(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors of one shape, on their device; the same bits on all."""
        if self.size == 1:
            return tensor
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(self._counted(total, "added"))
        return total

    def wait(self) -> None:
        """Until all have come here."""
        self.total(0)

    def from_first(self, value: Value) -> Value:
        """What the first process gives, of any type that pickle takes."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def from_first_here(self, make: Callable[[], Value]) -> Value:
        """What the first process of this machine makes; the others there wait, as long as it takes.

        Raises: on all of them the InputError or RunError that it raises.
        """
        if self.here == 1:
            return make()
        self._made += 1
        store, key = _store(), f"rapids_slr/made/{self.rank - self.local}/{self._made}"
        if self.local == 0:
            try:
                made = make()
            except (InputError, RunError) as fault:
                store.set(key, pickle.dumps(fault).hex())
                raise
            store.set(key, pickle.dumps(made).hex())
            return made
        while not store.check([key]):  # a call that waits for it would give up at some time, and cannot be stopped
            time.sleep(LOOK_SECONDS)
        made = pickle.loads(bytes.fromhex(store.get(key).decode()))
        if isinstance(made, Exception):
            raise made
        return made

    def in_turn(self, value: np.ndarray, add: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """`value`, to which one process after the other has added: for sums whose order of additions matters."""
        if self.size > 1 and self.rank > 0:
            value = np.empty_like(value)
            dist.recv(as_tensor(value), self.rank - 1)
        value = np.ascontiguousarray(add(value))
        if self.size > 1:
            if self.rank + 1 < self.size:
                dist.send(self._counted(as_tensor(value), "in_turn"), self.rank + 1)
            self._broadcast(as_tensor(value), self.size - 1, "in_turn")
        return value

    # What goes by, or goes to one -------------------------------------------------------------------------------------

    def blocks(self, rows: np.ndarray, N: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (rank, first row, block) over all N rows, of which every process holds its share: the last block first.

        No process ever holds more than one block of the others, which the next one overwrites.
        """
        space = np.empty((BLOCK, *rows.shape[1:]), rows.dtype)
        for rank in reversed(range(self.size)):
            share = self.share(N, rank)
            for first in reversed(range(share.start, share.stop, BLOCK)):
                stop = min(first + BLOCK, share.stop)
                block = space[: stop - first]
                if rank == self.rank:
                    block = rows[first - share.start : stop - share.start]
                self._broadcast(as_tensor(block), rank, "blocks")
                yield rank, first, block

    def ring(self, rows: np.ndarray, by: int, space: np.ndarray) -> np.ndarray:
        """Send rows to the process `by` places further on, the first after the last, and get those that come from as
        far back into `space`, which is returned.

        Nothing is sent where there is nothing; both sides know beforehand how many rows there are.
        """
        waits = []
        if rows.size:
            sent = self._counted(as_tensor(np.ascontiguousarray(rows)), "ring")
            waits.append(dist.isend(sent.view(torch.uint8), (self.rank + by) % self.size))
        if space.size:
            waits.append(dist.irecv(as_tensor(space).view(torch.uint8), (self.rank - by) % self.size))
        for wait in filter(None, waits):
            wait.wait()
        return space

    # Batches, of which every process has an equal part, in order ------------------------------------------------------

    def part(self, B: int) -> slice:
        """The rows of this process of a batch that can be dealt out evenly."""
        own = B // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def batch(self, rows: torch.Tensor, summed: bool = False) -> torch.Tensor:
        """The whole batch, of a part with its gradient.

        Every process computes the same loss of it, so its own rows of the gradient are known without asking; times the
        number of processes, as DistributedDataParallel takes their mean.

        Args:
            summed: the whole batch goes into what each process makes of its own part alone, as statistics do. The
                gradients of all processes are then added.
        """
        return rows if self.size == 1 else _Batch.apply(rows, self, summed)

    # ------------------------------------------------------------------------------------------------------------------

    def _whole(self, rows: torch.Tensor) -> torch.Tensor:
        """Equal parts of all processes, one after the other."""
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, self._counted(rows.contiguous(), "batch"))
        return torch.cat(parts)

    def _reduced(self, values: Any, how: Any, kind: type) -> Any:
        if self.size == 1:
            return values
        reduced = torch.from_numpy(np.array(values, kind, ndmin=1))
        dist.all_reduce(self._counted(reduced, "total"), how)
        return reduced.numpy() if isinstance(values, np.ndarray) else reduced.item()

    def _broadcast(self, tensor: torch.Tensor, rank: int, name: str) -> None:
        """Of any type, as bytes: gloo knows few."""
        if self.size > 1 and tensor.numel():
            if rank == self.rank:
                self._counted(tensor, name)
            dist.broadcast(tensor.view(torch.uint8), src=rank)

    def _counted(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        self.sent[name] += tensor.numel() * tensor.element_size()
        return tensor


class _Batch(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: torch.Tensor, group: Group, summed: bool) -> torch.Tensor:
        context.group, context.summed, context.part = group, summed, group.part(len(rows) * group.size)
        return group._whole(rows)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        group, (gradient,) = context.group, gradients
        if context.summed:
            return group.added(gradient)[context.part], None, None
        return gradient[context.part] * group.size, None, None


ALONE = Group()
"""Of one process."""
_current = ALONE


def current() -> Group:
    """The group that this process has joined; ALONE before, and where there is none."""
    return _current


def join(device: str = "auto") -> Group:
    """Join the processes that torchrun, or `rapids-slr train --processes`, has started together with this one.

    To be called before anything looks at a GPU: of those of its machine each process sees its own alone.
    """
    global _current
    if processes() > 1 and _current is ALONE:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        own, local = gpus.split(",") if gpus else None, int(os.environ.get("LOCAL_RANK", "0"))
        os.environ["CUDA_VISIBLE_DEVICES"] = str(local) if own is None else own[local % len(own)]
        on_gpu = device != "cpu" and dist.is_nccl_available() and torch.cuda.is_available()
        end_with_launcher()
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        _current = Group(dist.get_rank(), dist.get_world_size(), local if here > 1 else 0, here)
    return _current


def leave() -> None:
    """Leave the group, once all have done their work."""
    global _current
    if _current is not ALONE:
        _current = ALONE
        dist.destroy_process_group()


def fails_first(fault: BaseException) -> bool:
    """Whether a fault of this process is to be told: no other process had one before, by which this one ends too."""
    if _current is ALONE:
        return speaks()
    if isinstance(fault, dist.DistError) or (type(fault) is RuntimeError and "gloo" in str(fault)):
        return False  # another process is gone
    try:
        return _store().add("rapids_slr/faults", 1) == 1
    except RuntimeError:
        return False


def _store() -> dist.Store:
    """Words that all processes see."""
    return dist.distributed_c10d._get_default_store()


def by_first(write: Callable[Given, None]) -> Callable[Given, None]:
    """Make a function that writes one that the first process calls, and for which the others wait."""

    @wraps(write)
    def written(*args: Given.args, **options: Given.kwargs) -> None:
        if current().first:
            write(*args, **options)
        current().wait()

    return written


def mean_of_rows(rows_ND: Array, group: Group = ALONE) -> Array:
    """Mean (D,) float32 of the rows that the processes of a group hold, those of the first process first.

    Of NumPy's it is `mean(axis=0)` of all rows bit by bit, which adds one row after the other.
    """
    if group.size == 1:
        return rows_ND.mean(axis=0)
    total_D = group.in_turn(np.full(rows_ND.shape[1], -0.0, np.float32), lambda before: add_rows(before, rows_ND))
    return divided(total_D, group.total(len(rows_ND)))


def add_rows(before_D: np.ndarray, rows_ND: np.ndarray) -> np.ndarray:
    """`before_D`, to which one row after the other is added in float32; -0.0 adds nothing."""
    for row in range(0, len(rows_ND), 1024):
        before_D = np.add.reduce(np.concatenate([before_D[None], rows_ND[row : row + 1024]]), axis=0)
    return before_D


def divided(total_D: np.ndarray, count: int) -> np.ndarray:
    """A sum of float32 over its count, as NumPy's mean divides."""
    return np.true_divide(total_D, np.intp(count), out=np.empty_like(total_D), casting="unsafe")


def gathered_rows(rows: tuple[Array, Array, Array], group: Group) -> tuple[Array, Array, Array]:
    """A CSR matrix (indptr, indices, data) of the shares of all processes; of each the rows of the others are empty."""
    indptr, indices, data = rows
    share = group.share(indptr.size - 1)
    length_N = group.gather(np.diff(indptr)[share.start : share.stop])
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(length_N)])
    return indptr, group.gather(indices), group.gather(data)
