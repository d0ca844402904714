"""Write the tables of docs/commands.md and docs/run-spec.md, from the program itself.

python docs/reference.py
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import typer

from rapids_slr.cli import COMMANDS
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import dump_yaml, model_schema
from rapids_slr.sweep.plan import MethodEntry, PairEntry, SweepFile

DOCS = Path(__file__).parent
MARK = "<!-- what follows is written by docs/reference.py -->\n"
SWEEPS = """A sweep file names a base spec and sets of changes, which hold any keys of a run spec, dotted or as
sections. They are made in this order, and a later one wins: `set`, `--set`, `swap`, the pair, the method, its point of
the grid."""
Schema = dict[str, Any]


# The run spec ---------------------------------------------------------------------------------------------------------


def run_spec() -> Iterator[str]:
    """A table for every section of a run spec, and those of a sweep file."""
    schema = model_schema()
    parts = schema["$defs"]
    fields = {name: field for name, field in schema["properties"].items() if name != "extends"}
    top = {name: field for name, field in fields.items() if not sections_of(field)}
    yield from section("The top", RunSpec.__doc__ or "", top, ["data"])
    for name, field in fields.items():
        names, sections = choices_of(field), sections_of(field)
        if names:
            yield from choice(name, field, dict(zip(names, (parts[part] for part in sections), strict=True)))
        elif sections:
            part = parts[sections[0]]
            yield from section(name, field.get("description") or part["description"], **keys(part))
        if name == "data":
            domain, drawn = parts["DomainSpec"], parts["SynthSpec"]
            yield from section("data.source and data.target", domain["description"], **keys(domain))
            yield from section("data.source.synth and data.target.synth", drawn["description"], **keys(drawn))
        if name == "clusters":
            other = parts["OtherClustersSpec"]
            yield from section("clusters.also, each of the list", other["description"], **keys(other))
            reliable = parts["ReliableSpec"]
            yield from section("clusters.reliable", reliable["description"], **keys(reliable))
        if name == "training":
            source = parts["SourceLossSpec"]
            yield from section("training.source", source["description"], **keys(source))
    yield from ["", "## Sweep files", "", SWEEPS]
    for title, model in (("top", SweepFile), ("pairs, each", PairEntry), ("methods, each", MethodEntry)):
        yield from section(title, model.__doc__ or "", **keys(model.model_json_schema()), level="###")


def choice(name: str, field: Schema, choices: dict[str, Schema]) -> Iterator[str]:
    """The sections of a key that names a choice: what it says of each, and its own keys."""
    text = f"{field['description']} Given by its name alone, `{name}: {next(iter(choices))}`, or as a section."
    yield from ["", f"## {name}", "", text]
    for of, part in choices.items():
        tag = next(key for key, it in part["properties"].items() if it.get("const") == of)
        own = {key: it for key, it in part["properties"].items() if key != tag}
        title = f"{name}, {tag}: {of}" + ("" if of != next(iter(choices)) else " (the default)")
        if own:
            yield from section(title, part["description"], own, level="###")
        else:
            yield from ["", f"### {title}", "", part["description"] + " It has no keys of its own."]


def keys(schema: Schema) -> dict[str, Any]:
    return {"fields": schema["properties"], "required": schema.get("required", ())}


def section(title: str, text: str, fields: Schema, required: Any = (), level: str = "##") -> Iterator[str]:
    """Heading, meaning, and a line for each key."""
    yield from ["", f"{level} {title}", "", text, "", "| key | takes | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = "required" if name in required else f"`{value_of(field.get('default'))}`"
        cells = [f"`{name}`", kind_of(field), default, field.get("description", "")]
        yield row(cells)


def sections_of(field: Schema) -> list[str]:
    """The models of a key that is a section by itself, or a choice of several."""
    choices = [field, *field.get("anyOf", ())]
    return [choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice]


def choices_of(field: Schema) -> list[str]:
    """The names of which a key takes one, with a section of that choice's own."""
    return next((choice["enum"] for choice in field.get("anyOf", ()) if "enum" in choice), [])


