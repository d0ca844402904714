"""Profiles of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapids_slr.cli.options import DeviceOption, SetOption, SpecArgument, run_spec


def profile(
    spec: SpecArgument = None,
    changes: SetOption = None,
    device: DeviceOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder; runs/<name>-profile-<time> without.", show_default=False),
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, metavar="N", help="Timed runs of every stage.")] = 5,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="OTHER.json", help="Show what changed since another profile.", show_default=False),
    ] = None,
) -> None:
    """Measure every stage of a run: time, memory, copies, work and its share of the roofline. Prints a table.

    The folder gets profile.json, trace.json for Perfetto or chrome://tracing, and profile.html. Without
    `pretrain.checkpoint` the networks have random weights.
    """
    settings = run_spec(spec, changes, device, out, of_folder=False)
    from rapids_slr.files import check_output
    from rapids_slr.profiling.profile import profile_run, read_profile
    from rapids_slr.profiling.report import show

    if out is not None and compare is not None:
        check_output(out / "profile.json", compare / "profile.json" if compare.is_dir() else compare)
    other = None if compare is None else read_profile(compare)
    folder, result = profile_run(settings, out, repetitions, other)
    show(result, other)
    print(folder)
