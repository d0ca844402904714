"""Write the table of docs/faults.md from benchmarks/results/faults.json.

python docs/faults.py
"""

from __future__ import annotations

import json
from typing import Any

from results import DOCS, FOLDER, Found, Lines, Parts, build, table

FILE = "faults"
"""The file of benchmarks/faults.py."""
PLANNED = {"kills": 1000, "hosts": 90, "disk": 0, "processes": 30, "specs": 1000, "archives": 1000, "labels": 1000}
"""Cases of a campaign at full size; of the disk all there are."""


def campaign(found: Found) -> Lines:
    """What was tried and what came out, a row a part."""
    results = found.get(FILE, {})
    parts = {name: results[name] for name in PLANNED if name in results}
    lines: Lines = []
    if not is_whole(parts):
        lines += ["The campaign has not been run at full size yet: `python benchmarks/faults.py`.", ""]
    lines += table(
        {
            "part": name,
            "cases": f"{part['done']:,}",
            "outcomes": ", ".join(f"{count:,} {outcome}" for outcome, count in part["outcomes"].items()),
            "faults": str(len(part["faults"])),
            "minutes": f"{part['seconds'] / 60:.1f}",
        }
        for name, part in parts.items()
    )
    if parts:
        made = results["environment"]
        commits = ", ".join(dict.fromkeys(commit for part in parts.values() for commit in part["commits"]))
        lines += [f"{made['device']}, rapids-slr {made['rapids-slr']}, {made['date'][:10]}; commits {commits}.", ""]
    for name, part in parts.items():
        lines += [f"- `{name} {fault['case']}`: {'; '.join(fault['what'])}" for fault in part["faults"]]
    return lines


def is_whole(parts: dict[str, Any]) -> bool:
    """Whether every part has all of its cases."""
    return parts.keys() == PLANNED.keys() and all(
        part["done"] >= (PLANNED[name] or part["of"]) for name, part in parts.items()
    )


PARTS: Parts = {"campaign": campaign}


def files() -> Found:
    path = FOLDER / f"{FILE}.json"
    return {FILE: json.loads(path.read_text(encoding="utf-8"))} if path.exists() else {}


def main() -> None:
    page = DOCS / "faults.md"
    page.write_text(build(page.read_text(encoding="utf-8"), files(), PARTS, "faults"), encoding="utf-8")


if __name__ == "__main__":
    main()
