"""Pieces of the page: figures, tables, and how numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rapids_slr.reports.markup import Html, el
from rapids_slr.reports.style import stylesheet

UNTESTED = "The target has no images that test a network, so nothing was evaluated."
NO_EPOCH = "No epoch of the adaptation has finished yet."


def document(title: str, body: Sequence[Html | None], rules: str = "") -> Html:
    """A whole HTML file.

    Args:
        rules: CSS of this page, beyond that of all pages.
    """
    head = [
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Html(stylesheet() + rules)),  # quotes of CSS are not escaped
    ]
    return Html("<!DOCTYPE html>\n" + el("html", el("head", head), el("body", body), lang="en"))


def figure(
    id: str, title: str, body: Any, lead: str | None = None, note: str | None = None, wide: str | None = None
) -> Html:
    """A figure with its heading, what one sees in words, and how to read it."""
    caption = [el("h3", title)]
    if lead:
        caption.append(el("p", lead, class_="lead"))
    if note:
        caption.append(el("p", note, class_="note"))
    return el("figure", el("figcaption", caption), body, id=id, class_=wide)


def absent(id: str, title: str, why: str, wide: str | None = None) -> Html:
    """The place of a figure that cannot be drawn, with the reason."""
    return figure(id, title, el("p", why, class_="absent"), wide=wide)


def tile(name: str, value: str, detail: str) -> Html:
    """A headline figure."""
    return el("div", el("span", name), el("b", value), el("span", detail), class_="tile")


def notice(title: str, items: Sequence[str]) -> Html | None:
    """What a page leaves out, and why; nothing where there are no items."""
    if not items:
        return None
    listed = el("ul", [el("li", item) for item in items])
    return el("div", el("strong", title), listed, class_="missing", role="note")


def table(title: str, heads: Sequence[str], body: Sequence[Sequence[str]], text: bool = False) -> Html:
    """A table whose first column names its rows.

    Args:
        text: whether the cells are words rather than numbers.
    """
    kind = "text" if text else None
    head = el("tr", [el("th", name, scope="col", class_=kind) for name in heads])
    rows = [
        el("tr", el("th", first, scope="row", class_="text"), [el("td", cell, class_=kind) for cell in cells])
        for first, *cells in body
    ]
    return scrolled(el("table", el("caption", title), el("thead", head), el("tbody", rows)), title)


def scrolled(content: Html, title: str) -> Html:
    """Content that scrolls by itself where the screen is narrow."""
    # In the order of the tab key, so that keys scroll it too.
    return el("div", content, class_="scroll", tabindex=0, role="region", aria_label=title)


def score(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def seconds_text(value: float) -> str:
    """Seconds in a column that says so; short stages get more digits."""
    if 0 < value < 0.001:
        return "< 0.001"
    return f"{value:.{1 if value >= 10 else 2 if value >= 0.1 else 3}f}"


def share_text(part: float, whole: float) -> str:
    """Part of a whole in percent, for a column that says so."""
    if not whole:
        return "–"
    return "< 0.1" if 0 < part / whole < 5e-4 else f"{100 * part / whole:.1f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
