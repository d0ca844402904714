"""Run specs as text: YAML and `--set` -> RunSpec, or every fault at once with its line and the key that was meant.

YAML is read by the rules of version 1.2: `1e-3` is a number, `no` and `off` are words. Anchors are left out; `extends:
other.yaml` takes the settings of another spec as a start. The word `none` leaves out what may be left out (`refine:
none`). Relative paths of data and checkpoints in a spec count from the current directory, wherever the spec lies;
`extends` counts from the spec that says it.
"""

from __future__ import annotations

import difflib
import importlib.resources
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rapids_slr.errors import InputError
from rapids_slr.settings.base import sections_of, without_none_words
from rapids_slr.settings.spec import RunSpec

QUICKSTART = "quickstart"
"""The embedded spec of a run without a spec."""
PAPER = "paper"
"""The embedded spec with the settings of the paper, which all runs had before there were others."""
LIKENESS = 0.65
"""Similarity (difflib, 0..1) from which a valid key is offered for an unknown one."""
# Beyond any chain of `extends`, which counts up from 0.
OVERRIDE = 1000
"""Rank of `--set` among the places of faults."""
SET = "--set "
MISSING = "is missing"
QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'""", re.DOTALL)
"""A text in quotes, as YAML has them."""
SHOWN = 60
"""Characters of a wrong value that a message repeats."""


class SpecError(InputError):
    """A spec that cannot be used; `.faults` holds a line for each thing that is wrong with it."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


def load_spec(path: str | Path | None, overrides: Sequence[str] = (), *, of_run: bool = False) -> RunSpec:
    """Read a run spec.

    Args:
        path: a YAML file, or the name of an embedded spec (`omniglot`); None takes the quick-start.
        overrides: "a.b=value" each, the value written as in YAML; a later one wins.
        of_run: the file is the spec.yaml of a run folder, which holds every key that its version had; those it had not
            are as in the paper, not as by default.
    Raises: SpecError naming every fault of the file, of those it extends and of the overrides.
    """
    faults: list[Fault] = []
    tree = read_file(find_spec(path), faults)
    if of_run:
        tree = merge(read_file(find_spec(PAPER), []), tree)
    for override in overrides:
        if change := read_override(override, faults):
            tree = merge(tree, change)
    try:
        # Strict: YAML has told numbers from text already, and `epochs: "3"` is a mistake.
        spec = RunSpec.model_validate(without_none_words(tree.plain(), RunSpec), strict=True)
    except ValidationError as error:
        faults += [fault for fault in explain(error, tree) if not any(unread.hides(fault) for unread in faults)]
    if faults:
        raise SpecError([str(fault) for fault in sorted(faults, key=lambda fault: fault.where)])
    return spec


def dump_spec(spec: RunSpec) -> str:
    """The spec as YAML with every default filled in; loading it gives an equal spec."""
    return dump_yaml(spec.model_dump(mode="json"))


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Settings as YAML, None as the word `none`."""
    return yaml.dump(with_none_words(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def spec_schema() -> dict[str, Any]:
    """JSON Schema of a spec file, for editors and validators."""
    schema = model_schema()
    for part in _subschemas(schema):
        if {"type": "null"} in part.get("anyOf", ()):
            # The word `none` is what files say for null.
            part["anyOf"].append({"const": "none"})
    extends = {"type": "string", "description": "Another spec, from this file's folder or embedded, to start from."}
    data = schema["$defs"]["DataSpec"]
    # Only a file that extends none has to be complete.
    complete = {"required": schema.pop("required"), "properties": {"data": {"required": data.pop("required")}}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "rapids-slr run spec",
        "properties": {"extends": extends, **schema["properties"]},
        "if": {"not": {"required": ["extends"]}},
        "then": complete,
    }


def model_schema() -> dict[str, Any]:
    """What a complete spec holds: the sections of choices have places among the definitions, as all others have."""
    schema = RunSpec.model_json_schema()
    for key, info in RunSpec.model_fields.items():
        for section in sections_of(info):
            choices = schema["properties"][key].get("anyOf", [])
            for place, choice in enumerate(choices):
                if choice.get("title") == section.__name__:
                    schema["$defs"][section.__name__] = choice
                    choices[place] = {"$ref": f"#/$defs/{section.__name__}"}
    return schema


def spec_differences(one: RunSpec, other: RunSpec) -> list[str]:
    """Dotted keys whose values differ, in the order of the spec."""
    return list(_differences(one.model_dump(), other.model_dump(), ""))


def embedded_specs() -> dict[str, Traversable]:
    """The specs that come with the package, by name."""
    files = importlib.resources.files("rapids_slr.configs").iterdir()
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def explain_values(error: ValidationError, prefix: str = "") -> list[str]:
    """The faults of settings that come from no file, such as command-line options, as "<prefix>key: what is wrong"."""
    return [f"{prefix}{_dotted(detail['loc'])}: {_what(detail)}" for detail in error.errors()]


# Where a value stands ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Place:
    rank: int
    """0 for the spec, 1 for the one it extends, and so on; OVERRIDE for `--set`."""
    line: int
    """Counted from 1; 0 where there are no lines."""
    column: int
    name: str = field(compare=False)
    """The file, or the whole of an override."""

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


@dataclass(frozen=True)
class Fault:
    where: Place
    key: str
    """Dotted; empty for a file as a whole."""
    what: str
    unread: bool = False
    """No value could be read, so that what is found missing or wrong at the key or below it is nothing new."""

    def hides(self, other: Fault) -> bool:
        # What the spec that was not found would have given is not missing here.
        if self.key == "extends":
            return other.what == MISSING
        return self.unread and (not self.key or f"{other.key}.".startswith(f"{self.key}."))

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.what}" if self.key else f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Tree:
    """A value of a spec and where it was written; sections and lists hold trees again."""

    value: Any
    where: Place

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: below.plain() for key, below in self.value.items()}
        if isinstance(self.value, list):
            return [below.plain() for below in self.value]
        return self.value

    def place(self, keys: Sequence[str | int]) -> Place:
        """Where the value under these keys was written, or the nearest section above it that was."""
        tree = self
        for key in keys:
            try:
                tree = tree.value[key]
            except (KeyError, IndexError, TypeError):
                break
        return tree.where


