"""The command line. A command is a function below and a line in COMMANDS; heavy imports stay inside the functions.

Exit codes: 0 done, 1 the run failed, 2 bad arguments, spec or data, 130 stopped with Ctrl-C. Results go to stdout,
messages and progress to stderr.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from rapids_slr import __version__
from rapids_slr.errors import InputError

if TYPE_CHECKING:
    from rapids_slr.data import Domain
    from rapids_slr.spec import DomainSpec, RunSpec

log = logging.getLogger(__name__)

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Style(StrEnum):
    source = "source"
    target = "target"
    both = "both"


class Hard(StrEnum):
    hdbscan = "hdbscan"
    argmax = "argmax"
    dbscan = "dbscan"
    none = "none"


class Outliers(StrEnum):
    project = "project"
    drop = "drop"


class Noise(StrEnum):
    drop = "drop"
    argmax = "argmax"


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
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; its own spec without SPEC.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


# Runs ----------------------------------------------------------------------------------------------------------------


def train(
    spec: SpecArgument = None,
    changes: SetOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Run the whole job: pre-train on the source, adapt to the target, evaluate. Prints the run folder.

    Relative paths in a spec count from the current directory. `--set refine=none` is the baseline without refinement.
    """
    settings = run_spec(spec, changes, device, out, of_folder=resume)
    from rapids_slr import run

    print(run.train(settings, out, resume))


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

    Without SPEC, the spec of the run folder is taken.
    """
    settings = run_spec(spec, changes, device, out, of_folder=resume or is_run(out))
    from rapids_slr import run

    print(run.adapt(settings, out, resume))


def evaluate(
    spec: SpecArgument = None, changes: SetOption = None, device: DeviceOption = None, out: OutOption = None
) -> None:
    """Evaluate the network of a run folder on the target's test split. Prints mAP and CMC as JSON fractions.

    Without SPEC, the spec of the run folder is taken.
    """
    if out is None:
        raise InputError("evaluate needs the run folder whose network it takes: --out DIR")
    settings = run_spec(spec, changes, device, out, of_folder=True)
    from rapids_slr import run

    print(json.dumps(run.evaluate(settings, out), indent=2))


def run_spec(
    spec: str | None, changes: Sequence[str] | None, device: Device | None, out: Path | None, of_folder: bool
) -> RunSpec:
    """The spec of a command with its changes.

    Args:
        of_folder: without SPEC take that of the run folder, else the quick-start.
    Raises: InputError if the folder is asked for its spec and holds none.
    """
    from rapids_slr.specfile import load_spec

    file: str | Path | None = spec
    if of_folder and out is None:
        raise InputError("--resume needs the run folder to go on with: --out DIR")
    if of_folder and out is not None and spec is None:
        file = out / "spec.yaml"
        if not file.is_file():
            raise InputError(f"{out} holds no run (no spec.yaml); name the folder of one with --out, or give a SPEC")
    return load_spec(file, [*(changes or ()), *([f"device={device}"] if device else ())])


def is_run(out: Path | None) -> bool:
    return out is not None and (out / "spec.yaml").is_file()


# Files of features and labels -----------------------------------------------------------------------------------------


def cluster(
    features: Annotated[Path, typer.Argument(metavar="FEATURES", help="(N, D) as .npy, .safetensors or .parquet.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Labels: .npy, .csv or .parquet.")],
    k1: Annotated[int, typer.Option(help="Neighbours that must be reciprocal.")] = 20,
    k2: Annotated[int, typer.Option(help="Images averaged by query expansion; 1 leaves it out.")] = 6,
    pairs_per_image: Annotated[
        float, typer.Option(help="The radius is the mean distance of this many nearest pairs an image.")
    ] = 13,
    rho: Annotated[
        float | None, typer.Option(help="In its place, this fraction of all pairs.", show_default=False)
    ] = None,
    eps: Annotated[
        float | None, typer.Option(help="In place of both, a fixed radius, 0 to 1.", show_default=False)
    ] = None,
    min_samples: Annotated[int, typer.Option(help="Images within the radius that make a core point.")] = 4,
    min_size: Annotated[int, typer.Option(help="Smaller clusters become outliers.")] = 1,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Tensor or column, if there are several.", show_default=False)
    ] = None,
    normalise: Annotated[bool, typer.Option("--normalise", help="Divide every row by its length first.")] = False,
) -> None:
    """Cluster features: DBSCAN on the k-reciprocal Jaccard distance. Label -1 is an outlier.

    Rows of FEATURES have unit length. In a .parquet file they are a column of lists, or a column for each dimension.

    A table of labels has the columns sample and path of FEATURES, or else sample, the number of a row; and cluster.
    """
    from rapids_slr.labelfiles import LABEL_WRITERS, check_suffix, read_features, write_labels

    check_suffix(out, LABEL_WRITERS)
    features_ND, images = read_features(features, key, normalise)

    import numpy as np

    from rapids_slr.clustering import JaccardDBSCAN
    from rapids_slr.kernels import warm_up
    from rapids_slr.progress import Progress

    model = JaccardDBSCAN(
        k1=k1, k2=k2, pairs_per_image=pairs_per_image, rho=rho, eps=eps, min_samples=min_samples, min_size=min_size
    )
    with Progress() as progress, progress.task("compiling kernels, kept for later", None, "kernels") as task:
        warm_up(task.advance)  # not in the seconds below
    start = time.perf_counter()
    labels_N = model.fit_predict(features_ND)
    seconds = time.perf_counter() - start
    write_labels(out, images.assign(cluster=labels_N), "cluster")

    N, D = features_ND.shape
    sizes = np.bincount(labels_N[labels_N >= 0])
    largest = int(sizes.max(initial=0))
    summary = {
        "images": N,
        "dimensions": D,
        "eps": float(f"{model.eps_:.4g}"),
        "clusters": len(sizes),
        "outliers": N - int(sizes.sum()),
        "largest cluster": largest,
        "seconds": round(seconds, 2),
    }
    print_table(str(out), [summary])
    if largest > N / 10:
        log.warning(
            "one of %d clusters holds %d of %d images; if that is too many, lower --pairs-per-image, --rho or --eps",
            len(sizes),
            largest,
            N,
        )
    elif not largest:
        log.warning("every image is an outlier; raise --pairs-per-image, --rho or --eps, or lower --min-samples")


def refine(
    previous: Annotated[Path, typer.Argument(metavar="PREV", help="Labels of last epoch: .npy, .csv or .parquet.")],
    current: Annotated[Path, typer.Argument(metavar="CUR", help="Labels of this epoch, of the same images.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Refined labels: .npy, .csv or .parquet.")],
    alpha: Annotated[float, typer.Option(help="Weight of this epoch's clusters against last epoch's, 0 to 1.")] = 0.5,
    min_cluster_size: Annotated[int, typer.Option(help="Images of the smallest refined cluster.")] = 7,
    min_samples: Annotated[
        int | None,
        typer.Option(help="Neighbours that make a place dense; --min-cluster-size without.", show_default=False),
    ] = None,
    hard: Annotated[Hard, typer.Option(help="How soft labels become hard ones; none: their argmax.")] = Hard.hdbscan,
    outliers: Annotated[
        Outliers, typer.Option(help="Outliers with a previous cluster take its projection, or are left out.")
    ] = Outliers.project,
    noise: Annotated[
        Noise, typer.Option(help="Noise of the hard step is left out, or joins the cluster of most of its own.")
    ] = Noise.drop,
    merge_distance: Annotated[float, typer.Option(help="HDBSCAN clusters that part below it stay together.")] = 0.0,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column with the labels, of both tables.", show_default=False)
    ] = None,
    soft: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Save the soft labels too, scipy sparse (N, K).", show_default=False),
    ] = None,
) -> None:
    """Refine this epoch's labels with last epoch's, as one step of SLR. Label -1 is an outlier, or left out.

    Labels of a table are its column `label` or `cluster`, or its only one.

    Two tables are matched by their column `path` or `sample`; otherwise images are in the same order in both files.

    OUT keeps the order of CUR: sample, path, previous, cluster, refined, confidence; as .npy the refined labels alone.
    """
    from rapids_slr.labelfiles import (
        LABEL_WRITERS,
        SOFT_SUFFIXES,
        check_suffix,
        join_labels,
        read_labels,
        write_labels,
        write_soft_labels,
    )

    check_suffix(out, LABEL_WRITERS)
    if soft is not None:
        check_suffix(soft, SOFT_SUFFIXES)
    pair = join_labels(read_labels(previous, column), read_labels(current, column))

    import numpy as np

    from rapids_slr.refinement import SLR

    slr = SLR(
        alpha=alpha,
        min_cluster_size=min_cluster_size,
        min_samples=min_samples,
        hard=hard.value,
        outliers=outliers.value,
        noise=noise.value,
        merge_distance=merge_distance,
    )
    slr.update(pair.previous_N)
    refined = slr.update(pair.current_N)

    columns = {"previous": pair.previous_N, "cluster": pair.current_N, "refined": refined.hard}
    write_labels(out, pair.images.assign(**columns, confidence=refined.confidence), "refined")
    if soft is not None:
        write_soft_labels(soft, refined.soft)

    clusters = {name: len(np.unique(labels_N[labels_N >= 0])) for name, labels_N in columns.items()}
    summary = {
        "images": len(pair.images),
        "matched by": pair.matched_by,
        "clusters before": clusters["previous"],
        "now": clusters["cluster"],
        "refined": clusters["refined"],
        "outliers": int((pair.current_N < 0).sum()),
        "rescued": refined.rescued,
        "left out": int((refined.hard < 0).sum()),
    }
    print_table(str(out), [summary])


# Data ----------------------------------------------------------------------------------------------------------------


def data_synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; new or empty.")],
    style: Annotated[Style, typer.Option(help="`both` writes OUT/source and OUT/target.")] = Style.both,
    identities: Annotated[int, typer.Option(help="Identities for training, and as many for query and gallery.")] = 50,
    images: Annotated[int, typer.Option(help="Images of an identity.")] = 16,
    cameras: Annotated[int, typer.Option(help="Cameras of a domain.")] = 4,
    distractors: Annotated[int, typer.Option(help="Gallery images of people who are no query.")] = 0,
    gap: Annotated[float, typer.Option(help="Strength of the domain gap; 0 draws both styles alike.")] = 1.0,
    camera_gap: Annotated[float, typer.Option(help="Spread of light and colour between cameras.")] = 1.0,
    height: Annotated[int, typer.Option(help="Height of an image, pixels.")] = 128,
    width: Annotated[int, typer.Option(help="Width of an image, pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="Which people are drawn.")] = 0,
) -> None:
    """Draw synthetic pedestrian domains into folders of the Market-1501 layout."""
    from pydantic import ValidationError

    from rapids_slr.spec import SynthSpec
    from rapids_slr.specfile import explain_values

    settings: dict[str, float] = {
        "identities": identities,
        "images": images,
        "cameras": cameras,
        "distractors": distractors,
    }
    settings |= {"camera_gap": camera_gap, "height": height, "width": width, "seed": seed}
    styles = ("source", "target") if style is Style.both else (style.value,)
    try:
        specs = {name: SynthSpec.model_validate({**settings, "gap": gap, "style": name}) for name in styles}
    except ValidationError as error:
        raise InputError("\n".join(explain_values(error, "--"))) from error
    folders = {name: out / name if style is Style.both else out for name in styles}
    for folder in folders.values():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not empty; name a new folder")

    from rapids_slr.data import summarise, synth_domain, write_domain
    from rapids_slr.progress import Progress

    for name, folder in folders.items():
        domain = synth_domain(specs[name])
        with Progress() as progress, progress.task(f"drawing {folder}", count_images(domain), "images") as task:
            write_domain(domain, folder, progress=task.advance)
        print_table(str(folder), summarise(domain))
    paths = [f"data.{name}.path={folder}" for name, folder in folders.items()]
    print(shlex.join(["rapids-slr", "train", *(word for path in paths for word in ("--set", path))]))


def data_check(
    what: Annotated[str, typer.Argument(metavar="PATH|SPEC", help="Folder or .zip of a data set, or a run spec.")],
    layout: Annotated[str, typer.Option(help="How names tell identity and camera; only with PATH.")] = "auto",
    changes: SetOption = None,
    decode: Annotated[bool, typer.Option("--decode/--no-decode", help="Open every image as well.")] = True,
) -> None:
    """Count the images of a data set, or of a spec's data sets, and list all that is wrong with them."""
    domains = domains_to_check(what, layout, changes)
    from rapids_slr.data import check_domain, scan_domain, summarise
    from rapids_slr.progress import Progress

    faults: list[str] = []
    for name, spec in domains.items():
        try:
            domain = scan_domain(spec)
        except InputError as fault:
            faults.append(f"{name}: {fault}")
            continue
        print_table(name, summarise(domain))
        with Progress() as progress, progress.task(f"checking {name}", count_images(domain), "images") as task:
            faults += map(str, check_domain(domain, decode, progress=task.advance))
    if faults:
        raise InputError("\n".join([*faults, f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}"]))
    print("ok")


def domains_to_check(what: str, layout: str, changes: Sequence[str] | None) -> dict[str, DomainSpec]:
    """The domain of a path, or the source and target of a spec."""
    from pydantic import ValidationError

    from rapids_slr.spec import DomainSpec
    from rapids_slr.specfile import embedded_specs, explain_values, load_spec

    exists, is_yaml = Path(what).exists(), Path(what).suffix in (".yaml", ".yml")
    if not exists and not is_yaml and what not in embedded_specs():
        raise InputError(f"{what}: no such folder, .zip or spec")
    if is_yaml or not exists:
        data = load_spec(what, changes or ()).data
        return {"source": data.source, "target": data.target} if data.source else {"target": data.target}
    if changes:
        raise InputError("--set changes a spec, and none was given; use --layout with a path")
    try:
        return {what: DomainSpec.model_validate({"path": what, "layout": layout})}
    except ValidationError as error:
        raise InputError("\n".join(explain_values(error, "--"))) from error


def data_pack(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Data set to pack.")],
    archive: Annotated[Path, typer.Argument(metavar="ZIP", help="Archive to write.")],
) -> None:
    """Pack a data folder into one .zip, which every command reads as it is."""
    from rapids_slr.data import pack
    from rapids_slr.progress import Progress

    with Progress() as progress, progress.task(f"packing {folder}", total=None, unit="files") as task:
        pack(folder, archive, progress=task.advance)
    print(archive)


def count_images(domain: Domain) -> int:
    return len(domain.train) + len(domain.query) + len(domain.gallery)


# Specs ---------------------------------------------------------------------------------------------------------------


def spec_schema() -> None:
    """Print the JSON Schema of run specs, for an editor that completes and explains their keys."""
    from rapids_slr import specfile

    print(json.dumps(specfile.spec_schema(), indent=2))


def spec_show(spec: SpecArgument = None, changes: SetOption = None) -> None:
    """Print a spec with every default filled in."""
    from rapids_slr.specfile import dump_spec, load_spec

    print(dump_spec(load_spec(spec, changes or ())), end="")


def spec_check(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="YAML files, or embedded specs by name.")],
    changes: SetOption = None,
) -> None:
    """Name every fault of the given specs, with its line and the key that was meant."""
    from rapids_slr.specfile import load_spec

    faults = []
    for spec in specs:
        try:
            load_spec(spec, changes or ())
        except InputError as error:
            faults.append(str(error))
        else:
            print(f"{spec}: ok")
    if faults:
        raise InputError("\n".join(faults))


