"""This machine: what it has, and how fast it is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rapids_slr.cli.options import Device, DeviceOption, JsonOption


def bench_labels(
    samples: Annotated[int, typer.Option(metavar="N", help="Images.")] = 4000,
    dim: Annotated[int, typer.Option(metavar="D", help="Dimensions of their features.")] = 512,
    k1: Annotated[int, typer.Option(help="Neighbours that must be reciprocal.")] = 30,
    repeats: Annotated[int, typer.Option(help="Runs of which medians are taken; the dense way runs once.")] = 5,
    features: Annotated[
        str, typer.Option(metavar="KIND", help="clustered, isotropic, without clusters, or collapsed, nearly alike.")
    ] = "clustered",
    seed: Annotated[int, typer.Option(help="Which features are drawn.")] = 0,
    no_dense: Annotated[bool, typer.Option("--no-dense", help="Leave out the dense way; labels go unchecked.")] = False,
    device: Annotated[str, typer.Option(help="Engine to time: cpu or cuda.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Time features -> raw labels -> refined labels beside the bare matrix product, and check them.

    The dense way, with N x N matrices, runs on the same features where its memory, about 40 N^2 bytes, is available.
    The exit code is 1 if it gives other labels.
    """
    from rapids_slr import bench
    from rapids_slr.errors import RunError
    from rapids_slr.progress import Progress

    with Progress() as progress:
        result = bench.bench_labels(
            samples,
            dim,
            k1=k1,
            repeats=repeats,
            seed=seed,
            features=features,
            dense=not no_dense,
            device=device,
            say=progress.say,
        )
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench.show(result)
    # Last, as the figures are worth printing in any case.
    if result["equal"] is not None and not all(result["equal"].values()):
        raise RunError(bench.comparison(result))


def doctor(as_json: JsonOption = False, device: DeviceOption = None) -> None:
    """Show GPU, driver, CUDA, library versions, memory and disk, and which engine each step of a run takes, and why."""
    from rapids_slr.doctor import examine, show

    findings = examine(str(device or Device.auto))
    if as_json:
        print(json.dumps(findings, indent=2))
    else:
        show(findings)
