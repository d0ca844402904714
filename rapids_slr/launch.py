"""Several processes on this machine for one run: started together, watched, and started again where one was killed.

A process that ends with a fault of the run ends them all. One that is killed is no fault of the run, which goes on from
its last checkpoint.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rapids_slr.errors import RunError

PEER_ENDED = 75
"""Exit code of a process that stops as another one has ended."""
RESTARTS = 3
"""Starts in a row that may end without a new checkpoint, before the run is given up."""
LOOK_SECONDS = 0.1
LATE_SECONDS = 10.0
"""Time for a process to end by which others have ended."""
GRACE_SECONDS = 30.0
"""Time to say goodbye for processes that were asked to stop."""
LAUNCHER = "RAPIDS_SLR_LAUNCHER"
"""Environment variable by which processes know who watches them."""
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable of processes that torchrun watches."""


def processes() -> int:
    """How many processes work on this run together, as torchrun or `train --processes` has started them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def speaks() -> bool:
    """Whether this process speaks for all of them."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


def run_together(size: int, words: Sequence[str], out: Path) -> int:
    """Run `rapids-slr WORDS` in `size` processes until the run is done.

    Args:
        words: of a command that may be given --resume.
        out: its run folder.
    Returns: the exit code of the run.
    Raises: RunError if processes are killed again and again; KeyboardInterrupt once all have stopped.
    """
    failed, before = 0, _progress(out)
    while True:
        resume = ["--resume"] if (out / "spec.yaml").exists() and "--resume" not in words else []
        code = _watched(_started(size, [*words, *resume]))
        if code is not None:
            return code
        now = _progress(out)
        failed, before = (0 if now != before else failed + 1), now
        if failed == RESTARTS:
            raise RunError(
                f"a process was killed {RESTARTS} times before the next checkpoint (by a lack of memory?); the last "
                f"checkpoint is intact. Go on with: rapids-slr train --resume --out {out} --processes {size}"
            )
        print("a process was killed: all start again from the last checkpoint", file=sys.stderr, flush=True)


def _started(size: int, words: Sequence[str]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, len(os.sched_getaffinity(0)) // size)
    shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {LAUNCHER: os.getpid(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    command = [sys.executable, "-m", "rapids_slr", *words]
    # In a session of their own: Ctrl-C reaches them once, from here.
    return [
        subprocess.Popen(
            command,
            env=os.environ | {name: str(value) for name, value in {**shared, "RANK": r, "LOCAL_RANK": r}.items()},
            start_new_session=True,
        )
        for r in range(size)
    ]


def _watched(running: list[subprocess.Popen]) -> int | None:
    """The exit code of the run; None if a process was killed."""
    late: float | None = None  # when to wait no longer for the one that the others have ended by
    try:
        while True:
            codes = [process.poll() for process in running]
            if faults := [code for code in codes if code and code > 0 and code != PEER_ENDED]:
                return faults[0]
            if any(code is not None and code < 0 for code in codes):
                return None
            if None not in codes:
                return None if any(codes) else 0
            if any(codes):
                late = late or time.monotonic() + LATE_SECONDS
                if time.monotonic() > late:
                    return None
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(GRACE_SECONDS)
        raise
    finally:
        for process in running:
            process.kill()
            process.wait()


def _progress(out: Path) -> tuple[int, ...]:
    """Something that changes with every checkpoint."""
    files = [out / "checkpoints" / name for name in ("last.pt", "pretrained.pt")]
    return tuple(file.stat().st_mtime_ns for file in files if file.exists())


def end_with_launcher() -> None:
    """Let this process end where the one that watches it, of this module or of torchrun, has been killed."""
    of_torchrun = os.getppid() if TORCHRUN in os.environ else 0
    launcher = int(os.environ.get(LAUNCHER, of_torchrun))

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os._exit(PEER_ENDED)

    if launcher:
        threading.Thread(target=watch, daemon=True).start()
