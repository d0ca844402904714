"""`rapids-slr profile`: the stages of a run measured on this machine; profile.json, its trace and its page.

Every kind of figure has repetitions of its own, so that counting does not slow down what is timed: a warm-up, the timed
ones, one for memory, one for FLOP and bytes, one under the profiler.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rapids_slr import __version__
from rapids_slr.engine.backend import takes_bfloat16
from rapids_slr.errors import InputError
from rapids_slr.files import write_text
from rapids_slr.profiling.ledger import StageWork
from rapids_slr.profiling.measure import Memory, Meter, Peak, Roofline, Work, measured, overhead, probe, traced
from rapids_slr.profiling.page import page_of
from rapids_slr.profiling.stages import ARRAYS, STAGES, Workload, short
from rapids_slr.provenance import environment
from rapids_slr.record.folder import RunFolder
from rapids_slr.session import Session
from rapids_slr.settings.spec import RunSpec

FORMAT = 1
"""Version of profile.json; docs/profiling.md says what it holds."""
WARM_UP = 1
PAIRS = 11
"""Runs with and without marks that tell their cost."""
AGAIN = "free some space, then profile again"


def profile_run(
    spec: RunSpec, out: Path | None = None, repetitions: int = 5, other: Mapping[str, Any] | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure every stage of a run, and write profile.json, trace.json and profile.html.

    Args:
        out: a new folder, or one that holds a profile; None makes runs/<name>-profile-<time>.
        repetitions: timed ones, at least 1.
        other: a profile to compare with, from `read_profile`; shown on the page.
    Returns: the folder, and what profile.json holds.
    Raises: InputError if the folder holds a run, or as a run does for its spec and data.
    """
    if out is not None:
        RunFolder(out).check(spec)  # refuses that of a run
    with Session(short(spec).model_copy(update={"name": f"{spec.name}-profile"}), out) as session:
        folder = RunFolder(session.out)
        folder.check(spec)  # again: another process may have had it
        folder.write_spec(spec)
        result = _measure(session, spec, folder.path / "trace.json", repetitions)
        write_text(folder.path / "profile.json", json.dumps(result, indent=2, allow_nan=False) + "\n", AGAIN)
        write_text(folder.path / "profile.html", page_of(result, other), AGAIN)
    return folder.path, result


def read_profile(path: Path) -> dict[str, Any]:
    """A profile.json, or the one in a folder.

    Raises: InputError if there is none, or of another format.
    """
    path = path / "profile.json" if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror}; name a profile.json of an earlier profile") from fault
    except ValueError as fault:
        raise InputError(f"{path} is no profile.json ({fault})") from fault
    if not isinstance(found, dict) or "stages" not in found:
        raise InputError(f"{path} is no profile.json: it has no stages")
    if found.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {found.get('format')}, this version reads {FORMAT}; make that profile again"
        )
    return found


@dataclass
class _Measured:
    """All that was measured of a workload."""

    meters: list[Meter]
    walls: list[float]
    roof: Roofline
    memory: Memory
    counts: Work
    ledger: dict[str, StageWork]
    while_traced: Meter
    overhead: dict[str, float]


