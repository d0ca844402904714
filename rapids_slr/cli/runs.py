"""The run and its stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapids_slr.cli.options import (
    Device,
    DeviceOption,
    OutOption,
    ResumeOption,
    SetOption,
    SpecArgument,
    is_run,
    run_spec,
)
from rapids_slr.errors import InputError
from rapids_slr.launch import speaks

if TYPE_CHECKING:
    from rapids_slr.settings.spec import RunSpec


def train(
    spec: SpecArgument = None,
    changes: SetOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Leave out report.html.")] = False,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Processes that work on the run together, each on a GPU or some cores of its own."),
    ] = 1,
) -> None:
    """Run the whole job: pre-train on the source, adapt to the target, evaluate, report. Prints the run folder.

    Relative paths in a spec count from the current directory. `--set refine=none` is the baseline without refinement.
    """
    # Before the import of run, and with it of torch: faults of a spec are named at once.
    settings = run_spec(spec, changes, device, out, of_folder=resume and (spec is None or is_run(out)))
    if processes > 1:
        raise typer.Exit(start_processes(processes, settings, spec, changes, device, out, resume, no_report))
    from rapids_slr import run

    folder = run.train(settings, out, resume)
    if not speaks():
        return
    if not no_report:
        from rapids_slr.reports import try_report

        try_report(folder, settings.device)
    print(folder)


def start_processes(
    processes: int,
    settings: RunSpec,
    spec: str | None,
    changes: list[str] | None,
    device: Device | None,
    out: Path | None,
    resume: bool,
    no_report: bool,
) -> int:
    """`train` in several processes; gives its exit code. Faults of the spec are told before."""
    from rapids_slr.files import fresh_folder
    from rapids_slr.launch import run_together

    settings.check_processes(processes)
    out = out or fresh_folder(settings.name)
    words = ["train", *([spec] if spec else []), *(f"--set={change}" for change in changes or ()), f"--out={out}"]
    words += [f"--device={device.value}"] if device else []
    words += ["--resume"] * resume + ["--no-report"] * no_report
    return run_together(processes, words, out)


def pretrain(
    spec: SpecArgument = None,
    changes: SetOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train on the labelled source alone. Leaves checkpoints/pretrained.pt in the run folder, which it prints."""
    settings = run_spec(spec, changes, device, out, of_folder=resume)
    from rapids_slr import run

    print(run.pretrain(settings, out, resume))


def adapt(
    spec: SpecArgument = None,
    changes: SetOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Adapt a pre-trained network to the target: that of --out, or pretrain.checkpoint. Prints the run folder.

    With `pretrain: none` it starts from model.weights as they are.
    Without SPEC, the spec of the run folder is taken.
    """
    settings = run_spec(spec, changes, device, out, of_folder=resume or is_run(out))
    from rapids_slr import run

    print(run.adapt(settings, out, resume))


def evaluate(
    spec: SpecArgument = None,
    changes: SetOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take the network of this file, such as the run's checkpoints/picked.pt."),
    ] = None,
) -> None:
    """Evaluate the network of a run folder on the target's test split. Prints its scores as JSON fractions.

    Without SPEC, the spec of the run folder is taken.
    """
    if out is None:
        raise InputError("evaluate needs the run folder whose network it takes: --out DIR")
    settings = run_spec(spec, changes, device, out, of_folder=True)
    from rapids_slr import run

    print(json.dumps(run.evaluate(settings, out, checkpoint), indent=2))
