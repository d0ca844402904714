"""Sweep files: YAML and `--set` -> the runs of a sweep, or every fault at once with its line.

    name: alphas
    spec: omniglot                       # base: a path from this file, or an embedded spec
    set: {training.epochs: 6}            # changes to the base, for all runs
    seeds: [0, 1, 2]
    pairs:                               # domains, averaged over in the end; one without changes if left out
      forward: {}
      reverse: {swap: true}              # data.source and data.target of the base exchanged
    methods:                             # what is compared
      abmt: {refine: none}
      slr: {grid: {refine.alpha: [0.3, 0.7]}}     # the methods slr-alpha=0.3 and slr-alpha=0.7
      shuffled: {training.labels: shuffled, seeds: [0]}
    baseline: abmt                       # differences are taken to it; the first method if left out

A set of changes holds any keys of a run spec, dotted or as sections. Changes are made in this order: `set`, `--set`,
`swap`, the pair, the method, its point of the grid; a later one wins. YAML is read as in run specs, `extends` included.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rapids_slr.errors import InputError
from rapids_slr.settings.spec import CountOrZero, RunSpec
from rapids_slr.settings.specfile import (
    MISSING,
    Fault,
    SpecError,
    Tree,
    dump_yaml,
    explain,
    find_spec,
    merge,
    nearest_key,
    read_file,
    read_override,
    valid_keys,
    without_none_words,
)

ONE_PAIR = "all"
"""The pair of a sweep without pairs."""
NAME = r"^\w[\w.=+-]*$"
NO_NAME = "cannot name a folder (letters, digits and _.=+-)"
OF_THE_SWEEP = {"seed": "is given by `seeds`", "name": "is given by pair, method and seed"}
"""Keys of a run spec that no change may hold."""
AFTER_PRETRAINING = ("features", "clusters", "refine", "training", "evaluation")
"""Sections that source pre-training does not read."""

Seeds = Annotated[list[CountOrZero], Field(min_length=1)]


class PairEntry(BaseModel):
    """Changes that make a pair of domains, and what is not a key of a run spec."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)
    swap: bool = False
    """Exchange `data.source` and `data.target` of the base."""


class MethodEntry(BaseModel):
    """Changes that make a method, and what is not a key of a run spec."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)
    seeds: Seeds | None = None
    """Some of the seeds of the sweep, for this method alone."""
    grid: dict[str, Any] = {}
    """Lists of values by dotted key; each combination is a method, named after its values."""


class SweepFile(BaseModel):
    """A sweep file before its changes are looked at."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    name: Annotated[str, Field(pattern=NAME)] = "sweep"
    """Name of the folder: letters, digits and _.=+-."""
    spec: str
    """The base: a run spec, by its path from this file or the name of an embedded one."""
    set: dict[str, Any] = {}
    """Changes to the base, for all runs."""
    seeds: Seeds
    """Seeds, each of which runs every method on every pair."""
    pairs: dict[str, PairEntry] = {}
    """Domains, averaged over in the end; one without changes if left out."""
    methods: Annotated[dict[str, MethodEntry], Field(min_length=1)]
    """What is compared."""
    baseline: str | None = None
    """The method to which differences are taken; the first if left out."""


@dataclass(frozen=True)
class Run:
    pair: str
    method: str
    seed: int
    spec: RunSpec
    changes: Mapping[str, Any]
    """What pair and method change, by dotted key; `swap` among them."""

    @property
    def name(self) -> str:
        return f"{self.pair}/{self.method}/seed-{self.seed}"

    @cached_property
    def pretraining(self) -> RunSpec | None:
        return pretraining_of(self.spec)


