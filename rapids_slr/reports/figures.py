"""The figures of a single run: its labels, and its images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rapids_slr.reports.clusters import sizes_of
from rapids_slr.reports.drawings import COLOURS, KINDS, columns, flow, matrix, scatter, shades, swatches
from rapids_slr.reports.gather import Run
from rapids_slr.reports.markup import Html, el
from rapids_slr.reports.pictures import Sheet, Strip, Thumb, hues, name_places
from rapids_slr.reports.pieces import NO_EPOCH, absent, figure, scrolled

ENTROPY_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Borders between the columns of the entropy, bits."""


RUN_FIGURES = (
    "sizes",
    "soft",
    "projection",
    "flow",
    "map",
    "contact",
    "apart",
    "rescued",
    "moved",
)
"""Figures of each run, before those of its task; the id of the first run's begin with run1-."""


def sizes_figure(run: Run, prefix: str) -> Html:
    title = "Sizes of the clusters"
    if run.labels is None:
        return absent(f"{prefix}-sizes", title, NO_EPOCH)
    raw, refined = sizes_of(run.labels.cluster), sizes_of(run.labels.refined)
    if not len(raw) and not len(refined):
        return absent(f"{prefix}-sizes", title, "No image is in a cluster.")
    names, borders = size_bins(int(max(raw.max(initial=1), refined.max(initial=1))))
    both = [("refined", 0, refined), ("raw", 1, raw)]
    series = [(name, colour, np.histogram(sizes, borders)[0].tolist()) for name, colour, sizes in both]
    lead = ", ".join(
        f"{name}: {len(sizes)} clusters, median {np.median(sizes):g} images" for name, _, sizes in both if len(sizes)
    )
    drawing = columns(title, names, series, "images in a cluster", "clusters")
    return figure(
        f"{prefix}-sizes", title, [swatches([(0, "refined"), (1, "raw")]), drawing], lead, "Outliers are not counted."
    )


def size_bins(largest: int) -> tuple[list[str], list[int]]:
    """Names and borders of at most a dozen equally wide groups of sizes from 1."""
    width = next(w for w in (1, 2, 5, *(k * 10**p for p in range(1, 9) for k in (1, 2, 5))) if largest <= 12 * w)
    # The last border lies beyond the largest: np.histogram counts what is on it to its last group.
    borders = list(range(1, largest + width + 1, width))
    names = [str(low) if width == 1 else f"{low}–{low + width - 1}" for low in borders[:-1]]
    return names, borders


def soft_figure(run: Run, prefix: str) -> Html:
    title, id = "Entropy of the soft labels", f"{prefix}-soft"
    if run.spec.refine.choice() == "none":
        return absent(id, title, "This run trains on the clusters as they are (refine: none); it has no soft labels.")
    if run.spec.refine.again() is None:
        why = f"This run is {run.spec.refine.words}; its label tables do not tell soft labels."
        return absent(id, title, why)
    if run.spec.clusters.needs_refinement:
        why = "The soft labels of this run come from further clusterings (clusters.also), which no label table holds."
        return absent(id, title, why)
    if run.labels is None or run.entropy_N is None:
        return absent(id, title, NO_EPOCH)
    bits = run.entropy_N[np.isfinite(run.entropy_N)]
    names = ["0", *(f"≤{high:g}" for high in ENTROPY_STEPS[1:]), f">{ENTROPY_STEPS[-1]:g}"]
    # Rounded, as 1 bit comes out of sums a little above or below.
    found = np.bincount(np.searchsorted(ENTROPY_STEPS, np.round(bits, 6)), minlength=len(names)).tolist()
    sure = found[0] / max(len(bits), 1)
    lead = f"{100 * sure:.1f} % of {len(bits):,} images with a soft label are sure of one cluster (0 bits)"
    drawing = columns(title, names, [("images", 0, found)], "entropy, bits", "images")
    return figure(
        id, title, drawing, lead, "0: last epoch’s and this epoch’s cluster are the same, or there is only one of them."
    )


def projection_figure(run: Run, prefix: str) -> Html:
    title, id = "Projection: last epoch’s clusters on this epoch’s", f"{prefix}-projection"
    if run.matrix is None:
        return absent(id, title, no_step(run))
    pooled = (
        ""
        if run.matrix.pooled == 1
        else f" A square is the largest of {run.matrix.pooled} × {run.matrix.pooled} clusters."
    )
    note = (
        "Intersection over union of two clusters, as a share of its row. One dark square in a row: the cluster stays; "
        "several: it splits; none: its images are outliers now."
    )
    return figure(id, title, [shades(), scrolled(matrix(run.matrix), title)], run.matrix.summary + ".", note + pooled)


def flow_figure(run: Run, prefix: str) -> Html:
    title, id = "Where images went: last epoch, this epoch, refined", f"{prefix}-flow"
    if run.flow is None:
        return absent(id, title, no_step(run))
    kinds = {stream.kind for stream in run.flow.streams}
    memory = run.spec.refine.remembers == "refined"
    names = ("last epoch’s refined" if memory else "last epoch’s clusters", "this epoch’s clusters", "refined clusters")
    key = swatches([(colour, meaning) for kind, (colour, meaning) in KINDS.items() if kind in kinds])
    note = (
        "The clusters of the largest changes one by one, all others in a bundle. Thickness is the number of images; "
        "streams between bundles and outliers are cut to a largest thickness."
    )
    return figure(id, title, [key, scrolled(flow(run.flow, names), title)], None, note)


