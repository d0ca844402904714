"""How a stage is measured: its time, its memory, its work, and what this machine can do at most."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rapids_slr.bench import resident_mb
from rapids_slr.engine.memory import device_memory, reset_peak
from rapids_slr.files import write_atomically
from rapids_slr.marks import RANGE
from rapids_slr.profiling.ledger import StageWork, ledger_of
from rapids_slr.profiling.stages import Workload, marked

CALLS = 200
"""Empty stages whose mean is the cost of a mark."""
SIDE = {"cpu": 768, "cuda": 8192}
"""Rows and columns of the matrices of the probe."""
TRIAD = {"cpu": 2**24, "cuda": 2**27}
"""Floats of an array of the probe, beyond any cache."""
PROBES = 15
"""Runs of a probe, of which the fastest counts."""

Gauge = Callable[[str], AbstractContextManager[Any]]


# Time -----------------------------------------------------------------------------------------------------------------


@dataclass
class Span:
    """A stage from its beginning to its end, in seconds since the meter was made."""

    stage: str
    start: float
    seconds: float
    inner: float = 0.0
    """Seconds of the stages within it, which are theirs."""


class Meter:
    """Marks stages in time, in the profiler's trace and, on CUDA, as NVTX ranges of the same names.

    As with `Clock`, a stage ends only when the device has finished it.

    Args:
        gauge: opened around every stage, for what is not time.
    """

    def __init__(self, device: torch.device, gauge: Gauge | None = None) -> None:
        self.spans: list[Span] = []
        self._device, self._gauge, self._open = device, gauge, list[Span]()
        # now() takes it off, and so gives the bare clock while it is 0.
        self._began = 0.0
        self._began = self.now()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with nullcontext() if self._gauge is None else self._gauge(name), self._ranges(name):
            span = Span(name, self.now(), 0.0)
            self._open.append(span)
            try:
                yield
            finally:
                span.seconds = self.now() - span.start
                self._open.pop()
                self.spans.append(span)
                if self._open:
                    self._open[-1].inner += span.seconds

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage without those of the stages within it."""
        found: dict[str, float] = defaultdict(float)
        for span in self.spans:
            found[span.stage] += span.seconds - span.inner
        return dict(found)

    @contextmanager
    def _ranges(self, name: str) -> Iterator[None]:
        on_cuda = self._device.type == "cuda"
        with record_function(RANGE + name), torch.cuda.nvtx.range(RANGE + name) if on_cuda else nullcontext():
            yield

    def now(self) -> float:
        """Seconds since the meter was made, once the device has finished what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - self._began


def measured(
    work: Workload, gauge: Gauge | None = None, seen: Callable[[str, Any], None] | None = None
) -> tuple[Meter, float]:
    """One repetition: what the meter says of its stages, and the seconds of the whole."""
    work.reset()
    meter = Meter(work.session.device, gauge)
    with marked(meter.stage, seen):
        begun = meter.now()
        work.repeat()
        return meter, meter.now() - begun


def overhead(work: Workload, pairs: int) -> dict[str, float]:
    """What marking costs, measured on the label stages, which take the shortest.

    Returns: `label_seconds` and `label_seconds_unmarked`, the fastest of `pairs` runs taken in turn, and
        `seconds_a_mark`, the mean over empty stages.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(pairs):
        for name in ("label_seconds_unmarked", "label_seconds"):
            meter = Meter(work.session.device)
            with marked(meter.stage) if name == "label_seconds" else nullcontext():
                begun = meter.now()
                work.labels()
                times[name].append(meter.now() - begun)
    meter = Meter(work.session.device)
    begun = meter.now()
    for _ in range(CALLS):
        with meter.stage("empty"):
            pass
    # What else the machine does can only add to a run.
    fastest = {name: min(runs) for name, runs in times.items()}
    return fastest | {"pairs": pairs, "seconds_a_mark": (meter.now() - begun) / CALLS}


# Memory ---------------------------------------------------------------------------------------------------------------


@dataclass
class Peak:
    """Memory of a stage in MB of 2^20 bytes: the most, and how much that is beyond what was held when it began."""

    most: float = 0.0
    added: float = 0.0


