"""What a report shows of classification: clusters against classes, and the clusters that are worst."""

from __future__ import annotations

import math

import numpy as np

from rapids_slr.data.domain import Domain
from rapids_slr.reports.clusters import SQUARES, EpochLabels, Matrix, groups, largest_of_squares
from rapids_slr.reports.drawings import Axes, matrix, shades
from rapids_slr.reports.figures import absent_picture, sheet_figure
from rapids_slr.reports.gather import Run
from rapids_slr.reports.markup import Html
from rapids_slr.reports.pictures import Part, Pictures, Seen, Sheet, Strip, Thumbs
from rapids_slr.reports.pieces import absent, figure, scrolled

HEADING = "Classes"
WORST, KINDS, OF_KIND = 12, 5, 6
"""Clusters on the sheet, classes that are shown of one, and images of each."""
NAMED = 60
"""Classes up to which rows have their names."""


def take(seen: Seen, found: Pictures) -> None:
    if seen.labels is None:
        found.absent["confusion"] = found.absent["worst"] = "no epoch has left a label table yet"
        return
    classes_N = None if seen.thumbs.identities is None else seen.thumbs.identities[seen.rows]
    found.of_task["worst"] = worst_sheet(seen.labels, classes_N, seen.domain, seen.rows, seen.thumbs)
    if classes_N is None:
        found.absent["confusion"] = "the classes of the target are not known"
    else:
        names = [seen.domain.name_of(int(one)) for one in np.unique(classes_N)]
        found.of_task["confusion"] = confusion_of(seen.labels.refined, classes_N, names), names


def confusion_of(labels_N: np.ndarray, classes_N: np.ndarray, names: list[str]) -> Matrix:
    """Clusters against classes: the part of every class that is in each cluster, and in none.

    Args:
        labels_N: (N,) refined labels, -1 for left out.
        classes_N: (N,) integers.
        names: of the classes, in the order of their numbers.
    Returns: classes down, by number; clusters across, each beside those of the class it has most of, the larger first;
        then, apart by a column, what is left out.
    """
    class_N = np.unique(classes_N, return_inverse=True)[1]
    found = groups(labels_N)
    shared_KM = np.array([np.bincount(class_N[rows], minlength=len(names)) for _, rows in found], np.int64)
    shared_KM = shared_KM.reshape(len(found), len(names))
    order = np.lexsort((-shared_KM.sum(axis=1), shared_KM.argmax(axis=1))) if len(found) else np.zeros(0, np.int64)
    outside_M = np.bincount(class_N[labels_N < 0], minlength=len(names))
    nothing_M = np.zeros_like(outside_M)
    columns = [*shared_KM[order], nothing_M, outside_M] if outside_M.any() else list(shared_KM[order])
    images_MK = np.array(columns, np.int64).reshape(-1, len(names)).T
    share_MK = images_MK / np.bincount(class_N)[:, None]
    row, column = np.nonzero(images_MK)
    pooled = max(1, math.ceil(max(images_MK.shape) / SQUARES))
    shape = math.ceil(len(names) / pooled), math.ceil(images_MK.shape[1] / pooled)
    squares = largest_of_squares(row // pooled, column // pooled, share_MK[row, column], shape)
    cells = []
    for a, b, value in zip(squares.row.tolist(), squares.col.tolist(), squares.data.tolist(), strict=True):
        tip = None
        if pooled == 1:
            where = f"cluster {found[order[b]][0]}" if b < len(found) else "left out"
            tip = f"{names[a]}, {where}: {images_MK[a, b]} images, {100 * value:.1f} % of the class"
        cells.append((a, b, value, tip))
    main, clustered = sum(int(counts.max()) for counts in shared_KM), int(shared_KM.sum())
    lead = f"{len(names)} classes, {len(found)} clusters; {main} of {clustered} clustered images are of the main class"
    return Matrix(shape, pooled, cells, f"{lead} of their cluster")


def worst_sheet(
    labels: EpochLabels, classes_N: np.ndarray | None, domain: Domain, rows: np.ndarray, thumbs: Thumbs
) -> Sheet:
    """The clusters with the smallest part of their main class, or, where classes are not known, the least confident.

    Args:
        classes_N: (N,) classes of the label table's images; None where they are not known.
        rows: (N,) the same images in the split of `thumbs`.
    """
    found = []
    for label, members in groups(labels.refined):
        kinds = {0: np.arange(len(members))} if classes_N is None else dict(groups(classes_N[members]))
        parts = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
        sure = float(labels.confidence[members].mean())
        worth = sure if classes_N is None else len(parts[0][1]) / len(members)
        if classes_N is None or len(parts) > 1:
            found.append((worth, -len(members), label, sure, members, parts))
    strips = []
    for worth, _, label, sure, members, parts in sorted(found, key=lambda item: item[:3])[:WORST]:
        facts = [f"{len(members)} images", f"confidence {sure:.2f}"]
        if classes_N is not None:
            facts.insert(0, f"{100 * worth:.0f} % {domain.name_of(parts[0][0])}")
        if len(parts) > KINDS:
            facts.append(f"{len(parts)} classes")
        shown = [
            Part(
                "" if classes_N is None else domain.name_of(one),
                [thumbs.of(int(rows[i])) for i in members[inside][:OF_KIND]],
                len(inside),
            )
            for one, inside in parts[:KINDS]
        ]
        strips.append(Strip(f"cluster {label}", " · ".join(facts), shown))
    return Sheet(strips, len(found))


def figures(run: Run, prefix: str) -> list[Html]:
    return [confusion_figure(run, prefix), worst_figure(run, prefix)]


def confusion_figure(run: Run, prefix: str) -> Html:
    title, id = "Clusters against classes", f"{prefix}-confusion"
    found = run.pictures.of_task.get("confusion") if run.pictures else None
    if found is None:
        return absent(id, title, absent_picture(run, "confusion"), "full")
    drawn, names = found
    axes = Axes(
        "Confusion matrix",
        "classes",
        "refined clusters by their main class; at the right, apart: left out",
        names if len(names) <= NAMED else (),
        counted=False,
    )
    pooled = "" if drawn.pooled == 1 else f" A square is the largest of {drawn.pooled} × {drawn.pooled}."
    note = (
        "The part of a class, a row, that is in each cluster. Several dark squares in a row: the class is in pieces; "
        f"in a column: the cluster holds several classes.{pooled}"
    )
    return figure(id, title, [shades(), scrolled(matrix(drawn, axes), title)], f"{drawn.summary}.", note, "full")


def worst_figure(run: Run, prefix: str) -> Html:
    sheet = run.pictures.of_task.get("worst") if run.pictures else None
    note = (
        "Clusters with the smallest part of their main class first, their classes side by side; where the classes of "
        "the target are not known, those that refinement is least sure of."
    )
    none = "Every cluster is of one class."
    return sheet_figure(run, f"{prefix}-worst", "The worst clusters", sheet, "worst", note, "clusters", none)
