"""Many runs at once, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapids_slr.cli.options import DeviceOption, print_table
from rapids_slr.errors import InputError

if TYPE_CHECKING:
    from rapids_slr.sweep.folder import Results
    from rapids_slr.sweep.jobs import Part, Places
    from rapids_slr.sweep.plan import Sweep

RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Do the runs as tasks of Ray, one a GPU or CPU: of one that is started here, or of ADDRESS (auto, "
        "HOST:PORT), whose machines share the storage of data and --out.",
        show_default=False,
    ),
]
ArrayOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Do part I, from 0, of N parts of the runs, while other processes do the others in the same --out; starts "
        "the sweep or goes on with it.",
        show_default=False,
    ),
]


def sweep(
    file: Annotated[
        str | None,
        typer.Argument(metavar="SWEEP", help="YAML file, or an embedded sweep by name; that of --out without."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the base spec, or of the sweep (seeds, pairs.*, methods.*); may be given again.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder; runs/<name>-<time> without.", show_default=False)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the sweep in --out: what is unfinished, failed or new in SWEEP."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Processes at a time; one a GPU, or one on the CPU, without.", show_default=False
        ),
    ] = None,
    ray: RayOption = None,
    array: ArrayOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would run, and check it.")] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Print and draw the results in --out again; nothing is run.")
    ] = False,
) -> None:
    """Run methods over seeds and pairs of domains, and compare them with the baseline. Prints tables and the folder.

    A sweep file names a base spec, seeds, and changes of any keys; the top of rapids_slr/sweep/plan.py shows one.
    Source pre-training is done once for all runs that need the same. On a cluster: `--ray auto`, or in every task of a
    SLURM array `--array $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT`, with data and --out on storage that all machines
    share.
    """
    if out is None and (resume or table or array or file is None):
        raise InputError("name the folder of the sweep with --out DIR" if file else "give a sweep file, or --out DIR")
    if ray and (array or jobs):
        raise InputError("--ray does all runs, as many at a time as it has room for; leave out --jobs and --array")
    if table:
        assert out is not None
        show_again(out)
        return

    from rapids_slr.sweep.plan import load_sweep

    part = part_of(array)
    plan = load_sweep(sweep_file(file, out, resume), [*(changes or ()), *([f"device={device}"] if device else ())])
    if dry_run:
        list_runs(plan, out or Path("runs", f"{plan.name}-<time>"), resume, part)
    else:
        do_runs(plan, out, resume, places_of(plan, jobs, ray), part)


def part_of(array: str | None) -> Part | None:
    from rapids_slr.sweep.jobs import Part

    return None if array is None else Part.read(array)


def places_of(plan: Sweep, jobs: int | None, ray: str | None) -> Places:
    """Where the runs are done: Ray, or processes of this machine."""
    from rapids_slr.sweep.cluster import Cluster
    from rapids_slr.sweep.processes import Processes, lanes

    return Processes(lanes(plan, jobs)) if ray is None else Cluster(ray)


def sweep_file(file: str | None, out: Path | None, resume: bool) -> str | Path:
    """The sweep file that a command means: without a name, that of the folder."""
    if file is not None:
        return file
    assert out is not None
    if not resume:
        raise InputError(f"give a sweep file, or go on with that of {out} with --resume")
    if not (out / "sweep.yaml").is_file():
        raise InputError(f"{out} holds no sweep (no sweep.yaml); name the folder of one, or give a sweep file")
    return out / "sweep.yaml"


def do_runs(plan: Sweep, out: Path | None, resume: bool, places: Places, part: Part | None) -> None:
    """Run what is left, and show the results.

    Raises: RunError naming the runs that failed, after the others.
    """
    from rapids_slr.files import fresh_folder
    from rapids_slr.sweep.jobs import check_files
    from rapids_slr.sweep.work import failures, run_sweep

    check_files(plan.runs)  # before a folder is made
    path = out or fresh_folder(plan.name)
    results = run_sweep(plan, path, resume, places, part)
    show(path, results)
    if fault := failures(plan, results, part):
        raise fault


def show_again(path: Path) -> None:
    """Show the results of a sweep that ran before; writes table.md and plot.svg."""
    from rapids_slr.sweep.folder import SweepFolder
    from rapids_slr.sweep.work import write_shown

    folder = SweepFolder(path)
    results = folder.read_results()
    write_shown(folder, results)
    show(path, results)


def show(path: Path, results: Results) -> None:
    """Print the tables and the folder."""
    from rapids_slr.sweep.table import legend, rows_of, sections

    for section in sections(results):
        if rows := rows_of(results, section):
            print_table(section, rows)
    print("\n".join([*legend(results), str(path)]))


def list_runs(plan: Sweep, path: Path, resume: bool, part: Part | None) -> None:
    """What is done and what is left of a sweep or a part of it, in order, and what each method changes."""
    from rapids_slr.sweep.folder import SweepFolder
    from rapids_slr.sweep.jobs import check_files, jobs_of
    from rapids_slr.sweep.plan import in_words

    folder = SweepFolder(path)
    runs = part.of(plan.runs) if part else plan.runs
    if resume:
        folder.may_use(plan, runs, resume)
    changes = {(run.pair, run.method): run.changes for run in plan.runs}  # the same for all seeds
    for (pair, method), changed in changes.items():
        what = ", ".join(f"{key}: {in_words(value)}" for key, value in changed.items()) or "the base spec"
        print(f"{pair}/{method}  {what}")
    jobs = jobs_of(runs, folder)
    print("\n".join(["", *(job.name for job in jobs), ""]))
    left = sum(job.command == "adapt" for job in jobs)
    print(f"{len(runs)} runs, {len(runs) - left} of them done, and {len(jobs) - left} pre-trainings to do")
    check_files(runs)
