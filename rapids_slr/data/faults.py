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
        return f"{shown(self.where)}: {self.what}"


def shown(name: str) -> str:
    """A name for the screen: what a terminal would take for orders is written out, as \\n or \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def dark_images(names: Sequence[str]) -> str:
    """What to say of images that are almost black for the number of their bits; empty where there are none."""
    if not names:
        return ""
    return (
        f"{len(names)} {'image is' if len(names) == 1 else 'images are'} almost black: in files of 16 bits, pixels end "
        "where those of 12 bits do; save them with 8 bits, or grey ones with their bits in the file (TIFF "
        f"MaxSampleValue, PNG sBIT); the first {shown(min(names))}"
    )


def faults_error(about: str, faults: Sequence[Fault], advice: str) -> InputError:
    """One error that names every fault, up to SHOWN of them."""
    lines = [f"{about}: {len(faults)} {'fault' if len(faults) == 1 else 'faults'}"]
    lines += [f"  {fault}" for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"  ... and {len(faults) - SHOWN} more; `rapids-slr data check` lists all")
    return InputError("\n".join([*lines, advice]))
