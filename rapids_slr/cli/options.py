"""What commands have in common: options, the spec they mean, tables on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapids_slr.errors import InputError

if TYPE_CHECKING:
    from rapids_slr.settings.spec import RunSpec


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


SpecArgument = Annotated[
    str | None,
    typer.Argument(metavar="SPEC", help="YAML file, or an embedded spec by name; the quick-start without."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key of the spec; may be given again.", show_default=False
    ),
]
DeviceOption = Annotated[
    Device | None, typer.Option(help="Engine, in place of the spec's `device`.", show_default=False)
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The run folder; runs/<name>-<time> without.", show_default=False)
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out, or start it; its own spec without SPEC.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


def run_spec(
    spec: str | None, changes: Sequence[str] | None, device: Device | None, out: Path | None, of_folder: bool
) -> RunSpec:
    """The spec of a command with its changes.

    Args:
        of_folder: without SPEC take that of the run folder, else the quick-start.
    Raises: InputError if the folder is asked for its spec and holds none.
    """
    from rapids_slr.settings.specfile import dump_spec, load_spec

    if of_folder and out is None:
        raise InputError("--resume needs the run folder to go on with: --out DIR")
    file: str | Path | None = spec
    its_own = of_folder and spec is None
    if its_own and out is not None:
        file = out / "spec.yaml"
        if not file.is_file():
            raise InputError(f"{out} holds no run (no spec.yaml); name the folder of one with --out, or give a SPEC")
    # The later wins, and so --device over --set.
    found = load_spec(file, [*(changes or ()), *([f"device={device}"] if device else ())], of_run=its_own)
    if not of_folder and out is not None and spec is not None:
        keep_spec(Path(spec), out / "spec.yaml", dump_spec(found))
    return found


def keep_spec(file: Path, written: Path, text: str) -> None:
    """Raises: InputError if a command would write another text over the spec that it was given."""
    if file.is_file() and written.exists() and file.samefile(written) and file.read_bytes() != text.encode():
        raise InputError(f"{file} would be overwritten with the spec of this run; name another folder with --out")


def is_run(out: Path | None) -> bool:
    return out is not None and (out / "spec.yaml").is_file()


def print_table(title: str, rows: Iterable[Mapping[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    # Names of files may hold brackets, which are no markup.
    Console(markup=False, highlight=False).print(table)
