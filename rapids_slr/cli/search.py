"""Trained networks at work: embed images and search them, hand the networks to other programs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from rapids_slr.cli.options import Device, print_table

log = logging.getLogger(__name__)

SHOWN, SHOWN_ANSWERS = 3, 3
"""Queries in the table on the screen, and answers to each."""

CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="Run folder, or a last.pt, pretrained.pt or picked.pt of one.")
]


def embed(
    checkpoint: CheckpointArgument,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Image, or folder or .zip of images.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Features: .npy, .safetensors or .parquet.")],
    device: Annotated[Device, typer.Option(help="Engine; auto takes CUDA where it works.")] = Device.auto,
) -> None:
    """Write the features of all images below IMAGES, for `rapids-slr cluster` and others. Prints OUT.

    The features are those that evaluation uses: (N, D) float32, rows of unit length, images in natural order of their
    names; a .parquet file has them too, in columns sample, path and features. Unreadable ones are named and left out.
    """
    from rapids_slr.labelfiles import FEATURE_WRITERS, check_suffix, write_features

    check_suffix(out, FEATURE_WRITERS)
    from rapids_slr.progress import Progress
    from rapids_slr.search import embed_images

    with Progress() as progress:
        found = embed_images(checkpoint, images, device.value, progress)
        for fault in found.images.faults:
            progress.say(f"warning: left out: {fault}")
    write_features(out, found.features_ND, found.images.split.names)
    N, D = found.features_ND.shape
    summary = {"images": N, "dimensions": D, "left out": len(found.images.faults), "engine": found.backend.name}
    print_table(f"by {found.trained.which}", [summary])
    print(out)


def search(
    checkpoint: CheckpointArgument,
    query: Annotated[Path, typer.Argument(metavar="QUERY", help="Image, or folder or .zip of images.")],
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="Where to search: the same.")],
    top: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="Answers to a query; 10 without, or a whole smaller gallery.", show_default=False
        ),
    ] = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="Rank by k-reciprocal neighbourhoods.")] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("search"),
    device: Annotated[Device, typer.Option(help="Engine; auto takes CUDA where it works.")] = Device.auto,
) -> None:
    """Find the GALLERY images most like each QUERY image. Prints the sheet's file.

    The features are those that evaluation uses: of the teacher, or of the pre-trained network before an adaptation.
    DIR gets search.html, matches.csv and matches.json. Names are free. Of a data set, QUERY takes the query images and
    GALLERY the gallery. Unreadable images are named and left out; a file is not its own answer.
    """
    from rapids_slr.progress import Progress
    from rapids_slr.reports.matches import shown_queries, write_sheet
    from rapids_slr.search import search as run_search
    from rapids_slr.search import write_matches

    with Progress() as progress:
        matches = run_search(checkpoint, query, gallery, top, device.value, progress, rerank)
        progress.say(f"by {matches.trained.which}, on {matches.backend.device} ({matches.backend.why})")
        for fault in matches.faults:
            progress.say(f"warning: left out: {fault}")
        if itself := int(matches.itself_Q.sum()):
            progress.say(f"{itself} of {len(matches.query)} queries are in the gallery; a file is not its own answer")
        write_matches(matches, out)
        with progress.task("drawing the sheet", shown_queries(matches), "queries") as task:
            sheet = write_sheet(matches, out, task.advance)
    names = matches.query.split.names, matches.gallery.split.names
    rows: list[dict[str, object]] = [
        {
            "query": Path(names[0][row]).name if rank == 1 else "",
            "rank": rank,
            "found": Path(names[1][i]).name,
            "similarity": f"{similarity:.3f}",
        }
        for row in range(min(SHOWN, len(matches.query)))
        for rank, i, similarity, _ in list(matches.answers(row))[:SHOWN_ANSWERS]
    ]
    print_table(f"{len(matches.query):,} queries in {len(matches.gallery):,} images", rows)
    print(sheet)


def export(
    checkpoint: CheckpointArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write: .onnx or .pt2.")],
    images: Annotated[
        Path | None,
        typer.Option(metavar="IMAGES", help="Folder or .zip to compare on, beside random pixels.", show_default=False),
    ] = None,
) -> None:
    """Write a network as ONNX, or as a torch.export program (.pt2), and compare its features. Prints the file.

    It takes uint8 pixels (N, channels, height, width) as stored, already resized, any N; it normalises them itself, and
    gives features of unit length as evaluation uses them. ONNX needs the extra `export`; a .pt2 file needs torch alone.
    """
    from rapids_slr.export import check_format

    check_format(out)
    from rapids_slr.export import export as run_export
    from rapids_slr.progress import Progress

    with Progress() as progress, progress.task(f"exporting {checkpoint}", 1, "files") as task:
        made = run_export(checkpoint, out, images)
        task.advance()
    facts = made.facts
    summary = {
        "MB": f"{out.stat().st_size / 1e6:.1f}",
        "pixels": f"N x {facts['channels']} x {facts['height']} x {facts['width']} uint8",
        "features": f"N x {facts['dimensions']} float32",
        "images compared": made.images,
        "largest difference": f"{made.difference:.2g}",
    }
    print_table(f"{facts['network']}", [summary])
    print(out)
