"""A folder for one process at a time, on this machine and on others that share it.

The lock is that of the operating system (flock), which ends with the last process that has it, however that ends. Some
file systems keep it from other machines. So the file `lock` says who has the folder, and its time moves on while that
process lives: one of another machine is taken for dead once it has stood still for PATIENCE_SECONDS.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rapids_slr.errors import InputError, RunError

log = logging.getLogger(__name__)

LOCK = "lock"
"""Name of the file; it stays, empty, when the folder is free."""
BEAT_SECONDS = 10.0
"""Time between two signs of life."""
PATIENCE_SECONDS = 45.0
"""Time without one after which a process of another machine counts as ended."""
OLD_SECONDS = 3600.0
"""Age of a sign of life that needs no waiting, whatever the clocks of the machines say."""
TURN_SECONDS = 300.0
"""Longest time to wait for those who have a folder for a moment."""
UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a file system without locks answers."""


@dataclass(frozen=True)
class Holder:
    """Who has a folder."""

    pid: int
    host: str
    machine: str
    """Containers of one machine have hosts of their own, and its locks in common."""

    @classmethod
    def this_process(cls) -> Holder:
        boot = Path("/proc/sys/kernel/random/boot_id")
        host = platform.node()
        return cls(os.getpid(), host, boot.read_text().strip() if boot.exists() else host)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """The folder for this process alone; gives the descriptor by which processes that it starts can hold it too.

    Raises: InputError if it is in use, which names the process; RunError if nothing can be written there.
    """
    file, own = folder / LOCK, Holder.this_process()
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as fault:
        raise _not_written(file, fault) from fault
    try:
        sure = _locked(descriptor, folder)
        other = _holder(descriptor)
        if other and not (sure and other.machine == own.machine) and _lives(file, other):
            raise _in_use(folder, str(other))
        try:
            _sign(descriptor, json.dumps(asdict(own)))
        except OSError as fault:
            raise _not_written(file, fault) from fault
        try:
            with _beating(descriptor):
                yield descriptor
        finally:
            with suppress(OSError):
                _sign(descriptor, "")
    finally:
        os.close(descriptor)


@contextmanager
def in_turn(folder: Path) -> Iterator[int]:
    """As `held`, after those who have the folder for a moment.

    Raises: InputError if somebody has it for longer.
    """
    end = time.monotonic() + TURN_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                descriptor = stack.enter_context(held(folder))
                break
            except InputError:
                if time.monotonic() > end:
                    raise
                time.sleep(random.uniform(0.02, 0.1))
        yield descriptor


def _locked(descriptor: int, folder: Path) -> bool:
    """Take the lock; gives whether this file system has locks.

    Raises: InputError if somebody else has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        if fault.errno in UNKNOWN:
            return False
        if isinstance(fault, BlockingIOError):
            raise _in_use(folder, str(_holder(descriptor) or "a process that another one has left")) from None
        raise _not_written(folder / LOCK, fault) from fault
    return True


def _in_use(folder: Path, by: str) -> InputError:
    advice = "wait for it, stop it, or name another folder with --out"
    return InputError(f"{folder} is in use by {by}, or by one that it started; {advice}")


def _not_written(file: Path, fault: OSError) -> RunError:
    advice = "name another folder with --out, or let this user write there"
    return RunError(f"{file} could not be written: {fault.strerror}; {advice}")


def _holder(descriptor: int) -> Holder | None:
    """Who the file names; None where the folder is free, or a kill has left half a line."""
    with suppress(ValueError, TypeError):
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    return None


def _sign(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _lives(file: Path, other: Holder) -> bool:
    """Whether a process that cannot be asked gives signs of life."""
    last = _last_sign(file)
    if time.time() - last > OLD_SECONDS:
        return False
    log.warning("%s names %s; waiting up to %.0f s for a sign of life", file, other, PATIENCE_SECONDS)
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        time.sleep(PATIENCE_SECONDS / 100)
        if _last_sign(file) != last:
            return True
    return False


def _last_sign(file: Path) -> float:
    # Opened anew: a network's file system then asks its server.
    with open(file, "rb") as opened:
        return os.fstat(opened.fileno()).st_mtime


@contextmanager
def _beating(descriptor: int) -> Iterator[None]:
    """Signs of life, until the end."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(descriptor)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
