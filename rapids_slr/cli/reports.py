"""Reports of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapids_slr.cli.options import Device


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; several are laid side by side.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file; report.html in the run folder without.", show_default=False),
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(help="Where features are computed; the engine of the run without.", show_default=False),
    ] = None,
) -> None:
    """Write a run as one HTML page: curves, clusters, images, retrieval. Prints the file.

    The run may be finished, going on or broken off; what is not there yet is named. Images are read from where the
    spec says, relative to the current directory; without them the page has no pictures.
    """
    from rapids_slr.reports import write_report

    print(write_report(runs, out, device))