def merge(base: Tree, change: Tree) -> Tree:
    """`base` with what `change` says; sections are merged key by key, all else is replaced.

    A path takes the place of a drawn domain, and the other way round. A merged section stands where the spec, before
    what it extends and before any override, has it.
    """
    if not (isinstance(base.value, dict) and isinstance(change.value, dict)):
        return change
    replaced = {other for name, other in (("path", "synth"), ("synth", "path")) if name in change.value}
    merged = {key: below for key, below in base.value.items() if key not in replaced or key in change.value}
    for key, below in change.value.items():
        merged[key] = merge(merged[key], below) if key in merged else below
    return Tree(merged, min(base.where, change.where))


# Reading -------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    # Empty, in place of PyYAML's for version 1.1, by which `no` is False and `1e-3` is text; those of 1.2 are added
    # below.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own name)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        # An alias has an anchor as well.
        if event.anchor or getattr(event, "tag", None):
            what = "anchors, aliases and tags are not read; share settings with `extends: other.yaml`"
            raise yaml.composer.ComposerError(None, None, what, event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes what version 1.1 or 1.2 of YAML would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_WORDS = {"null": r"~|null|Null|NULL", "bool": r"true|True|TRUE|false|False|FALSE"}
_NUMBERS = {
    # int() refuses more than 4300 digits.
    "int": r"[-+]?[0-9]{1,4000}",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
for _kind, _pattern in (_WORDS | _NUMBERS).items():
    # The dumper keeps PyYAML's own besides, and quotes what either version would misread.
    for _yaml in (_Loader, _Dumper):
        _yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), None)