@dataclass(frozen=True)
class Sweep:
    name: str
    seeds: tuple[int, ...]
    pairs: tuple[str, ...]
    methods: tuple[str, ...]
    baseline: str
    runs: tuple[Run, ...]
    """All runs of a seed before those of the next."""
    base: Mapping[str, Any]
    """The base spec with `set` and `--set`, as written: defaults are left out."""
    text: str
    """The sweep as a sweep file beside the file spec.yaml, which holds the base."""


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file.

    Args:
        path: a YAML file, or the name of an embedded sweep (`omniglot-methods`).
        overrides: "a.b=value" each. `seeds`, `pairs.*`, `methods.*`, `baseline` and the like change the sweep file, any
            other key the base spec.
    Raises: SpecError naming every fault of the sweep file, of its base, of every run and of the overrides.
    """
    faults: list[Fault] = []
    tree, base = _read(path, overrides, faults)
    pairs = _entries(tree, "pairs") or {ONE_PAIR: Tree({}, tree.where)}
    methods = _methods(tree, faults)
    for entry in (*pairs.values(), *methods.values()):
        _refuse_keys_of_the_sweep(entry, faults)
    _check_names(tree, methods, faults)
    specs: dict[tuple[str, str], RunSpec] = {}
    if base is not None:
        for pair, method in itertools.product(pairs, methods):
            if spec := _run_spec(base, pairs[pair], methods[method], faults):
                specs[pair, method] = spec
    if faults:
        # A fault of the base comes up again for every pair and method.
        raise SpecError(list(dict.fromkeys(str(fault) for fault in sorted(faults, key=lambda fault: fault.where))))

    assert base is not None  # its absence is a fault
    file = SweepFile.model_validate(tree.plain(), strict=True)
    runs = [
        _run(pair, method, seed, specs[pair, method], pairs[pair], methods[method])
        for seed in file.seeds
        for pair, method in itertools.product(pairs, methods)
        if seed in _plain(methods[method], "seeds", file.seeds)
    ]
    text = {**tree.plain(), "spec": "spec.yaml"}
    text.pop("set", None)  # spec.yaml has it already
    return Sweep(
        name=file.name,
        seeds=tuple(file.seeds),
        pairs=tuple(pairs),
        methods=tuple(methods),
        baseline=file.baseline or next(iter(methods)),
        runs=tuple(runs),
        base=base.plain(),
        text=dump_yaml(text),
    )


def find_sweep(path: str | Path) -> Path | Traversable:
    """The file of a path or of an embedded name (`omniglot-methods`, `configs/sweeps/omniglot-methods.yaml`)."""
    if Path(path).is_file():
        return Path(path)
    folder = importlib.resources.files("rapids_slr.configs") / "sweeps"
    embedded = {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}
    if found := embedded.get(str(path).removeprefix("configs/").removeprefix("sweeps/").removesuffix(".yaml")):
        return found
    raise InputError(f"{path}: no such sweep file; embedded sweeps are {', '.join(sorted(embedded))}")


def pretraining_of(spec: RunSpec) -> RunSpec | None:
    """The spec of the pre-training that a run needs; runs that can share it get the same, by its name.

    Its name is a digest of all that source pre-training reads: everything but the sections after it, the engine, where
    images are held, and the target where it is not passed through the network. None if the spec brings a checkpoint
    or starts without.
    """
    if spec.pretrain is None or spec.checkpoint is not None:
        return None
    read = spec.model_dump(mode="json", exclude={"name", "device", "memory_pool", *AFTER_PRETRAINING})
    del read["data"]["store"]
    if not spec.pretrain.target_forward:
        del read["data"]["target"]
    digest = hashlib.blake2b(json.dumps(read, sort_keys=True).encode(), digest_size=6).hexdigest()
    # So the spec is the same whichever run needs it first.
    defaults = {name: RunSpec.model_fields[name].get_default() for name in AFTER_PRETRAINING}
    return spec.model_copy(update={"name": digest, **defaults})


# The file -------------------------------------------------------------------------------------------------------------


def _read(path: str | Path, overrides: Sequence[str], faults: list[Fault]) -> tuple[Tree, Tree | None]:
    """The sweep file and its base with all changes to each; no base, with a fault, where there is none to read."""
    tree = _with_sections(read_file(find_sweep(path), faults))
    changes: list[Tree] = []
    for override in overrides:
        if change := read_override(override, faults):
            if set(change.value) <= set(SweepFile.model_fields):
                tree = merge(tree, change)
            else:
                changes.append(change)
    tree = _check_file(tree, faults)
    base = _base(tree, faults)
    for change in (_section(tree, "set"), *changes):
        _refuse_keys_of_the_sweep(change, faults)
        base = base and merge(base, change)
    return tree, base


def _with_sections(tree: Tree) -> Tree:
    """The sweep file with dotted keys of its changes written as sections, so that `--set` meets them."""
    value = dict(tree.value)
    if "set" in value:
        value["set"] = spread(value["set"])
    for axis in ("pairs", "methods"):
        if axis in value and isinstance(value[axis].value, dict):
            value[axis] = Tree({name: spread(entry) for name, entry in value[axis].value.items()}, value[axis].where)
    return Tree(value, tree.where)


def spread(tree: Tree) -> Tree:
    """{a.b: 1, a.c: 2} as {a: {b: 1, c: 2}}."""
    if not isinstance(tree.value, dict):
        return tree
    result = Tree({}, tree.where)
    for key, below in tree.value.items():
        change = spread(below)
        for part in reversed(key.split(".")):
            change = Tree({part: change}, below.where)
        result = merge(result, change)
    return Tree(result.value, tree.where)


def flat(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Tree]]:
    """{a: {b: 1, c: 2}} as (a.b, 1), (a.c, 2); the other way of `spread`."""
    for key, below in tree.value.items():
        if isinstance(below.value, dict) and below.value:  # {} is a value
            yield from flat(below, f"{prefix}{key}.")
        else:
            yield prefix + key, below


def _check_file(tree: Tree, faults: list[Fault]) -> Tree:
    """Name what is wrong with the sweep file itself; gives it without its unknown keys."""
    known = {}
    for key, below in tree.value.items():
        if key in SweepFile.model_fields:
            known[key] = below
            continue
        what = "unknown key"
        if key in valid_keys():
            what += " of a sweep; changes of the spec for all runs stand below `set`"
        elif near := difflib.get_close_matches(key, SweepFile.model_fields, n=1) or nearest_key(key):
            what += f"; did you mean {near if isinstance(near, str) else near[0]}?"
        faults.append(Fault(below.where, key, what))
    tree = Tree(known, tree.where)
    try:
        SweepFile.model_validate(tree.plain(), strict=True)
    except ValidationError as error:
        _add(explain(error, tree), faults)
    return tree


def _base(tree: Tree, faults: list[Fault]) -> Tree | None:
    """The values of the base spec; None, with a fault, where there is none to read."""
    name = tree.value.get("spec")
    if name is None or not isinstance(name.value, str):
        return None  # a fault of the sweep file
    # Of a file its path counts from there, of --set from the current directory.
    beside = Path(name.where.name).parent / name.value if name.where.line else Path(name.value)
    try:
        return read_file(find_spec(beside if beside.is_file() else name.value), faults, above=(name.where.name,))
    except InputError as error:
        faults.append(Fault(name.where, "spec", str(error)))
        return None


def _section(tree: Tree, key: str) -> Tree:
    below = tree.value.get(key)
    return below if below is not None and isinstance(below.value, dict) else Tree({}, tree.where)


def _entries(tree: Tree, axis: str) -> dict[str, Tree]:
    """The named sets of changes of `pairs` or `methods`; what is none is a fault of the file already."""
    return {name: entry for name, entry in _section(tree, axis).value.items() if isinstance(entry.value, dict)}


def _plain(entry: Tree, key: str, default: Any = None) -> Any:
    return entry.value[key].plain() if key in entry.value else default


def _without(entry: Tree, *keys: str) -> Tree:
    return Tree({key: below for key, below in entry.value.items() if key not in keys}, entry.where)


def _methods(tree: Tree, faults: list[Fault]) -> dict[str, Tree]:
    """The changes of every method, those of a grid written out."""
    methods: dict[str, Tree] = {}
    for method, entry in _entries(tree, "methods").items():
        for name, point in _grid(method, entry, faults):
            if name in methods:
                faults.append(Fault(entry.where, f"methods.{method}", f"there is a method {name} already"))
            methods[name] = point
    return methods


def _grid(method: str, entry: Tree, faults: list[Fault]) -> Iterator[tuple[str, Tree]]:
    """A method for every point of its grid, named by the values: slr-alpha=0.3; the method itself without a grid."""
    grid, entry = _section(entry, "grid"), _without(entry, "grid")
    axes = dict(flat(grid))
    for key, values in axes.items():
        if not isinstance(values.value, list) or not values.value:
            faults.append(Fault(values.where, f"grid.{key}", "expected a list of values, such as [0.3, 0.7]"))
            return
    for point in itertools.product(*(values.value for values in axes.values())):
        name, changed = method, entry
        for key, value in zip(axes, point, strict=True):
            name += f"-{_shortest(key, axes)}={in_words(value.plain())}"
            changed = merge(changed, spread(Tree({key: value}, value.where)))
        if axes and not re.match(NAME, name):
            faults.append(Fault(grid.where, "grid", f"{name} {NO_NAME}; write these methods out"))
        yield name, changed


def _shortest(key: str, keys: Sequence[str] | Mapping[str, Any]) -> str:
    """As many last words of a dotted key as tell it from the others."""
    words = key.split(".")
    ends = (".".join(words[-count:]) for count in range(1, len(words) + 1))  # shortest first
    return next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1)


def in_words(value: Any) -> str:
    """A value as YAML has it; the items of a list with + between them, as a folder may be called."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return "+".join(map(in_words, value)) if isinstance(value, list) else str(value)


