"""Standard streams that cost no work: one that is closed, a broken pipe, a lost terminal take what they get.

What a command does is worth more than what it says of it, so its exit code is that of the work. Where a result goes to
standard output and the disk below it is full, that is a failure all the same.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET, errno.ENXIO}
"""Faults of a stream that nobody reads any more."""
ERRORS = "rapids_slr.names"
"""How names are written that the encoding of a stream does not have: bytes as they are, others as \\uNNNN."""


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Standard output and error for the length of a command, which outlive their readers."""
    open_descriptors()
    codecs.register_error(ERRORS, _as_stored)
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=ERRORS)
    sys.stdout, sys.stderr = Lasting(before[0], GONE), Lasting(before[1], None)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def open_descriptors() -> None:
    """Let the three standard descriptors lead somewhere, or the next file that is opened becomes standard output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


class Lasting:
    """A stream that goes on, into nothing, once it fails; all that it is not asked here it asks the stream.

    Args:
        stream: None for one that was closed when Python began.
        passed_over: numbers of the faults that are no failure of the command; None are all.
    """

    def __init__(self, stream: TextIO | None, passed_over: set[int] | None) -> None:
        self._stream = stream if stream is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        self._passed_over = passed_over

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._lasting():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with self._lasting():
            self._stream.flush()

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except ValueError:  # closed by somebody
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        except OSError as fault:
            # What is left in its buffer goes into nothing, and so does what Python flushes in the end.
            with suppress(OSError, ValueError):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, self._stream.fileno())
                os.close(nothing)
            if self._passed_over is not None and fault.errno not in self._passed_over:
                raise


def _as_stored(error: UnicodeError) -> tuple[str | bytes, int]:
    for handler in ("surrogateescape", "backslashreplace"):
        with suppress(UnicodeError):
            return codecs.lookup_error(handler)(error)
    raise error
