"""What is wrong with a data set, found all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rapids_slr.errors import InputError

SHOWN = 20
"""Faults an error message lists; the others are counted."""


@dataclass(frozen=True)
class Fault:
    where: str
    """The file, folder or archive entry."""
    what: str
    """What is wrong with it, and what was expected."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def faults_error(about: str, faults: Sequence[Fault], advice: str) -> InputError:
    """One error that names every fault, up to SHOWN of them."""
    lines = [f"{about}: {len(faults)} {'fault' if len(faults) == 1 else 'faults'}"]
    lines += [f"  {fault}" for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"  ... and {len(faults) - SHOWN} more; `rapids-slr data check` lists all")
    return InputError("\n".join([*lines, advice]))
