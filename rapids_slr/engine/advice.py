"""What to say when the memory of a GPU has run out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rapids_slr.engine.backend import out_of_memory
from rapids_slr.errors import RunError


@contextmanager
def memory_advice(what: str, advice: str) -> Iterator[None]:
    """Let a block that runs out of memory end in a RunError that says what to do; other errors pass as they are."""
    try:
        yield
    except (RuntimeError, MemoryError) as fault:
        if not out_of_memory(fault):
            raise
        raise RunError(f"{what}: memory has run out; {advice}") from fault