class Memory:
    """A gauge of peak memory; host memory is that of this process.

    What is freed and taken again within the process shows no peak of its own: `added` is what a stage needed beyond
    what the process held already.
    """

    def __init__(self, device: torch.device) -> None:
        self.host: dict[str, Peak] = {}
        self.host_is_known = True
        self.device: dict[str, Peak] = {}
        self._device = device
        self._open: list[list[float]] = []

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        # What was reached so far is the peak of the stage around.
        self._note()
        before = self._held()
        self._open.append(list(before))
        try:
            yield
        finally:
            self._note()
            most = self._open.pop()
            # On the CPU there is no second kind.
            for kind, held, peak in zip((self.host, self.device), before, most, strict=False):
                known = kind.setdefault(stage, Peak())
                known.most, known.added = max(known.most, peak), max(known.added, peak - held)
            if self._open:
                self._open[-1] = [max(pair) for pair in zip(self._open[-1], most, strict=True)]

    def _note(self) -> None:
        """Take the peaks since the last call to the open stage, and let them start anew."""
        peaks = [resident_mb(peak=True) or 0.0]
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            peaks.append(device_memory(self._device).peak / 2**20)
            reset_peak(self._device)
        if self._open:
            self._open[-1] = [max(pair) for pair in zip(self._open[-1], peaks, strict=True)]
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        except OSError:  # not Linux
            self.host_is_known = False

    def _held(self) -> list[float]:
        held = [resident_mb() or 0.0]
        if self._device.type == "cuda":
            held.append(device_memory(self._device).used / 2**20)
        return held


# Work -----------------------------------------------------------------------------------------------------------------


PICKING = {"aten::index_select", "aten::index", "aten::gather", "aten::take"}
"""Operators that read of their first operand no more than they give back."""


class Traffic(TorchDispatchMode):
    """Counts the bytes that torch's operators read and write, each operand and each result once.

    Views and empty arrays move nothing. What caches spare and what fused operators need in between is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name, parameters = func._schema.name, func._schema.arguments
        given = dict(zip((each.name for each in parameters), args, strict=False)) | (kwargs or {})
        # What is written in place, or into `out`, is a result; `out` alone is not read besides.
        written = [given.get(each.name) for each in parameters if each.alias_info and each.alias_info.is_write]
        operands = list(_tensors([value for key, value in given.items() if key != "out"]))
        results = list(_tensors(written or [result]))
        if "empty" in name or (func.is_view and _share_memory(operands, results)):
            return result
        if name in PICKING:
            operands[:1] = results
        self.bytes += sum(map(_size, operands + results))
        return result


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        if values.layout == torch.strided:  # a sparse one is made of these
            yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _share_memory(operands: list[torch.Tensor], results: list[torch.Tensor]) -> bool:
    """Whether every result lies in the memory of an operand."""
    known = {x.untyped_storage().data_ptr() for x in operands}
    return all(x.untyped_storage().data_ptr() in known for x in results)


def _size(x: torch.Tensor) -> int:
    """Bytes of a tensor, those that are repeated by expanding it once."""
    return prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride) * x.element_size()


class Work:
    """A gauge of FLOP and bytes, by operators of torch and by the arrays that functions take and give."""

    def __init__(self) -> None:
        self.flop: dict[str, int] = defaultdict(int)
        self.traffic: dict[str, int] = defaultdict(int)
        self._arrays: dict[str, dict[int, Any]] = defaultdict(dict)
        # torch counts no FLOP of it. The counter hands over shapes; a + s (b - a) is 3 for each number.
        lerp = torch.ops.aten._foreach_lerp_
        self._flop = FlopCounterMode(
            display=False, custom_mapping={lerp: lambda averaged, *_, **__: 3 * sum(map(prod, averaged))}
        )
        self._traffic, self._open = Traffic(), list[list[int]]()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """On one thread: torch sees operators of others only where it is told to by them."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with self._flop, self._traffic:
                yield
        finally:
            torch.set_num_threads(threads)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        before, inner = self._totals(), [0, 0]
        self._open.append(inner)
        try:
            yield
        finally:
            self._open.pop()
            # With what the stages within took, which is theirs: taken off here, and passed on to the one around.
            spent = [now - then for now, then in zip(self._totals(), before, strict=True)]
            self.flop[stage] += spent[0] - inner[0]
            self.traffic[stage] += spent[1] - inner[1]
            if self._open:
                self._open[-1][:] = [had + new for had, new in zip(self._open[-1], spent, strict=True)]

    def seen(self, stage: str, values: Any) -> None:
        """Take note of the arrays among `values`, wherever they stand in tuples, lists, dicts and dataclasses."""
        known = self._arrays[stage]
        for address, array in arrays_of(values):
            # Several arrays may begin at one address: the longest holds the others.
            if address not in known or array.nbytes > known[address].nbytes:
                known[address] = array  # held, so that no other array takes its address

    def array_bytes(self, stage: str) -> int:
        return sum(array.nbytes for array in self._arrays[stage].values())

    def _totals(self) -> tuple[int, int]:
        return int(self._flop.get_total_flops()), self._traffic.bytes


