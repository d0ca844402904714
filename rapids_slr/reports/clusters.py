"""What the label table of an epoch tells: projection, soft labels, and where images went. No image is looked at."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix, csr_matrix

from rapids_slr.engine.arrays import row_of_entry
from rapids_slr.errors import InputError
from rapids_slr.refinement import SLR, Refined
from rapids_slr.refinement.base import Refiner

SQUARES = 160
"""Rows and columns of a drawn matrix; of more clusters, each square is the largest of several."""
CHANGES = 6
"""Largest changes between two columns of the flow whose clusters are drawn one by one."""
INTEGERS = ("previous", "cluster", "refined", "camera")


@dataclass(frozen=True)
class EpochLabels:
    """The label table of an epoch; arrays are (N,), labels int32 with -1 for none."""

    epoch: int
    paths: list[str]
    camera: np.ndarray
    previous: np.ndarray
    """Labels remembered from the epoch before."""
    cluster: np.ndarray
    refined: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def is_first(self) -> bool:
        """Whether no label was remembered."""
        return bool((self.previous < 0).all())


@dataclass(frozen=True)
class Matrix:
    """A projection as it is drawn."""

    shape: tuple[int, int]
    """Squares down and across."""
    pooled: int
    """Clusters a side of a square."""
    cells: list[tuple[int, int, float, str | None]]
    """Row, column, share of 0 to 1, and what is shown where the pointer rests on it."""
    summary: str


@dataclass(frozen=True)
class Node:
    column: int
    """0 last epoch, 1 this epoch, 2 refined."""
    name: str
    images: int


@dataclass(frozen=True)
class Stream:
    start: int
    """Number of its node."""
    end: int
    images: int
    kind: str
    pooled: bool
    """Whether neither end is a single cluster."""


@dataclass(frozen=True)
class Flow:
    """Images between last epoch's, this epoch's and refined clusters; most clusters are bundled."""

    nodes: list[Node]
    streams: list[Stream]
    scale: float
    """Pixels an image."""
    cap: float
    """Pixels of the thickest stream between bundles."""


@dataclass(frozen=True)
class Change:
    """Images whose label changed, beside those they were or are with; rows of the label table."""

    title: str
    parts: list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Changes:
    """The largest changes of a kind."""

    shown: list[Change]
    of: int
    """How many there are."""


def read_label_table(path: Path, epoch: int) -> EpochLabels:
    """Raises: InputError if the file is cut off or no label table."""
    try:
        table = pd.read_parquet(path)
        integers = {name: table[name].to_numpy(np.int32) for name in INTEGERS}
        confidence = table["confidence"].to_numpy(np.float32)
        return EpochLabels(epoch, [str(name) for name in table["path"]], confidence=confidence, **integers)
    except Exception as fault:  # pyarrow and pandas raise a dozen kinds for a damaged file
        raise InputError(f"{path} is damaged or no label table ({type(fault).__name__})") from fault


def refinement(labels: EpochLabels, refiner: Refiner | None = None) -> Refined:
    """Projection and soft labels of an epoch, computed again; hard labels are those of the table, not these.

    Args:
        refiner: one that is new; without, the soft labels mean nothing, but the projection of the clusters does.
    """
    again: Any = SLR(hard="argmax") if refiner is None else refiner
    # The first update is for the memory; what it gives is not looked at.
    again.update(labels.previous)
    return again.update(labels.cluster)


def entropy(refined: Refined) -> np.ndarray:
    """(N,) float64: entropy of every soft label, bits; NaN for images that are left out."""
    rows = refined.rows
    matrix = rows.matrix
    values = matrix.data.astype(np.float64)
    bits_R = np.bincount(row_of_entry(matrix.indptr, values.size), -values * np.log2(values), matrix.shape[0])
    # Row -1, that of images without a soft label, is the NaN at the end; what rounding leaves below 0 is 0.
    return np.append(np.maximum(bits_R, 0.0), np.nan)[rows.row_of_image]


def sizes_of(labels_N: np.ndarray) -> np.ndarray:
    """(K,) images of every cluster that has any."""
    return np.unique(labels_N[labels_N >= 0], return_counts=True)[1]


# Projection -----------------------------------------------------------------------------------------------------------


def matrix_of(refined: Refined) -> Matrix | None:
    """The projection, ordered so that clusters that stay lie on the diagonal; None without a cluster on either side."""
    share, both = csr_matrix(refined.projection).tocoo(), csr_matrix(refined.overlap)
    size_P, size_K = refined._overlap.size_P, refined._overlap.size_K
    if not (size_P > 0).any() or not (size_K > 0).any():
        return None
    # Rows by size. Columns follow the row that most of their images come from, so that clusters that stay lie on the
    # diagonal; those that come from none stand at the end.
    rows = np.flatnonzero(size_P)
    rows = rows[np.argsort(-size_P[rows], kind="stable")]
    place_P = np.full(len(size_P), len(rows))
    place_P[rows] = np.arange(len(rows))
    heaviest = both.argmax(axis=0).A1 if both.nnz else np.zeros(len(size_K), np.int64)
    kept = both.max(axis=0).toarray().ravel() > 0 if both.nnz else np.zeros(len(size_K), bool)
    columns = np.flatnonzero(size_K)
    first = np.where(kept, place_P[heaviest], len(rows))[columns]
    columns = columns[np.lexsort((-size_K[columns], first))]
    place_K = np.full(len(size_K), len(columns))
    place_K[columns] = np.arange(len(columns))

    pooled = math.ceil(max(len(rows), len(columns)) / SQUARES)
    shape = math.ceil(len(rows) / pooled), math.ceil(len(columns) / pooled)
    found = largest_of_squares(place_P[share.row] // pooled, place_K[share.col] // pooled, share.data, shape)
    cells = []
    for row, column, value in zip(found.row.tolist(), found.col.tolist(), found.data.tolist(), strict=True):
        tip = None
        if pooled == 1:
            a, b = int(rows[row]), int(columns[column])
            tip = f"cluster {a} → cluster {b}: {100 * value:.1f} %, {int(both[a, b])} of {size_P[a]} images"
        cells.append((row, column, value, tip))
    whole = int((share.data > 0.999).sum())  # 1 but for rounding
    return Matrix(shape, pooled, cells, f"{whole} of {len(rows)} clusters go to one cluster alone")


def largest_of_squares(row: np.ndarray, column: np.ndarray, value: np.ndarray, shape: tuple[int, int]) -> coo_matrix:
    """The largest value of every square."""
    square, inverse = np.unique(row.astype(np.int64) * shape[1] + column, return_inverse=True)
    # By hand, as a sparse matrix would add up what falls on one square.
    most = np.zeros(len(square))
    np.maximum.at(most, inverse, value)
    return coo_matrix((most, (square // shape[1], square % shape[1])), shape=shape)


# Flow -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Images that go from one cluster to another; -1 is no cluster."""

    start: int
    end: int
    images: int
    kind: str


