"""Data sets: draw, check, pack."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapids_slr.cli.options import SetOption, print_table
from rapids_slr.errors import InputError

if TYPE_CHECKING:
    from rapids_slr.data.domain import Domain
    from rapids_slr.settings.spec import DomainSpec


class Styles(StrEnum):
    """The domains that are drawn."""

    source = "source"
    target = "target"
    both = "both"


def data_synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; new or empty.")],
    style: Annotated[Styles, typer.Option(help="`both` writes OUT/source and OUT/target.")] = Styles.both,
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

    from rapids_slr.settings.spec import SynthSpec
    from rapids_slr.settings.specfile import explain_values

    settings: dict[str, float] = {
        "identities": identities,
        "images": images,
        "cameras": cameras,
        "distractors": distractors,
    }
    settings |= {"camera_gap": camera_gap, "height": height, "width": width, "seed": seed}
    styles = ("source", "target") if style is Styles.both else (style.value,)
    try:
        specs = {name: SynthSpec.model_validate({**settings, "gap": gap, "style": name}) for name in styles}
    except ValidationError as error:
        raise InputError("\n".join(explain_values(error, "--"))) from error
    folders = {name: out / name if style is Styles.both else out for name in styles}
    for folder in folders.values():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not empty; name a new folder")

    # Not before the options and the folders have been found fit.
    from rapids_slr.data.domain import summarise
    from rapids_slr.data.drawn.synth import synth_domain, write_domain
    from rapids_slr.progress import Progress

    for name, folder in folders.items():
        domain = synth_domain(specs[name])
        with Progress() as progress, progress.task(f"drawing {folder}", count_images(domain), "images") as task:
            write_domain(domain, folder, progress=task.advance)
        print_table(str(folder), summarise(domain))
    # What to do next, ready to be pasted: shlex quotes what has blanks.
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
    from rapids_slr.data.advice import advice
    from rapids_slr.data.check import check_domain
    from rapids_slr.data.domain import summarise
    from rapids_slr.data.layouts import CLASSES
    from rapids_slr.data.read import scan_domain
    from rapids_slr.progress import Progress

    faults: list[str] = []
    for name, spec in domains.items():
        try:
            domain = scan_domain(spec)
        except InputError as fault:
            faults.append(f"{name}: {fault}")
            continue  # the other domain is looked at all the same
        print_table(name, summarise(domain))
        if len(domain.train) and not domain.is_labelled:
            print(f"{name}: no identity is known, so it serves as a target and not as a source")
        if domain.layout == CLASSES and not len(domain.gallery):
            print(
                f"{name}: no test images; task: classification divides the training images of a target for its scores"
            )
        elif not domain.is_tested and domain.layout != CLASSES and not name.startswith("source"):
            print(f"{name}: no query and gallery images, so there is nothing to evaluate on")
        if len(domain.train) and not name.startswith("source"):
            print(f"{name}, {advice(domain)}")
        print("".join(f"{name}, not used: {line}\n" for line in domain.unused), end="")
        with Progress() as progress, progress.task(f"checking {name}", count_images(domain), "images") as task:
            faults += map(str, check_domain(domain, decode, progress=task.advance))
    if faults:
        raise InputError("\n".join([*faults, f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}"]))
    print("ok")


def domains_to_check(what: str, layout: str, changes: Sequence[str] | None) -> dict[str, DomainSpec]:
    """The domain of a path, or the source and target of a spec."""
    from pydantic import ValidationError

    from rapids_slr.settings.spec import DomainSpec
    from rapids_slr.settings.specfile import embedded_specs, explain_values, load_spec

    exists, is_yaml = Path(what).exists(), Path(what).suffix in (".yaml", ".yml")
    if not exists and not is_yaml and what not in embedded_specs():
        raise InputError(f"{what}: no such folder, .zip or spec")
    # A folder may be called as an embedded spec is: what is there comes first.
    if is_yaml or not exists:
        data = load_spec(what, changes or ()).data
        names = ["source"] if len(data.sources) == 1 else [f"source {i}" for i in range(1, len(data.sources) + 1)]
        return {**dict(zip(names, data.sources, strict=True)), "target": data.target}
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
    from rapids_slr.data.pack import pack
    from rapids_slr.progress import Progress

    with Progress() as progress, progress.task(f"packing {folder}", total=None, unit="files") as task:
        pack(folder, archive, progress=task.advance)
    print(archive)


def count_images(domain: Domain) -> int:
    return len(domain.train) + len(domain.query) + len(domain.gallery)