def find_spec(path: str | Path | None) -> Path | Traversable:
    """The file of a path or of an embedded name (`omniglot`, `omniglot.yaml`, `configs/omniglot.yaml`)."""
    path = None if path is None else os.path.expanduser(path)
    name = QUICKSTART if path is None else path
    if path is not None and Path(path).is_file():
        return Path(path)
    if path is not None and Path(path).is_dir():
        raise InputError(f"{path} is a folder; give the spec file in it, such as {Path(path) / 'spec.yaml'}")
    embedded = embedded_specs()
    if found := embedded.get(name.removeprefix("configs/").removesuffix(".yaml")):
        return found
    near = difflib.get_close_matches(name, embedded, n=1)
    raise InputError(
        f"{name}: no such spec file; embedded specs are {', '.join(sorted(embedded))}"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def read_file(file: Path | Traversable, faults: list[Fault], above: Sequence[str] = ()) -> Tree:
    """The values of a file on top of those it extends; what cannot be read goes to faults."""
    name = str(file)
    start = Place(len(above), 1, 1, name)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        faults.append(Fault(start, "", f"is not UTF-8 text (byte {error.start}); is it a spec?", unread=True))
        return Tree({}, start)
    tree = read_yaml(text, start, faults)
    if tree is None or tree.value is None:
        return Tree({}, start)
    if not isinstance(tree.value, dict):
        what = f"expected settings, `key: value`, got {_show(tree.plain())}"
        faults.append(Fault(tree.where, "", what, unread=True))
        return Tree({}, start)
    extends = tree.value.pop("extends", None)
    if extends is None:
        return tree
    try:
        base = _find_base(extends.plain(), file)
    except InputError as error:
        faults.append(Fault(extends.where, "extends", str(error)))
        return tree
    chain = [*above, _identity(file)]
    if _identity(base) in chain:
        circle = " -> ".join([*chain[chain.index(_identity(base)) :], _identity(base)])
        faults.append(Fault(extends.where, "extends", f"goes in a circle: {circle}"))
        return tree
    return merge(read_file(base, faults, chain), tree)


def _find_base(name: Any, file: Path | Traversable) -> Path | Traversable:
    if not isinstance(name, str):
        raise InputError(f"expected the name of one spec, got {_show(name)}")
    beside = Path(str(file)).parent / os.path.expanduser(name)
    return find_spec(beside if beside.is_file() else name)


def _identity(file: Path | Traversable) -> str:
    return str(file.resolve()) if isinstance(file, Path) else str(file)


def read_override(override: str, faults: list[Fault]) -> Tree | None:
    """The tree of "a.b=value"; None, with a fault, where it cannot be read."""
    where = Place(OVERRIDE, 0, 0, SET + override)
    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        faults.append(Fault(where, "", "expected key=value, such as clusters.k1=20"))
        return None
    if not text.strip():
        faults.append(Fault(where, key, f"has no value; `{key}=none` leaves out what may be left out"))
        return None
    tree = read_value(text, where, faults, tuple(keys))
    for key in reversed(keys):
        tree = tree and Tree({key: tree}, where)
    return tree


def read_value(text: str, where: Place, faults: list[Fault], keys: tuple[str, ...]) -> Tree | None:
    """The value of an override: YAML in brackets or quotes, else a number, a word or a text, taken whole.

    A word of the command line is one value: in it ` #` begins no comment and `: ` no section. A key that takes text may
    have brackets in it.
    """
    quoted = QUOTED.fullmatch(text.strip())
    if quoted or (text.lstrip().startswith(("[", "{", '"', "'")) and not _takes_text(".".join(keys))):
        return read_yaml(text, where, faults, keys)
    kind = next((kind for kind, pattern in (_WORDS | _NUMBERS).items() if re.fullmatch(pattern, text.strip())), None)
    if kind is None:
        return Tree(text, where)
    return Tree(_scalar(yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", text.strip())), where)


def read_yaml(text: str, start: Place, faults: list[Fault], keys: tuple[str, ...] = ()) -> Tree | None:
    """The tree of a YAML text that stands below `keys`; None for an empty one, and, with a fault, for a broken one."""
    # Its constructor reads already, and may raise.
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _tree(node, start, keys, faults)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = ", ".join(filter(None, (error.context, error.problem)))
        where = f"column {column}: " if start.line else ""
        faults.append(Fault(_at(start, line, column), "", f"{where}broken YAML: {what}", unread=bool(start.line)))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"broken YAML: {error.reason} (#x{error.character:04x})"
        faults.append(Fault(_at(start, line, 1), "", what, unread=bool(start.line)))
    except RecursionError:
        faults.append(Fault(start, "", "broken YAML: nested too deeply", unread=bool(start.line)))
    finally:
        if loader is not None:
            loader.dispose()
    return None


def _tree(node: yaml.Node, start: Place, keys: tuple[str, ...], faults: list[Fault]) -> Tree:
    where = _at(start, node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.SequenceNode):
        return Tree([_tree(item, start, keys, faults) for item in node.value], where)
    if isinstance(node, yaml.ScalarNode):
        empty = not node.value and not node.style  # quotes are a style: "" is a text
        if empty and keys:
            faults.append(Fault(where, ".".join(keys), "has no value; give one, or leave the key out", unread=True))
        return Tree(None if empty else _scalar(node), where)
    section: dict[str, Tree] = {}
    for key_node, value_node in node.value:
        key_place = _at(start, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key is None:
            faults.append(Fault(key_place, ".".join(keys), "a key must be a word"))
            continue
        below = _tree(value_node, start, (*keys, key), faults)
        # PyYAML by itself would take the last without a word.
        if key in section:
            first = f", first at line {section[key].where.line}" if start.line else ""
            faults.append(Fault(key_place, ".".join((*keys, key)), f"is given twice{first}"))
        section[key] = Tree(below.value, key_place)
    return Tree(section, where)


def _at(start: Place, line: int, column: int) -> Place:
    return Place(start.rank, line, column, start.name) if start.line else start


def _scalar(node: yaml.ScalarNode) -> Any:
    kind, text = node.tag.rpartition(":")[2], node.value
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text)
    if kind == "float":
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return text


# Keys, and the word `none` -------------------------------------------------------------------------------------------


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key below a model with its field, sections included, those of all choices."""
    for name, info in model.model_fields.items():
        yield prefix + name, info
        for section in sections_of(info):
            yield from _fields(section, f"{prefix}{name}.")


def valid_keys() -> tuple[str, ...]:
    """Every dotted key of a spec; tables of choices may have grown since the last call."""
    return tuple(dict.fromkeys(key for key, _ in _fields(RunSpec)))  # choices share keys


def _takes_text(key: str) -> bool:
    """Whether a key of a spec, or one of a sweep that ends in it, is a text."""
    texts = (name for name, info in _fields(RunSpec) if str in (info.annotation, *get_args(info.annotation)))
    return any(f".{key}".endswith(f".{name}") for name in texts)


def with_none_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: with_none_words(below) for key, below in value.items()}
    if isinstance(value, list):
        return [with_none_words(below) for below in value]
    return "none" if value is None else value


def nearest_key(key: str) -> str | None:
    """The valid dotted key that was most likely meant: alike in its last word first, then as a whole."""

    def likeness(candidate: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return max(last, whole), whole

    best = max(valid_keys(), key=likeness)
    return best if likeness(best)[0] >= LIKENESS else None


# Saying what is wrong ------------------------------------------------------------------------------------------------


def explain(error: ValidationError, tree: Tree) -> list[Fault]:
    """The faults that pydantic found, in words, each with its place."""
    faults = []
    for detail in error.errors():
        key, what = _dotted(detail["loc"]), _what(detail)
        if detail["type"] == "extra_forbidden":
            if key in valid_keys():  # a dot within a key, as `--set` has it
                what += f"; write `{key.replace('.', ': {')}: ...{'}' * key.count('.')}`"
            elif near := nearest_key(key):
                what += f"; did you mean {near}?"
        where = tree.place(detail["loc"])
        if detail["type"] == "string_type" and where.rank == OVERRIDE:
            what = f"expected text, got {_show(detail['input'])}; if it is meant as text: {_as_text(where.name)}"
        faults.append(Fault(where, key, what))
    return faults


def _as_text(override: str) -> str:
    """An override as a shell takes it for text: --set 'name="123"'."""
    key, _, text = override.removeprefix(SET).partition("=")
    return SET + shlex.quote(f"{key}={json.dumps(text, ensure_ascii=False)}")


def _what(detail: Mapping[str, Any]) -> str:
    """One fault of pydantic in words."""
    kind, got = detail["type"], _show(detail["input"])
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return MISSING
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "model_type":
        return f"expected a section of settings, got {got}"
    if kind == "string_type":
        return f"expected text, got {got}; put it in quotes if it is meant as text"
    # pydantic begins with what kind of input it wanted, where the key will stand.
    return f"{re.sub('^(Input|String|List) should', 'should', detail['msg'])}, got {got}"


def _dotted(keys: Sequence[str | int]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _show(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000, allow_unicode=True)
    # After a bare word or number PyYAML ends the document with dots.
    text = text.removesuffix("\n").removesuffix("\n...")
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _differences(one: Any, other: Any, key: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one:
            yield from _differences(one[name], other[name], f"{key}.{name}" if key else name)
    elif one != other:
        yield key


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for below in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _subschemas(below)
