"""Options of commands from the keys of an estimator: name, kind, default and meaning are those of its declaration."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, StrEnum
from typing import Annotated, Any

import typer

from rapids_slr.settings.keys import Key, keys_of

Command = Callable[..., None]


def with_keys(
    declaration: type, without: Sequence[str] = (), no_choice: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Command], Command]:
    """Put an option for each key in the place of the command's parameter `keys`, which gets their values by name.

    Args:
        declaration: the dataclass that declares the keys.
        without: keys that are no options.
        no_choice: words of a key that the option does not take.
    """
    left_out = no_choice or {}
    options = {
        name: _option(name, key, left_out.get(name, ()))
        for name, key in keys_of(declaration).items()
        if name not in without
    }

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            keys = {name: given.pop(name) for name in options}
            command(**given, keys={name: it.value if isinstance(it, Enum) else it for name, it in keys.items()})

        # typer makes its options from the signature; that of `run` itself says **given alone.
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
            parameters += options.values() if name == "keys" else [parameter]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _option(name: str, key: Key, no_choice: Sequence[str]) -> inspect.Parameter:
    kind, default = key.kind, key.default
    if key.choices:
        kind = _enumeration(name, [word for word in key.choices if word not in no_choice])
        default = kind(default)
    info = typer.Option(help=_help(key.meaning), show_default=default is not None)
    annotation: Any = Annotated[kind, info]
    if key.optional:
        annotation = Annotated[kind | None, info]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _enumeration(name: str, words: Sequence[str]) -> Any:
    """Choices as every version of typer takes them."""
    return StrEnum(name.title(), {word: word for word in words})


def _help(meaning: str) -> str:
    """The first sentence, in which other keys bear the names of their options."""
    first = meaning.partition(". ")[0].removesuffix(".") + "."
    return re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda key: f"--{key[0].replace('_', '-')}", first)