# Benchmarks ----------------------------------------------------------------------------------------------------------


def bench_labels(
    samples: Annotated[int, typer.Option(metavar="N", help="Images.")] = 4000,
    dim: Annotated[int, typer.Option(metavar="D", help="Dimensions of their features.")] = 512,
    k1: Annotated[int, typer.Option(help="Neighbours that must be reciprocal.")] = 30,
    repeats: Annotated[int, typer.Option(help="Runs of which medians are taken; the dense way runs once.")] = 5,
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
            samples, dim, k1=k1, repeats=repeats, seed=seed, dense=not no_dense, device=device, say=progress.say
        )
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench.show(result)
    if result["equal"] is not None and not all(result["equal"].values()):
        raise RunError(bench.comparison(result))


# This machine --------------------------------------------------------------------------------------------------------


def doctor(as_json: JsonOption = False, device: DeviceOption = None) -> None:
    """Show GPU, driver, CUDA, library versions, memory and disk, and which engine each step of a run takes, and why."""
    from rapids_slr.doctor import examine, show

    findings = examine(str(device or Device.auto))
    if as_json:
        print(json.dumps(findings, indent=2))
    else:
        show(findings)


# The commands --------------------------------------------------------------------------------------------------------


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
    "refine": Command(refine, "rapids-slr refine labels/epoch-003.parquet labels/epoch-004.parquet -o refined.parquet"),
    "cluster": Command(cluster, "rapids-slr cluster features.npy -o labels.parquet --k1 30"),
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
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("RAPIDS_SLR_DEBUG", "0") not in ("", "0")
    log_to_stderr()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` ends a run as Ctrl-C does
    try:
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

    groups = {name: typer.Typer(help=text, no_args_is_help=True) for name, text in GROUPS.items()}
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
            sys.stdout.flush()
        except (typer.Exit, BrokenPipeError):  # `rapids-slr spec show | head` is no fault
            raise
        except KeyboardInterrupt:  # the run itself says how to go on
            raise typer.Exit(STOPPED) from None
        except Exception as fault:
            if debug:
                traceback.print_exc()
            print_error(fault)
            raise typer.Exit(BAD_INPUT if isinstance(fault, InputError) else FAILED) from None

    return guarded


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
        print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


def log_to_stderr() -> None:
    log = logging.getLogger("rapids_slr")
    if not any(isinstance(handler, StderrHandler) for handler in log.handlers):
        log.addHandler(StderrHandler(logging.WARNING))


def print_table(title: str, rows: Iterable[Mapping[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(markup=False, highlight=False).print(table)
