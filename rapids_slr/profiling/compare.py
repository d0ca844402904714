"""Two profiles side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(this: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What changed from another profile to this one, stage by stage.

    Returns: for each stage of both `seconds`, `memory`, `flop` and `bytes`, this divided by other (None where one of
        them is missing), and `change`: `slower` or `faster` where the spreads (lowest to highest) do not overlap,
        `new` or `gone` for a stage of one of them, else "".
    """
    found: dict[str, dict[str, Any]] = {}
    for name in [*this["stages"], *(name for name in other["stages"] if name not in this["stages"])]:
        now, then = this["stages"].get(name), other["stages"].get(name)
        if now is None or then is None:
            found[name] = dict.fromkeys(("seconds", "memory", "flop", "bytes")) | {"change": "gone" if then else "new"}
            continue
        fast, slow = now["seconds"]["high"] < then["seconds"]["low"], now["seconds"]["low"] > then["seconds"]["high"]
        memory = [(stage["host_peak_mb"] or {}).get("most") for stage in (now, then)]  # None outside Linux
        found[name] = {
            "seconds": now["seconds"]["median"] / then["seconds"]["median"],
            "memory": _ratio(*memory),
            "flop": _ratio(now["flop"], then["flop"]),
            "bytes": _ratio(now["bytes"], then["bytes"]),
            "change": "faster" if fast else "slower" if slow else "",
        }
    return found


def _ratio(now: float | None, then: float | None) -> float | None:
    return now / then if now and then else None


def verdict(this: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What came of a comparison, in sentences; first what makes the two hard to compare."""
    sentences = []
    for name, where in (("device", "environment"), ("threads", "environment"), ("commit", "environment")):
        now, then = this[where].get(name), other[where].get(name)
        if now != then:
            sentences.append(f"{name}: {then} before, {now} now")
    sentences += [
        f"{name}: {other[name]} before, {this[name]} now" for name in ("images", "dim") if this[name] != other[name]
    ]
    if keys := _differences(this["spec"], other["spec"]):
        sentences.append(f"the specs differ in {', '.join(keys)}")
    rows = changes(this, other)
    changed = [f"{name} {row['change']}" + (f" ({row['seconds']:.2f} x)" if row["seconds"] else "")
               for name, row in rows.items() if row["change"]]  # fmt: skip
    sentences.append(
        "changed beyond the spreads: " + ", ".join(changed) if changed else "nothing changed beyond the spreads"
    )
    return sentences


def _differences(now: Any, then: Any, key: str = "") -> list[str]:
    """Dotted keys in which two specs differ."""
    if not (isinstance(now, dict) and isinstance(then, dict)):
        return [key] if now != then else []
    names = list(dict.fromkeys([*now, *then]))
    return [
        found for name in names for found in _differences(now.get(name), then.get(name), f"{key}.{name}".strip("."))
    ]
