"""`rapids-slr profile`: the stages of a run measured on this machine; profile.json, its trace and its page.

Every kind of figure has repetitions of its own, so that counting does not slow down what is timed: a warm-up, the timed
ones, one for memory, one for FLOP and bytes, one under the profiler.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rapids_slr import __version__
from rapids_slr.errors import InputError
from rapids_slr.files import write_atomically
from rapids_slr.networks.two_branch import takes_bfloat16
from rapids_slr.profiling.measure import Memory, Meter, Work, measured, overhead, probe, traced
from rapids_slr.profiling.page import page_of
from rapids_slr.profiling.stages import ARRAYS, STAGES, Workload
from rapids_slr.provenance import environment
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
    folder = out or Path("runs") / f"{spec.name}-profile-{time.strftime('%Y%m%d-%H%M%S')}"
    with Session(spec, folder) as session:
        result = _measure(session, folder / "trace.json", repetitions)
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    page = page_of(result, other)
    write_atomically(folder / "profile.json", lambda temporary: temporary.write_text(text, "utf-8"), AGAIN)
    write_atomically(folder / "profile.html", lambda temporary: temporary.write_text(page, "utf-8"), AGAIN)
    return folder, result


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


def _measure(session: Session, trace: Path, repetitions: int) -> dict[str, Any]:
    device, say = session.device, session.progress.say
    bfloat16 = _takes_bfloat16(session)
    say("probing this machine")
    roof = probe(device, bfloat16)
    say("a first epoch, for the memory of refinement")
    work = Workload(session)
    for _ in range(WARM_UP):
        measured(work)
    meters, walls = [], []
    for number in range(repetitions):
        say(f"repetition {number + 1} of {repetitions}")
        meter, wall = measured(work)
        meters.append(meter)
        walls.append(wall)
    roof = roof.best_of(probe(device, bfloat16))
    say("memory, FLOP and bytes, trace")
    memory, counts = Memory(device), Work()
    measured(work, memory)
    with counts.counting():
        measured(work, counts, counts.seen)
    ledger, while_traced = traced(work, trace)
    costs = overhead(work, PAIRS)

    runs = [meter.seconds() for meter in meters]
    names = [name for name in STAGES if name in runs[0]]
    traced_seconds = while_traced.seconds()
    stages: dict[str, Any] = {}
    for name in names:
        times = [run[name] for run in runs]
        seconds, flop, moved = median(times), _flop(name, counts), _bytes(name, counts)
        precision = _precision(name, device.type == "cuda", bfloat16)
        least = roof.least_seconds(flop, moved, precision)
        done = ledger.get(name)
        stages[name] = {
            "calls": sum(span.stage == name for span in meters[0].spans),
            "units": work.units[name],
            "unit": STAGES[name].unit,
            "per_second": work.units[name] / seconds,
            "seconds": {"median": seconds, "low": min(times), "high": max(times), "runs": times},
            "traced_seconds": traced_seconds[name],
            "host_peak_mb": asdict(memory.host[name]) if memory.host_is_known else None,
            "device": None
            if device.type != "cuda" or done is None
            else {
                "seconds": done.device_seconds,
                "kernels": done.kernels,
                "to_device": asdict(done.to_device),
                "to_host": asdict(done.to_host),
                "peak_mb": asdict(memory.device[name]),
            },
            "flop": flop,
            "flop_counted": STAGES[name].flop,
            "bytes": moved,
            "bytes_counted": STAGES[name].bytes,
            "precision": precision,
            "bound": None if least is None else least[1],
            "roofline_share": None if least is None else least[0] / seconds,
        }
    marks = len(meters[0].spans)
    middle = sorted(range(repetitions), key=walls.__getitem__)[(repetitions - 1) // 2]
    return {
        "format": FORMAT,
        "version": __version__,
        "spec": session.spec.model_dump(mode="json"),
        "weights": work.weights,
        "engine": session.backend.name,
        "why": session.backend.why,
        "environment": environment(session.device_name if session.backend.name == "cuda" else None),
        "images": work.shape[0],
        "dim": work.shape[1],
        "warm_up": WARM_UP,
        "repetitions": repetitions,
        "wall_seconds": walls,
        "accounted": sum(sum(run.values()) for run in runs) / sum(walls),
        "roofline": asdict(roof),
        "overhead": costs
        | {
            "marks": marks,
            "share": marks * costs["seconds_a_mark"] / median(walls),
            "traced_share": sum(traced_seconds.values()) / median([sum(run.values()) for run in runs]) - 1,
        },
        "stages": stages,
        "timeline": _timeline(meters[middle]),
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
    return "tf32" if on_cuda and (STAGES[name].network or name == "neighbours") else "float32"


def _timeline(meter: Meter) -> list[dict[str, Any]]:
    spans = sorted(meter.spans, key=lambda span: span.start)
    return [{"stage": span.stage, "start": span.start, "seconds": span.seconds} for span in spans]
