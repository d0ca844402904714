"""HTML and SVG as text that cannot be broken by what it shows: every string is escaped unless it was built here."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

VOID = {"br", "img", "meta"}


class Html(str):
    """Text that is HTML already."""


# Positional alone, so that an attribute may be called `name`.
def el(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        children: text, which is escaped, Html, numbers, None (nothing), or iterables of these.
        attributes: in Python's spelling: `class_`, `aria_label`, `stroke_width`; None leaves one out. Floats get two
            decimals.
    """
    stated = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{stated}>" if name in VOID else f"<{name}{stated}>{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """The children of an element, one after another."""
    return Html("".join(map(_inner, children)))


def _inner(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):  # before str, which it is too
        return child
    if isinstance(child, str | int | float):
        return html.escape(_text(child), quote=False)
    return join(child)


def _text(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