def _check_names(tree: Tree, methods: Mapping[str, Tree], faults: list[Fault]) -> None:
    """Names that folders can have, seeds that are there once and known, and a baseline that is a method."""
    faults += [
        Fault(entry.where, f"{axis}.{name}", NO_NAME)
        for axis in ("pairs", "methods")
        for name, entry in _section(tree, axis).value.items()
        if not re.match(NAME, name)
    ]
    given = tree.value.get("seeds")
    seeds = given.plain() if given is not None and isinstance(given.value, list) else []
    lists = {"seeds": given} | {
        f"methods.{name}.seeds": entry.value.get("seeds") for name, entry in _entries(tree, "methods").items()
    }
    for key, listed in lists.items():
        before: list[Any] = []  # no set: what is no seed may have no hash
        for seed in listed.value if listed is not None and isinstance(listed.value, list) else ():
            if seed.value in before:
                faults.append(Fault(seed.where, key, f"{seed.value} is given twice"))
            elif isinstance(seed.value, int) and seeds and seed.value not in seeds:
                faults.append(Fault(seed.where, key, f"{seed.value} is not among the seeds of the sweep"))
            before.append(seed.value)
    baseline = tree.value.get("baseline")
    if baseline is not None and isinstance(baseline.value, str) and baseline.value not in methods:
        near = difflib.get_close_matches(baseline.value, methods, n=1)
        what = f"{baseline.value} is no method" + (f"; did you mean {near[0]}?" if near else "")
        faults.append(Fault(baseline.where, "baseline", what))


