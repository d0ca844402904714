"""Keys of estimators: a dataclass declares each once, with its type, limits, default and meaning beneath it.

The estimator inherits its `__init__` from that dataclass and its checks from `check_keys`, the spec section inherits
the fields, and the command line makes an option of each. Neither torch nor pydantic is imported here, so that the
command line need not wait for them. A module of keys does without `from __future__ import annotations`: pydantic before
2.10 looks words up in the module of the section.
"""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from rapids_slr.errors import InputError

Fraction = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]

Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]


def at_home(path: str | None) -> str | None:
    """A path with `~` at its start as the folder of the user that it means."""
    return path and os.path.expanduser(path)


@dataclass(frozen=True)
class Key:
    """What a declaration says of one key."""

    kind: type
    """int, float or str."""
    default: Any
    meaning: str
    optional: bool
    """Whether None is taken."""
    choices: tuple[str, ...]
    """The words that are taken; none for numbers."""
    limits: tuple[Ge | Gt | Le | Lt, ...]

    @property
    def interval(self) -> str:
        """`[0, 1)`."""
        low, high = "(-inf", "inf]"
        for limit in self.limits:
            if isinstance(limit, Ge | Gt):
                low = f"[{limit.ge}" if isinstance(limit, Ge) else f"({limit.gt}"
            else:
                high = f"{limit.le}]" if isinstance(limit, Le) else f"{limit.lt})"
        return f"{low}, {high}"

    def holds(self, value: Any) -> bool:
        """Whether a value can be used; NumPy's whole numbers are whole numbers."""
        if value is None and self.optional:
            return True
        if self.choices:
            return value in self.choices
        return (self.kind is not int or isinstance(value, Integral)) and all(_within(value, x) for x in self.limits)

    def wanted(self, choices: str) -> str:
        """What a value must be, in words.

        Args:
            choices: how the words that are taken are listed, with `{most}` and `{last}` for them.
        """
        if self.choices:
            return "must " + choices.format(most=", ".join(self.choices[:-1]), last=self.choices[-1])
        if self.kind is int:
            least = next(x.ge for x in self.limits if isinstance(x, Ge))
            return f"must be {'None or ' if self.optional else ''}a whole number of at least {least},"
        if self.limits == (Ge(0),):
            return "must not be negative,"
        return f"must lie in {self.interval},"


def _within(value: Any, limit: Ge | Gt | Le | Lt) -> bool:
    """False for NaN, whatever the limit."""
    if isinstance(limit, Ge):
        return value >= limit.ge
    if isinstance(limit, Gt):
        return value > limit.gt
    return value <= limit.le if isinstance(limit, Le) else value < limit.lt


def keys_of(declaration: type) -> dict[str, Key]:
    """The keys of a dataclass, or of a class made from one, in its order.

    A field is an int or float with limits, or a `Literal` of words; any of them may be None as well.
    """
    return _keys_of(declaration)


def values_of(declaration: type, holder: object) -> dict[str, Any]:
    """The values of a declaration's keys, by name, from anything that has them: a section, an estimator."""
    return {name: getattr(holder, name) for name in keys_of(declaration)}


@cache
def _keys_of(declaration: type) -> dict[str, Key]:
    hints, meanings = get_type_hints(declaration, include_extras=True), meanings_of(declaration)
    return {it.name: _key(hints[it.name], it.default, meanings.get(it.name, "")) for it in fields(declaration)}


def _key(hint: Any, default: Any, meaning: str) -> Key:
    # Of Annotated these are the type and its limits; only of a union can None be among them.
    parts = [part for part in get_args(hint) if part is not NoneType]
    optional = len(parts) < len(get_args(hint))
    if optional:
        (hint,) = parts
    if get_origin(hint) is Literal:
        return Key(str, default, meaning, optional, get_args(hint), ())
    kind, *limits = get_args(hint)
    return Key(kind, default, meaning, optional, (), tuple(limits))


def check_keys(
    estimator: object, values: Mapping[str, Any] | None = None, choices: str = "be one of {most}, {last};"
) -> None:
    """Check the values of an estimator's keys against their declaration.

    Args:
        values: those to check in place of the estimator's own, by key.
        choices: how a message lists the words that a key takes.
    Raises: InputError naming the first that cannot be used.
    """
    keys = keys_of(type(estimator))
    for name, value in ({name: getattr(estimator, name) for name in keys} if values is None else values).items():
        if not keys[name].holds(value):
            raise InputError(f"{name} {keys[name].wanted(choices)} got {value!r}")


# What is written beneath a field --------------------------------------------------------------------------------------


def meanings_of(declaration: type) -> dict[str, str]:
    """The string beneath each field of a dataclass and of those it is made from, in one line each.

    Without the sources, as in a program that was frozen, there are none.
    """
    meanings: dict[str, str] = {}
    for base in reversed(declaration.__mro__):
        if "__dataclass_fields__" in vars(base):
            meanings |= _meanings(base)
    return meanings


@cache
def _meanings(declaration: type) -> Mapping[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(declaration)))  # a class may stand in a function
    except (OSError, TypeError):
        return {}
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }
