"""The sheet of a search: every query with the images found for it, as one HTML file without scripts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rapids_slr import __version__
from rapids_slr.data.collect import Collection
from rapids_slr.data.decode import upright
from rapids_slr.files import write_text
from rapids_slr.reports.figures import strip_of
from rapids_slr.reports.markup import Html, el
from rapids_slr.reports.pictures import Part, Strip, Thumb, uri_of
from rapids_slr.reports.pieces import document, figure, notice, tile
from rapids_slr.search import AGAIN, Matches

QUERIES = 200
"""Queries on the sheet, the first of all."""
ANSWERS = 30
"""Pictures of a query's answers."""
RULES = """
.sheet.long{grid-template-columns:minmax(0,1fr)}
.sheet.long .parts{flex-wrap:nowrap;gap:20px}
.part:first-child{flex:none}
.part>div{gap:6px 12px}
.thumb img{width:72px}
.captioned{display:inline-flex;flex-direction:column;align-items:center;gap:2px}
.captioned small{color:var(--soft);font-size:12px;line-height:1.2;font-variant-numeric:tabular-nums}
.answer details{border:0;padding:4px 0;margin:0;font-size:13px}
.answer summary{font-weight:400;color:var(--soft)}
.answer ol{margin:4px 0;padding-left:26px;overflow-wrap:anywhere}
.tile span{overflow-wrap:anywhere}
@media (max-width:600px){.thumb img{width:56px}.sheet.long .parts{gap:12px}.part>div{gap:6px 8px}}
"""


def write_sheet(matches: Matches, folder: Path, progress: Callable[[int], None] | None = None) -> Path:
    """Write search.html, with the first QUERIES queries, and give it.

    Args:
        progress: called after every query with 1.
    Raises: RunError if it cannot be written.
    """
    pictures = Pictures(matches.query), Pictures(matches.gallery)
    strips = []
    for row in range(shown_queries(matches)):
        strips.append(query_strip(matches, row, *pictures))
        if progress is not None:
            progress(1)
    page = sheet_page(matches, strips)
    out = folder / "search.html"
    write_text(out, page, AGAIN)
    return out


def shown_queries(matches: Matches) -> int:
    return min(QUERIES, len(matches.query))


class Pictures:
    """Small pictures of a collection's images as they are stored, each made once."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._uris: dict[int, str] = {}

    def of(self, row: int) -> str:
        if row not in self._uris:
            with self.collection.open(self.collection.split.names[row]) as image:
                self._uris[row] = uri_of(upright(image, "RGB"))
        return self._uris[row]


def query_strip(matches: Matches, row: int, asked: Pictures, offered: Pictures) -> Html:
    """A query, what was found for it, and the names of that."""
    name = matches.query.split.names[row]
    thumbs, names = [], []
    for rank, i, similarity, right in matches.answers(row):
        what = f"{matches.gallery.split.names[i]}{person(matches, matches.gallery, i)}"
        names.append(el("li", f"{what}: {similarity:.4f}"))
        if rank <= ANSWERS:
            judged = "" if right is None else ", right" if right else ", wrong"
            description = f"rank {rank}{judged}: {what}, similarity {similarity:.4f}"
            thumbs.append(Thumb(offered.of(i), description, right, f"{similarity:.2f}"))
    query = Thumb(asked.of(row), f"query: {name}", caption=" ")  # level with the answers, which have captions
    parts = [Part("query", [query], 1), Part("found", thumbs, len(names))]
    strip = strip_of(Strip(name, person(matches, matches.query, row).strip(" ()"), parts))
    folded = el("details", el("summary", f"names and similarities of all {len(names)}"), el("ol", names))
    return el("div", strip, folded, class_="answer")


def person(matches: Matches, collection: Collection, row: int) -> str:
    """Identity and camera of an image in brackets, if names tell them."""
    identity, camera = int(collection.split.identities[row]), int(collection.split.cameras[row])
    return f" (identity {identity}, camera {camera})" if matches.identified and identity >= 0 else ""


def sheet_page(matches: Matches, strips: list[Html]) -> Html:
    """The whole file."""
    title = f"{matches.query.path.name} in {matches.gallery.path.name}"
    which = f"{matches.trained.which} of {matches.trained.path}"
    facts = [which, time.strftime("%Y-%m-%d %H:%M"), f"{matches.backend.name} engine"]
    shown, of = len(strips), len(matches.query)
    note = (
        "Below an image: the cosine of the angle between its features and those of the query, 1 for the same direction."
    )
    if matches.identified:
        note += (
            " Green with a tick: the query’s identity by the file names, under any camera; dashed red with a cross: "
            "another one."
        )
    lead = f"queries: {shown}" if shown == of else f"queries: {shown} of {of:,}; all are in matches.csv"
    body = [
        el("header", el("h1", title), el("p", " · ".join(facts), class_="soft")),
        el("div", tiles(matches), class_="tiles"),
        left_out(matches),
        el(
            "main",
            figure("answers", "Queries and what was found", el("div", strips, class_="sheet long"), lead, note, "full"),
        ),
        el("footer", f"Made by rapids_slr {__version__}. matches.csv and matches.json have all answers."),
    ]
    return document(f"{title} – rapids_slr search", body, RULES)


def tiles(matches: Matches) -> list[Html]:
    itself = int(matches.itself_Q.sum())
    found = [
        tile("Queries", f"{len(matches.query):,}", str(matches.query.path)),
        tile("Gallery", f"{len(matches.gallery):,}", str(matches.gallery.path)),
        tile(
            "Answers to a query",
            f"{matches.top:,}",
            f"{itself:,} queries in the gallery" if itself else "the most similar images",
        ),
    ]
    right, judged = matches.right_first()
    if judged:
        found.append(tile("First answer right", f"{right:,} of {judged:,}", "by file names, any camera"))
    return found


def left_out(matches: Matches) -> Html | None:
    """What is not in the search, and why."""
    items = [str(fault) for fault in matches.faults]
    if itself := int(matches.itself_Q.sum()):
        items.append(f"{itself:,} queries are files of the gallery; a file is not its own answer.")
    return notice("Left out", items)