# The runs -------------------------------------------------------------------------------------------------------------


def _refuse_keys_of_the_sweep(change: Tree, faults: list[Fault]) -> None:
    faults += [Fault(below.where, key, OF_THE_SWEEP[key]) for key, below in change.value.items() if key in OF_THE_SWEEP]


def _run_spec(base: Tree, pair: Tree, method: Tree, faults: list[Fault]) -> RunSpec | None:
    """The spec of the runs of a pair and a method; None, with faults, where it cannot be used."""
    tree = _swapped(base, pair.value["swap"], faults) if _plain(pair, "swap") is True else base
    tree = merge(merge(tree, _without(pair, "swap")), _without(method, "seeds"))
    try:
        return RunSpec.model_validate(without_none_words(tree.plain(), RunSpec), strict=True)
    except ValidationError as error:
        _add(explain(error, tree), faults)
        return None


def _swapped(base: Tree, swap: Tree, faults: list[Fault]) -> Tree:
    data = _section(base, "data")
    source, target = (data.value.get(role) for role in ("source", "target"))
    if source is None or target is None:
        faults.append(Fault(swap.where, "swap", "needs data.source and data.target in the base spec"))
        return base
    exchanged = Tree({**data.value, "source": target, "target": source}, data.where)
    return Tree({**base.value, "data": exchanged}, base.where)


def _add(found: Sequence[Fault], faults: list[Fault]) -> None:
    """Add faults but those that an unreadable value or file brings with it."""
    unread = [fault for fault in faults if fault.unread]
    files = {fault.where.rank for fault in unread if not fault.key}

    def known(fault: Fault) -> bool:
        line = fault.where.rank, fault.where.line
        return (bool(files) and fault.what == MISSING) or any(
            line == (other.where.rank, other.where.line) and f".{other.key}".endswith(f".{fault.key}")
            for other in unread
        )

    faults += [fault for fault in found if not known(fault)]


def _run(pair_name: str, method_name: str, seed: int, spec: RunSpec, pair: Tree, method: Tree) -> Run:
    # Names of methods may hold = and +, that of a run may not.
    name = re.sub(r"[^\w.-]", "-", f"{pair_name}-{method_name}-{seed}")
    changes = merge(pair, _without(method, "seeds"))
    return Run(
        pair_name,
        method_name,
        seed,
        spec.model_copy(update={"seed": seed, "name": name}),
        {key: below.plain() for key, below in flat(changes)},
    )
