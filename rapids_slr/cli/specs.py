"""Run specs: schema, defaults, faults."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rapids_slr.cli.options import SetOption, SpecArgument
from rapids_slr.errors import InputError


def spec_schema() -> None:
    """Print the JSON Schema of run specs, for an editor that completes and explains their keys."""
    from rapids_slr.settings import specfile

    print(json.dumps(specfile.spec_schema(), indent=2))


def spec_show(spec: SpecArgument = None, changes: SetOption = None) -> None:
    """Print a spec with every default filled in."""
    from rapids_slr.settings.specfile import dump_spec, load_spec

    print(dump_spec(load_spec(spec, changes or ())), end="")


def spec_check(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="YAML files, or embedded specs by name.")],
    changes: SetOption = None,
) -> None:
    """Name every fault of the given specs, with its line and the key that was meant, and what is set and not read."""
    from rapids_slr.settings.specfile import load_spec

    faults = []
    for spec in specs:
        try:
            unread = load_spec(spec, changes or ()).refine.unread
        except InputError as error:
            faults.append(str(error))
        else:
            print(f"{spec}: ok" + (f", but {unread}" if unread else ""))
    if faults:
        raise InputError("\n".join(faults))
