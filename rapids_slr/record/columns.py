"""The columns of metrics.jsonl and pretrain.jsonl: what each is called, its unit, its group, and which way is better.

Rows, the screen, charts and tables read them here. A host registers its loss terms with `loss_column`, a task its
scores with `add_columns`; from then on reports draw and name them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

LOSS, SECONDS, RAW = "loss/", "seconds/", "raw_"
"""What keys of a family begin with: a loss term, the time of a stage, a figure of the clusters before refinement."""
GUARD = "guard/"
"""What scores without identities begin with."""
PICKS_BY = "guard/source"
"""The column by which `evaluation.pick: guard` chooses among start and epochs."""
WHOLE = "seconds/epoch"
"""Seconds of all stages of an epoch, and of what lies between them."""
DIGITS = {"%": 1, "s": 1, "images": 1, "cameras": 1}
"""Decimals of a figure by its unit; three without one of these. Whole numbers have none."""


@dataclass(frozen=True)
class Column:
    """A figure of an epoch."""

    key: str
    """In the file; `prefix/name` or `raw_name` in a family."""
    name: str
    """What people call it, without its unit."""
    unit: str = ""
    """`%` is a fraction that is written in percent; nothing where there is none."""
    group: str = ""
    """Columns of a group make a chart, and have one unit; those of no group are in none."""
    better: Literal["more", "less", ""] = ""
    """Nothing where neither is."""
    meaning: str = ""
    """What it is, where the name does not tell."""
    beside: str = ""
    """Key of the column beside which it is drawn, dashed."""
    chance: float | None = None
    """Of a loss term: what it is where it has nothing to teach."""

    @property
    def head(self) -> str:
        """Name and unit: `mAP, %`."""
        return self.name if not self.unit or self.unit in self.name else f"{self.name}, {self.unit}"

    def text(self, value: float) -> str:
        """A value without its unit, as a table shows it."""
        if self.unit == "%":
            value = 100.0 * value  # a float, also of a whole number
        return f"{value:g}" if isinstance(value, int) else f"{value:.{DIGITS.get(self.unit, 3)}f}"


COLUMNS: dict[str, Column] = {}
"""Every column by its key, in the order in which they are shown; those of a family need not be here."""


def add_columns(*columns: Column) -> tuple[Column, ...]:
    """Register columns, and give them.

    Raises: ValueError if a key is that of another column already.
    """
    for column in columns:
        # The same again is no fault: hosts share loss terms.
        if (there := COLUMNS.setdefault(column.key, column)) != column:
            raise ValueError(f"column {column.key}: {column} is to be registered, but there is {there}; rename one")
    return columns


def loss_column(term: str, meaning: str, chance: float | None = None) -> Column:
    """Register a loss term, `loss/<term>`. Hosts may share one that means the same to both.

    Args:
        chance: its value where it has nothing to teach, if that is one number; a run that stays there says so.
    Raises: ValueError if it means something else already.
    """
    (column,) = add_columns(Column(LOSS + term, term, "", "loss", "less", meaning, chance=chance))
    return column


def column_of(key: str) -> Column:
    """The column of a key: registered, or of a family, or else one that is called by its key and in no group."""
    if key in COLUMNS:
        return COLUMNS[key]
    if key.startswith(LOSS):
        return Column(key, key.removeprefix(LOSS), "", "loss", "less")
    if key.startswith(SECONDS):
        return Column(key, key.removeprefix(SECONDS), "s", "seconds", "less")
    if key.startswith(RAW) and (refined := COLUMNS.get(key.removeprefix(RAW))):
        return replace(refined, key=key, name=f"{refined.name}, raw", beside=refined.key)
    return Column(key, key)


def columns_in(rows: Iterable[Mapping[str, Any]], group: str) -> list[Column]:
    """The columns of a group that rows have, in the order of the table; others of a family follow as they come."""
    place = {key: number for number, key in enumerate(COLUMNS)}
    found = (column_of(key) for key in dict.fromkeys(key for row in rows for key in row))
    return sorted(
        (column for column in found if column.group == group), key=lambda column: place.get(column.key, len(place))
    )


add_columns(
    Column("epoch", "epoch"),
    Column("refined_clusters", "refined clusters", "clusters", "clusters"),
    Column("clusters", "raw clusters", "clusters", "clusters", beside="refined_clusters"),
    Column("identities", "identities", "identities"),
    Column("outliers", "outliers", "images", "outliers"),
    Column("rescued", "rescued", "images", "outliers"),
    Column("left_out", "left out", "images", "outliers"),
    Column("ari", "ARI", "", "ari", "more"),
    Column("nmi", "NMI", "", "nmi", "more"),
    Column("ari_labelled", "ARI of clustered images", "", "", "more"),
    Column("nmi_labelled", "NMI of clustered images", "", "", "more"),
    Column("ari_prev", "ARI with last", "", "agreement"),
    Column("false_pairs", "false pairs", "%", "errors", "less"),
    Column("missed_pairs", "missed pairs", "%", "errors", "less"),
    Column("false_repeated", "false pairs repeated", "%", "repeated", "less"),
    Column("missed_repeated", "missed pairs repeated", "%", "repeated", "less"),
    Column("purity", "purity", "%", "right", "more"),
    Column("rescued_rightly", "rescued rightly", "%", "right", "more"),
    Column("guard/source", "source", "%", "guard", "more", "the headline on test images of the source"),
    Column(
        "guard/views", "agreement of views", "%", "guard", "more", "neighbours of an image that two views of it share"
    ),
    Column(
        "guard/heads", "agreement of heads", "%", "guard", "more", "the same between the heads of the network, by pairs"
    ),
    Column(
        "guard/density", "density", "%", "guard", "more", "entropy of an image's similarities, of the largest possible"
    ),
    Column("guard/epochs", "agreement with last", "%", "guard", "", "neighbours as after the evaluated epoch before"),
    Column("guard/start", "agreement with start", "%", "guard", "", "neighbours as before adaptation"),
    Column("cluster_images", "mean size of a cluster", "images"),
    Column("cluster_cameras", "cameras of a cluster", "cameras"),
    Column("cluster_confidence", "mean confidence of a cluster"),
    Column("entropy", "mean entropy", "bits", "entropy"),  # reports compute it from the label tables
    Column("lr", "learning rate", "", "rate"),
    Column(WHOLE, "whole epoch", "s", "seconds", "less"),
)