def arrays_of(values: Any) -> Iterator[tuple[int, Any]]:
    """The NumPy and CuPy arrays and tensors in a nest of containers, each with the address of its memory."""
    if isinstance(values, torch.Tensor):
        if values.layout == torch.strided:
            yield values.data_ptr(), values
    # NumPy's scalars have an interface too; an array of one entry counts as one.
    elif hasattr(values, "__array_interface__") and values.nbytes > values.itemsize:
        yield values.__array_interface__["data"][0], values
    elif hasattr(values, "__cuda_array_interface__") and values.nbytes > values.itemsize:
        yield values.data.ptr, values
    elif is_dataclass(values) and not isinstance(values, type):
        for each in fields(values):
            yield from arrays_of(getattr(values, each.name))
    elif isinstance(values, Mapping):
        yield from arrays_of(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from arrays_of(value)


# The device and the trace ---------------------------------------------------------------------------------------------


def traced(work: Workload, path: Path) -> tuple[dict[str, StageWork], Meter]:
    """One repetition under PyTorch's profiler, whose Chrome trace goes to `path`: work of the device by stage."""
    activities = [ProfilerActivity.CPU]
    if work.session.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    else:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it calls the absence of a GPU an error
    with profile(activities=activities) as profiler:
        meter, _ = measured(work)
    write_atomically(path, lambda temporary: profiler.export_chrome_trace(str(temporary)))
    return ledger_of(json.loads(path.read_text())), meter


# The roofline ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Roofline:
    """What this machine was seen to do at most."""

    flop_per_second: dict[str, float]
    """By precision: `float32`, on CUDA `tf32` too, and `bfloat16` where the networks compute in it."""
    bytes_per_second: float

    def least_seconds(self, flop: int | None, bytes: int | None, precision: str) -> tuple[float, str] | None:
        """Seconds below which the work cannot be done, and what they go into, `compute` or `memory`."""
        bounds = [(flop / self.flop_per_second[precision], "compute")] if flop else []
        bounds += [(bytes / self.bytes_per_second, "memory")] if bytes else []
        return max(bounds, default=None)

    def best_of(self, other: Roofline) -> Roofline:
        """The better of two probes: what else the machine does can only make one too low."""
        products = {name: max(speed, other.flop_per_second[name]) for name, speed in self.flop_per_second.items()}
        return Roofline(products, max(self.bytes_per_second, other.bytes_per_second))


def probe(device: torch.device, bfloat16: bool) -> Roofline:
    """Time a square matrix product in each precision, and the triad a = b + c s in float32.

    Args:
        bfloat16: whether the networks compute in it.
    """
    side, floats = SIDE[device.type], TRIAD[device.type]
    setting = torch.backends.cuda.matmul
    before, products = setting.fp32_precision, {}
    kinds = {"float32": (torch.float32, "ieee")}
    if device.type == "cuda":
        kinds["tf32"] = (torch.float32, "tf32")
    if bfloat16:
        kinds["bfloat16"] = (torch.bfloat16, "ieee")
    try:
        for name, (kind, precision) in kinds.items():
            setting.fp32_precision = precision
            x, y, out = (torch.ones(side, side, dtype=kind, device=device) for _ in range(3))
            products[name] = 2 * side**3 / _fastest(device, partial(torch.mm, x, y, out=out))
    finally:
        setting.fp32_precision = before
    a, b, c = (torch.ones(floats, device=device) for _ in range(3))
    # Two reads and a write of 4 bytes for each number.
    return Roofline(products, 3 * 4 * floats / _fastest(device, lambda: torch.add(b, c, alpha=0.5, out=a)))


def _fastest(device: torch.device, run: Callable[[], object]) -> float:
    """Seconds of the fastest of PROBES runs, after one that does not count."""
    meter = Meter(device)
    seconds = []
    for _ in range(PROBES + 1):
        begun = meter.now()
        run()
        seconds.append(meter.now() - begun)
    return min(seconds[1:])
