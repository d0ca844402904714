"""The report of runs: one HTML file that can be sent to someone, and opened without a network."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from rapids_slr.errors import InputError
from rapids_slr.files import check_output, is_stream, write_text
from rapids_slr.reports.gather import gather_run, name_runs
from rapids_slr.reports.page import page_of

__all__ = ["try_report", "write_report"]

PAGES = (".html", ".htm")

log = logging.getLogger(__name__)


def write_report(folders: Sequence[Path], out: Path | None = None, device: str | None = None) -> Path:
    """Write the report of one run, or of several side by side. Runs may be finished, going on or broken off.

    Args:
        folders: run folders, at least one.
        out: the file; None takes report.html in the folder of a single run.
        device: auto, cpu or cuda, for the features; None takes the CPU where the run did, else auto.
    Returns: the file.
    Raises: InputError if a folder holds no run, several runs have no file, or the file is there and no page; RunError
        if it cannot be written.
    """
    if out is None and len(folders) > 1:
        raise InputError(f"{len(folders)} runs go into one report; say where with --out FILE")
    if out is not None:
        check_output(out)
        # Whatever of a run or a data set it may be: pages alone are written over.
        there = Path(os.path.realpath(out))
        if there.is_file() and there.suffix.lower() not in PAGES and not is_stream(out):
            raise InputError(f"{out} is there and is no page by its name; name a file that ends in .html")
    runs = [gather_run(folder, device) for folder in folders]
    name_runs(runs)
    text = page_of(runs)
    out = out or folders[0] / "report.html"
    write_text(out, text, "free some space, or name another --out")
    return out


def try_report(folder: Path, device: str) -> None:
    """Write the report of a run that has ended; what goes wrong is a warning, as the run itself is whole."""
    try:
        write_report([folder], device=device)
    except Exception as fault:
        log.warning("no report was written (%s); the run is whole, try `rapids-slr report %s`", fault, folder)