def no_step(run: Run) -> str:
    return NO_EPOCH if run.labels is None else "The first epoch has none before it; from the second on it is here."


def absent_picture(run: Run, name: str) -> str:
    """Why a picture is not there."""
    if run.pictures is not None and name in run.pictures.absent:
        return f"Not there: {run.pictures.absent[name]}."
    # What keeps pictures out is noted last.
    if run.faults:
        return run.faults[-1]
    return "Not there yet: no network and no label table are in the run folder."


def map_figure(run: Run, prefix: str) -> Html:
    title, id = "Map of the features, coloured by refined cluster", f"{prefix}-map"
    positions = run.pictures.map if run.pictures else None
    if positions is None or run.pictures is None or run.labels is None:
        return absent(id, title, absent_picture(run, "map"), "full")
    drawing = scatter(
        f"{positions.method} of {len(positions.xy)} images, coloured by refined cluster",
        positions.xy,
        hues(positions, COLOURS - 1),  # the last is grey, as those left out are
        positions.tips,
        name_places(positions),
        positions.method,
    )
    some = (
        ""
        if len(positions.xy) == positions.of
        else f" {len(positions.xy):,} of {positions.of:,} images, drawn at random."
    )
    note = (
        f"{positions.method} of the features of {run.pictures.network}; labels of epoch {run.labels.epoch}. Numbers "
        f"name clusters; hues repeat, but not among neighbours. Distances across the map mean little.{some}"
    )
    grey = el("ul", el("li", el("i", class_="grey"), "left out"), class_="legend")
    return figure(id, title, [grey, scrolled(drawing, title)], None, note, "full")


def contact_figure(run: Run, prefix: str) -> Html:
    sheet = run.pictures.clusters if run.pictures else None
    note = (
        "Images as the network sees them. A dashed red frame with a cross: another identity than most of the cluster."
    )
    return sheet_figure(
        run,
        f"{prefix}-contact",
        "Refined clusters, those with most wrong images first",
        sheet,
        "clusters",
        note,
        "clusters",
    )


def change_figures(run: Run, prefix: str) -> Iterable[Html]:
    """The three sheets of images whose label changed."""
    pictures = run.pictures
    yield sheet_figure(
        run,
        f"{prefix}-apart",
        "Clusters that the refinement keeps apart",
        pictures.apart if pictures else None,
        "apart",
        "A cluster of this epoch a row, by the refined label of its images; those with most images taken away first.",
        "clusters",
        "Refinement took no cluster apart in this epoch.",
    )
    yield sheet_figure(
        run,
        f"{prefix}-rescued",
        "Rescued: outliers that refinement gives a cluster",
        pictures.rescued if pictures else None,
        "rescued",
        "Rescued images beside others of the cluster they join.",
        "clusters",
        "No outlier was rescued in this epoch.",
    )
    yield sheet_figure(
        run,
        f"{prefix}-moved",
        "Moved between epochs",
        pictures.moved if pictures else None,
        "moved",
        "Images that left most of their old cluster for another one, beside images of both.",
        "moves",
        "No image moved to another cluster than most of its old one.",
    )


def sheet_figure(
    run: Run, id: str, title: str, sheet: Sheet | None, name: str, note: str, what: str, none: str = ""
) -> Html:
    """A contact sheet, or why there is none.

    Args:
        name: of the field of Pictures, or of what the task shows.
        what: a row shows, in the plural.
        none: what stands in the place of a sheet without rows.
    """
    if sheet is None:
        return absent(id, title, absent_picture(run, name), "full")
    if not sheet.strips:
        return absent(id, title, none or "There is none.", "full")
    shown = len(sheet.strips)
    lead = f"{what}: {shown}" if shown == sheet.of else f"{what}: {shown} of {sheet.of}"
    long = any(len(strip.parts) > 1 for strip in sheet.strips)
    body = el("div", [strip_of(strip) for strip in sheet.strips], class_="sheet long" if long else "sheet")
    return figure(id, title, body, lead, note, "full")


def strip_of(strip: Strip) -> Html:
    parts = []
    for part in strip.parts:
        more = part.images - len(part.thumbs)
        tail = el("span", f"+ {more:,}", class_="more") if more else None
        label = el("span", f"{part.name} · {part.images:,}" if more else part.name) if part.name else None
        parts.append(el("div", label, el("div", [thumb_of(thumb) for thumb in part.thumbs], tail), class_="part"))
    facts = [" ", el("span", strip.facts)] if strip.facts else None
    return el("div", el("h4", strip.title, facts), el("div", parts, class_="parts"), class_="strip")


def thumb_of(thumb: Thumb) -> Html:
    mark = None if thumb.right is None else el("b", "✓" if thumb.right else "✗", aria_hidden="true")
    kind = "" if thumb.right is None else " right" if thumb.right else " wrong"
    framed = el(
        "span", el("img", src=thumb.uri, alt=thumb.description, title=thumb.description), mark, class_="thumb" + kind
    )
    return el("span", framed, el("small", thumb.caption), class_="captioned") if thumb.caption else framed