def _measure(session: Session, spec: RunSpec, trace: Path, repetitions: int) -> dict[str, Any]:
    """What profile.json holds; `spec` is the one that was asked for, the session has its short form."""
    bfloat16 = _takes_bfloat16(session)
    session.progress.say("probing this machine")
    roof = probe(session.device, bfloat16)
    session.progress.say("a first epoch, for the memory of refinement")
    work = Workload(session)
    found = _repeat(session, work, roof, bfloat16, trace, repetitions)
    runs = [meter.seconds() for meter in found.meters]
    names = [name for name in STAGES if name in runs[0]]
    marks, middle = len(found.meters[0].spans), sorted(range(repetitions), key=found.walls.__getitem__)
    traced_seconds = sum(found.while_traced.seconds().values())
    return {
        "format": FORMAT,
        "version": __version__,
        "spec": spec.model_dump(mode="json"),
        "weights": work.weights,
        "engine": session.backend.name,
        "why": session.backend.why,
        "environment": environment(session.device_name if session.backend.name == "cuda" else None),
        "images": work.shape[0],
        "dim": work.shape[1],
        "warm_up": WARM_UP,
        "repetitions": repetitions,
        "wall_seconds": found.walls,
        "accounted": sum(sum(run.values()) for run in runs) / sum(found.walls),
        "roofline": asdict(found.roof),
        "overhead": found.overhead
        | {
            "marks": marks,
            "share": marks * found.overhead["seconds_a_mark"] / median(found.walls),
            "traced_share": traced_seconds / median([sum(run.values()) for run in runs]) - 1,
        },
        "stages": {name: _stage(name, session, work, found, bfloat16) for name in names},
        # Of an even number the faster of the two in the middle.
        "timeline": _timeline(found.meters[middle[(repetitions - 1) // 2]]),
    }


def _repeat(
    session: Session, work: Workload, roof: Roofline, bfloat16: bool, trace: Path, repetitions: int
) -> _Measured:
    """Every kind of figure by repetitions of its own."""
    device, say = session.device, session.progress.say
    for _ in range(WARM_UP):
        measured(work)
    meters, walls = [], []
    for number in range(repetitions):
        say(f"repetition {number + 1} of {repetitions}")
        meter, wall = measured(work)
        meters.append(meter)
        walls.append(wall)
    # Again after the timed ones: on a busy machine a probe is too low.
    roof = roof.best_of(probe(device, bfloat16))
    say("memory, FLOP and bytes, trace")
    memory, counts = Memory(device), Work()
    measured(work, memory)
    with counts.counting():
        measured(work, counts, counts.seen)
    ledger, while_traced = traced(work, trace)
    return _Measured(meters, walls, roof, memory, counts, ledger, while_traced, overhead(work, PAIRS))


def _stage(name: str, session: Session, work: Workload, found: _Measured, bfloat16: bool) -> dict[str, Any]:
    """One stage of profile.json."""
    on_cuda = session.device.type == "cuda"
    times = [meter.seconds()[name] for meter in found.meters]
    seconds, flop, moved = median(times), _flop(name, found.counts), _bytes(name, found.counts)
    precision = _precision(name, on_cuda, bfloat16)
    least = found.roof.least_seconds(flop, moved, precision)
    done, host = found.ledger.get(name), found.memory
    return {
        "calls": sum(span.stage == name for span in found.meters[0].spans),
        "units": work.units[name],
        "unit": STAGES[name].unit,
        "per_second": work.units[name] / seconds,
        "seconds": {"median": seconds, "low": min(times), "high": max(times), "runs": times},
        "traced_seconds": found.while_traced.seconds()[name],
        "host_peak_mb": asdict(host.host[name]) if host.host_is_known else None,
        "device": None if not on_cuda or done is None else _device_work(done, found.memory.device[name]),
        "flop": flop,
        "flop_counted": STAGES[name].flop,
        "bytes": moved,
        "bytes_counted": STAGES[name].bytes,
        "precision": precision,
        "bound": None if least is None else least[1],
        "roofline_share": None if least is None else least[0] / seconds,
    }


def _device_work(done: StageWork, peak: Peak) -> dict[str, Any]:
    return {
        "seconds": done.device_seconds,
        "kernels": done.kernels,
        "to_device": asdict(done.to_device),
        "to_host": asdict(done.to_host),
        "peak_mb": asdict(peak),
    }


def _flop(name: str, counts: Work) -> int | None:
    return (counts.flop[name] or None) if STAGES[name].flop is not None else None


def _bytes(name: str, counts: Work) -> int | None:
    counted = STAGES[name].bytes
    if counted is None:
        return None
    return (counts.array_bytes(name) if counted == ARRAYS else counts.traffic[name]) or None


def _takes_bfloat16(session: Session) -> bool:
    asked = session.spec.model.precision
    return takes_bfloat16(session.device) if asked == "auto" else asked == "bfloat16"


def _precision(name: str, on_cuda: bool, bfloat16: bool) -> str:
    """What the products of a stage are computed in."""
    if STAGES[name].network and bfloat16:
        return "bfloat16"
    # The product that finds neighbours is in TF32, whatever is set for the networks.
    return "tf32" if on_cuda and (STAGES[name].network or name == "neighbours") else "float32"


def _timeline(meter: Meter) -> list[dict[str, Any]]:
    spans = sorted(meter.spans, key=lambda span: span.start)
    return [{"stage": span.stage, "start": span.start, "seconds": span.seconds} for span in spans]