def steps_between(before_N: np.ndarray, now_N: np.ndarray, found: str) -> list[Step]:
    """Images by label before and after, and what that makes of them.

    Args:
        found: kind of those that had no cluster and have one now.
    Returns: the kinds are `stable` between two clusters that hold most of each other, `split` to another cluster than
        most, `merged` into a cluster most of which came from elsewhere, `dropped`, `outside`, and `found`.
    """
    pairs, images = np.unique(np.stack([before_N, now_N]), axis=1, return_counts=True)
    heir: dict[int, tuple[int, int]] = {}
    origin: dict[int, tuple[int, int]] = {}
    triples = [(int(a), int(b), int(n)) for (a, b), n in zip(pairs.T, images, strict=True)]
    for a, b, n in triples:
        if a >= 0 and b >= 0:
            heir[a] = max(heir.get(a, (0, 0)), (n, -b))  # the lower number of equals
            origin[b] = max(origin.get(b, (0, 0)), (n, -a))

    def kind(a: int, b: int) -> str:
        if a < 0 or b < 0:
            return "outside" if a == b else found if a < 0 else "dropped"
        if heir[a][1] != -b:
            return "split"
        return "stable" if origin[b][1] == -a else "merged"

    return [Step(a, b, n, kind(a, b)) for a, b, n in triples]


Place = tuple[int, int | str]
"""Column of a node, and its cluster or what it bundles: `others`, `none` (no cluster)."""


def flow_of(labels: EpochLabels) -> Flow:
    """The streams of an epoch: the clusters of the largest changes one by one, all others bundled."""
    columns = (labels.previous, labels.cluster, labels.refined)
    halves = [steps_between(columns[0], columns[1], "joined"), steps_between(columns[1], columns[2], "rescued")]
    shown = _shown(halves)

    def place(column: int, label: int) -> Place:
        return column, "none" if label < 0 else label if label in shown[column] else "others"

    images: Counter[Place] = Counter()
    bundled: Counter[int] = Counter()
    for column, labels_N in enumerate(columns):
        for label, n in zip(*np.unique(labels_N, return_counts=True), strict=True):
            at = place(column, int(label))
            images[at] += int(n)
            bundled[column] += at[1] == "others"  # one more cluster in the bundle
    streams: Counter[tuple[Place, Place, str]] = Counter()
    for half, steps in enumerate(halves):
        for step in steps:
            streams[place(half, step.start), place(half + 1, step.end), step.kind] += step.images

    def name(column: int, what: int | str) -> str:
        if what == "others":
            return f"{bundled[column]:,} others"
        return str(what) if what != "none" else "left out" if column == 2 else "outliers"

    order = _order(images, streams)
    number = {at: i for i, at in enumerate(order)}
    alone: Counter[int] = Counter()
    for (column, what), n in images.items():
        alone[column] += 0 if isinstance(what, str) else n
    return Flow(
        [Node(column, name(column, what), images[column, what]) for column, what in order],
        [
            Stream(number[start], number[end], n, kind, isinstance(start[1], str) and isinstance(end[1], str))
            for (start, end, kind), n in streams.items()
        ],
        # Clusters that are drawn alone take 230 pixels of a column at most.
        scale=min(3.0, 230 / max(alone.values(), default=1)) if any(alone.values()) else 3.0,
        cap=50.0,
    )