def kind_of(field: Schema) -> str:
    """What a key takes, in words: `whole number, 1 or more`."""
    if "anyOf" in field:
        return " or ".join(kind_of(choice) for choice in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return "a section"
    kind = field.get("type", "any")
    if kind == "array":
        items = kind_of(field["items"])
        return "list of sections" if items == "a section" else f"list, each a {items}"
    if kind == "object":
        return "keys with their values" if field["additionalProperties"] is True else "named sections"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    return ", ".join([words.get(kind) or "`none`", *bounds(field)])


def bounds(field: Schema) -> Iterator[str]:
    if field.get("minimum") == 0 and field.get("maximum") == 1:
        yield "0 to 1"
        return
    texts = {"minimum": "{} or more", "exclusiveMinimum": "above {}", "maximum": "{} at most"}
    texts |= {"exclusiveMaximum": "below {}", "pattern": "`{}`"}
    for name, text in texts.items():
        if name in field:
            yield text.format(field[name])


def value_of(value: Any) -> str:
    """A default as YAML has it, in a line."""
    return dump_yaml({"x": value}).removeprefix("x:").strip() if not isinstance(value, list | dict) else str(value)


# The commands ---------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """The help of every command: what it does, what it takes, an example."""
    for name, command in COMMANDS.items():
        taken = [Taken(parameter) for parameter in inspect.signature(command.run, eval_str=True).parameters.values()]
        usage = " ".join(["rapids-slr", name, *(it.usage for it in taken if it.is_argument), "[OPTIONS]"])
        yield from ["", f"## {name}", "", inspect.getdoc(command.run) or "", "", "```text", usage, "```", ""]
        yield from ["| | default | |", "|---|---|---|"]
        for it in sorted(taken, key=lambda it: not it.is_argument):
            yield row([f"`{it.names}`", it.default, it.info.help or ""])
        yield from ["", "```console", command.example, "```"]


class Taken:
    """An argument or option of a command, by the signature of its function."""

    def __init__(self, parameter: inspect.Parameter) -> None:
        self.kind, self.info = get_args(parameter.annotation)
        self.is_argument = isinstance(self.info, typer.models.ArgumentInfo)
        self.names, self.default = self._names(parameter.name), self._default(parameter.default)
        self.usage = self.names if self.default == "required" else f"[{self.names}]"

    def _names(self, name: str) -> str:
        if self.is_argument:
            return self.info.metavar or name.upper()
        given = [self.info.default, *(self.info.param_decls or ())]  # typer takes the first name for a default
        words = [word for word in given if isinstance(word, str)] or [f"--{name.replace('_', '-')}"]
        names = ", ".join(words)
        kind = next((choice for choice in get_args(self.kind) if choice is not NoneType), self.kind)
        if kind is bool:
            return names
        choices = "|".join(kind) if issubclass(kind, Enum) else kind.__name__.upper()
        return f"{names} {self.info.metavar or choices}"

    def _default(self, default: Any) -> str:
        if default is inspect.Parameter.empty:
            return "required"
        return "" if default is None or isinstance(default, bool) else f"`{getattr(default, 'value', default)}`"


# Pages ----------------------------------------------------------------------------------------------------------------


def row(cells: list[str]) -> str:
    """A line of a table; a line break or a bar within a cell would end it."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


PAGES = {"run-spec.md": run_spec, "commands.md": commands}


def build(name: str) -> str:
    """The page, with all below its mark written anew."""
    head, mark, _ = (DOCS / name).read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise ValueError(f"docs/{name} needs the line {MARK!r}, below which the tables go")
    return head + mark + "\n".join(PAGES[name]()) + "\n"


def main() -> None:
    for name in PAGES:
        (DOCS / name).write_text(build(name), encoding="utf-8")


if __name__ == "__main__":
    main()
