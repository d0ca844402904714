"""The command line. A command is a function of a module here and a line in COMMANDS; heavy imports stay inside.

Exit codes: 0 done, 1 the run failed, 2 bad arguments, spec or data, 130 stopped with Ctrl-C. Results go to stdout,
messages and progress to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from rapids_slr import __version__
from rapids_slr.cli.data import data_check, data_pack, data_synth
from rapids_slr.cli.labelfiles import cluster, refine
from rapids_slr.cli.machine import bench_labels, doctor
from rapids_slr.cli.profiles import profile
from rapids_slr.cli.reports import report
from rapids_slr.cli.runs import adapt, evaluate, pretrain, train
from rapids_slr.cli.search import embed, export, search
from rapids_slr.cli.specs import spec_check, spec_schema, spec_show
from rapids_slr.cli.streams import lasting_streams
from rapids_slr.cli.sweeps import sweep
from rapids_slr.errors import InputError
from rapids_slr.launch import PEER_ENDED, processes, speaks

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


class Command(NamedTuple):
    run: Callable[..., None]
    example: str


GROUPS = {
    "data": "Make, check and pack data sets.",
    "spec": "Print and check run specs.",
    "bench": "Time the software on this machine.",
}

COMMANDS = {
    "train": Command(train, "rapids-slr train omniglot --set refine.alpha=0.7 --out runs/a"),
    "pretrain": Command(pretrain, "rapids-slr pretrain omniglot --out runs/a"),
    "adapt": Command(adapt, "rapids-slr adapt --out runs/a"),
    "evaluate": Command(evaluate, "rapids-slr evaluate --out runs/a"),
    "report": Command(report, "rapids-slr report runs/a"),
    "embed": Command(embed, "rapids-slr embed runs/a photos -o features.parquet"),
    "search": Command(search, "rapids-slr search runs/a photos/wanted.jpg photos/all --top 20"),
    "export": Command(export, "rapids-slr export runs/a --out network.onnx --images photos"),
    "sweep": Command(sweep, "rapids-slr sweep omniglot-methods --dry-run"),
    "refine": Command(refine, "rapids-slr refine labels/epoch-003.parquet labels/epoch-004.parquet -o refined.parquet"),
    "cluster": Command(cluster, "rapids-slr cluster features.npy -o labels.parquet --k1 30"),
    "profile": Command(profile, "rapids-slr profile omniglot --out profiles/b --compare profiles/a/profile.json"),
    "data synth": Command(data_synth, "rapids-slr data synth drawn --identities 100 --gap 0.5"),
    "data check": Command(data_check, "rapids-slr data check market1501.zip"),
    "data pack": Command(data_pack, "rapids-slr data pack market1501 market1501.zip"),
    "spec schema": Command(spec_schema, "rapids-slr spec schema > run-spec.schema.json"),
    "spec show": Command(spec_show, "rapids-slr spec show omniglot --set training.epochs=5"),
    "spec check": Command(spec_check, "rapids-slr spec check my-run.yaml"),
    "bench labels": Command(bench_labels, "rapids-slr bench labels --samples 1000 --dim 256"),
    "doctor": Command(doctor, "rapids-slr doctor --json"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit code."""
    words = [at_home(word) for word in valued(sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in words or os.environ.get("RAPIDS_SLR_DEBUG", "0") not in ("", "0")
    with lasting_streams():
        return run_command(words, debug)


def valued(words: Sequence[str]) -> list[str]:
    """Words with the value of an option that stands without one: --ray is a Ray of this machine."""
    behind = itertools.pairwise([*words, "-"])
    return ["--ray=local" if word == "--ray" and after.startswith("-") else word for word, after in behind]


def at_home(word: str) -> str:
    """A word, or what stands behind the = of an option, with its `~` as a folder: shells leave that of --out=~/a."""
    option, equals, path = word.partition("=")
    if equals and option.startswith("--") and path.startswith("~"):
        return f"{option}={os.path.expanduser(path)}"
    return os.path.expanduser(word)


def run_command(words: Sequence[str], debug: bool) -> int:
    log_to_stderr()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` ends a run as Ctrl-C does
    try:
        # --debug is taken out here, as it may stand behind the command; the option of the app is for --help.
        typer.main.get_command(make_app(debug)).main(
            [word for word in words if word != "--debug"], prog_name="rapids-slr"
        )
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else DONE
    return DONE


def make_app(debug: bool) -> typer.Typer:
    """The commands as typer takes them; `debug` shows the traceback of an error."""
    app = typer.Typer(
        help="Adapt an embedding network to unlabelled images by clustering, with refined pseudo-labels (SLR).",
        epilog="Start with: rapids-slr train\n\n`rapids-slr COMMAND --help` has an example of every command.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print it.")
        ] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")] = False,
    ) -> None:
        pass

    groups = {
        name: typer.Typer(
            help=text, no_args_is_help=True, epilog=f"`rapids-slr {name} COMMAND --help` has an example of each."
        )
        for name, text in GROUPS.items()
    }
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        (groups[group] if group else app).command(last, epilog=f"Example: {command.example}")(
            reported(command.run, debug)
        )
    for name, group_app in groups.items():
        app.add_typer(group_app, name=name)
    return app


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"rapids-slr {__version__}")
        raise typer.Exit


def reported(command: Callable[..., None], debug: bool) -> Callable[..., None]:
    """`command`, ending with one message and an exit code where it fails."""

    @functools.wraps(command)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
            sys.stdout.flush()  # a full disk shows here, not when Python ends
        except typer.Exit:
            raise
        except KeyboardInterrupt:  # the run itself says how to go on
            raise typer.Exit(STOPPED) from None
        except Exception as fault:
            code = PEER_ENDED
            if tells(fault):
                if debug:
                    traceback.print_exc()
                print_error(fault)
                code = BAD_INPUT if isinstance(fault, InputError) else FAILED
            if processes() > 1:
                end_at_once(code)
            raise typer.Exit(code) from None

    return guarded


def tells(fault: Exception) -> bool:
    """Whether this process has to tell a fault: of several that work together the first that had one."""
    if processes() == 1:
        return True
    from rapids_slr.group import fails_first

    return fails_first(fault)


def end_at_once(code: int) -> None:
    """End one of several processes that has told its fault, without waiting for threads of torch.distributed: were it
    killed by these, or slow, those that watch it would start the run again."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def print_error(fault: Exception) -> None:
    from rapids_slr.errors import RunError

    message = str(fault)
    if not isinstance(fault, InputError | RunError | OSError):
        message = f"{type(fault).__name__}: {message}\nThis was not foreseen; run again with --debug for the traceback"
    typer.secho("error:", fg=typer.colors.RED, bold=True, err=True, nl=False)
    typer.echo(("\n" if "\n" in message else " ") + message, err=True)


class StderrHandler(logging.Handler):
    """Writes to what sys.stderr is at the time, so that a live progress bar keeps its place."""

    def emit(self, record: logging.LogRecord) -> None:
        if speaks():
            print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


def log_to_stderr() -> None:
    log = logging.getLogger("rapids_slr")
    # Once, however often main is called in a process.
    if not any(isinstance(handler, StderrHandler) for handler in log.handlers):
        log.addHandler(StderrHandler(logging.WARNING))