def _shown(halves: list[list[Step]]) -> list[set[int]]:
    """Clusters of each column that the largest changes touch, and their heirs."""
    shown: list[set[int]] = [set(), set(), set()]
    for half, steps in enumerate(halves):
        changed = [step for step in steps if step.kind not in ("stable", "outside")]
        for step in sorted(changed, key=lambda step: -step.images)[:CHANGES]:
            shown[half] |= {step.start} - {-1}
            shown[half + 1] |= {step.end} - {-1}
    for half, steps in enumerate(halves):
        # A cluster that stays is drawn in all three columns: heirs to the right here, those they come from below.
        shown[half + 1] |= {step.end for step in steps if step.kind == "stable" and step.start in shown[half]}
    for half, steps in reversed(list(enumerate(halves))):
        shown[half] |= {step.start for step in steps if step.kind == "stable" and step.end in shown[half + 1]}
    return shown


def _order(images: Counter[Place], streams: Counter[tuple[Place, Place, str]]) -> list[Place]:
    """Nodes from left to right, then down: bundles first, outliers last, the others near where they come from."""
    order: list[Place] = []
    height: dict[Place, float] = {}

    def rank(at: Place) -> tuple[float, float]:
        if isinstance(at[1], str):
            return (-1.0 if at[1] == "others" else math.inf, 0.0)
        coming = [(height[start], n) for (start, end, _), n in streams.items() if end == at]
        mean = sum(y * n for y, n in coming) / sum(n for _, n in coming) if coming else 0.0
        return (mean, -images[at])

    for column in range(3):
        nodes = sorted((at for at in images if at[0] == column), key=rank)
        height |= {at: float(i) for i, at in enumerate(nodes)}
        order += nodes
    return order


# Changes --------------------------------------------------------------------------------------------------------------


def kept_apart(labels: EpochLabels, most: int) -> Changes:
    """Clusters of this epoch that refinement takes apart, those with most images taken away first."""
    found = []
    for cluster, rows in groups(labels.cluster):
        parts = sorted(groups(labels.refined[rows], least=-1), key=lambda part: (-len(part[1]), part[0]))
        if len(parts) > 1:
            named = [("left out" if label < 0 else f"refined {label}", rows[part]) for label, part in parts]
            found.append((len(rows) - len(parts[0][1]), Change(f"cluster {cluster}", named)))
    # A stable sort: of equals the lower number comes first.
    found.sort(key=lambda item: -item[0])
    return Changes([change for _, change in found[:most]], len(found))


def rescued(labels: EpochLabels, most: int) -> Changes:
    """Outliers that refinement gives a cluster, beside images that were in it."""
    found = groups(np.where(labels.cluster < 0, labels.refined, -1))
    found.sort(key=lambda item: -len(item[1]))
    changes = []
    for label, rows in found[:most]:
        others = np.flatnonzero((labels.refined == label) & (labels.cluster >= 0))
        changes.append(Change(f"refined {label}", [("rescued", rows), ("already there", others)]))
    return Changes(changes, len(found))


def moved(labels: EpochLabels, most: int) -> Changes:
    """Images that went to another cluster than most of their old one, beside both."""
    steps = steps_between(labels.previous, labels.cluster, "joined")
    heir = {step.start: step.end for step in steps if step.kind in ("stable", "merged")}
    found = sorted((step for step in steps if step.kind == "split"), key=lambda step: -step.images)
    changes = []
    for step in found[:most]:
        was, now = labels.previous == step.start, labels.cluster == step.end
        parts = {
            "moved": was & now,
            "stayed together": was & (labels.cluster == heir[step.start]),
            "came from elsewhere": now & ~was,
        }
        named = [(name, np.flatnonzero(rows_N)) for name, rows_N in parts.items()]
        changes.append(Change(f"last epoch’s {step.start} → {step.end}", named))
    return Changes(changes, len(found))


def groups(labels_N: np.ndarray, least: int = 0) -> list[tuple[int, np.ndarray]]:
    """Labels of at least `least`, each with its rows, ascending."""
    order = np.argsort(labels_N, kind="stable")
    values, starts = np.unique(labels_N[order], return_index=True)
    rows = np.split(order, starts[1:])
    return [(int(value), rows[i]) for i, value in enumerate(values) if value >= least]
