"""Keys that are declared once: their checks, and that the estimators, specs and options say the same."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError

from rapids_slr.cli.keys import with_keys
from rapids_slr.cli.labelfiles import cluster, refine
from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.clustering.sections import DBSCANSpec
from rapids_slr.errors import InputError
from rapids_slr.refinement.sections import SLRSpec
from rapids_slr.refinement.slr.keys import SLRKeys
from rapids_slr.settings.base import Settings
from rapids_slr.settings.keys import Count, Fraction, NotNegative, Positive, check_keys, keys_of, meanings_of

SECTIONS = {SLRKeys: SLRSpec, JaccardDBSCANKeys: DBSCANSpec}


@dataclass
class Drawing:
    lines: Count = 3
    """Lines of the drawing. There are many
    of them."""
    width: Annotated[float, Gt(0), Le(2)] | None = None
    """Takes the place of line_width."""
    line_width: Positive = 1
    """Another width."""
    grey: Annotated[float, Ge(0), Lt(1)] = 0.5
    share: Fraction = 1.0
    gap: NotNegative = 0.0
    marks: Count | None = None
    style: Literal["plain", "dashed", "dotted"] = "plain"
    """Style of the lines."""


@dataclass
class Sketch(Drawing):
    paper: Literal["white"] = "white"
    """What it is drawn on."""


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"lines": np.int32(1), "marks": np.uint8(7)},
        {"width": 2, "line_width": np.inf, "grey": 0, "share": np.float32(1), "gap": np.inf},
        {"marks": None, "width": None, "style": "dotted"},
    ],
)
def test_values_within_their_limits(values):
    check_keys(Drawing(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lines": 0}, "lines must be a whole number of at least 1, got 0"),
        ({"lines": 2.0}, "lines must be a whole number of at least 1, got 2.0"),
        ({"lines": None}, "lines must be a whole number of at least 1, got None"),
        ({"marks": 0}, "marks must be None or a whole number of at least 1, got 0"),
        ({"width": 2.5}, "width must lie in (0, 2], got 2.5"),
        ({"width": 0}, "width must lie in (0, 2], got 0"),
        ({"line_width": 0}, "line_width must lie in (0, inf], got 0"),
        ({"grey": 1}, "grey must lie in [0, 1), got 1"),
        ({"share": -0.1}, "share must lie in [0, 1], got -0.1"),
        ({"share": np.nan}, "share must lie in [0, 1], got nan"),
        ({"gap": -1}, "gap must not be negative, got -1"),
        ({"gap": np.nan}, "gap must not be negative, got nan"),
        ({"style": "bold"}, "style must be one of plain, dashed, dotted; got 'bold'"),
    ],
)
def test_values_that_cannot_be_used_are_named(values, message):
    with pytest.raises(InputError) as fault:
        check_keys(Drawing(**values))
    assert str(fault.value) == message
    with pytest.raises(InputError):
        check_keys(Drawing(), values)
    check_keys(Drawing(**values), {"lines": 1})  # others are not looked at


def test_words_are_listed_as_the_estimator_wants_it():
    with pytest.raises(InputError, match=r"^style must be plain, dashed or dotted, got 'bold'$"):
        check_keys(Drawing(style="bold"), choices="be {most} or {last},")


def test_what_is_written_beneath_the_fields():
    beneath = {
        "lines": "Lines of the drawing. There are many of them.",
        "width": "Takes the place of line_width.",
        "line_width": "Another width.",
        "style": "Style of the lines.",
    }
    assert meanings_of(Drawing) == beneath
    assert meanings_of(Sketch) == beneath | {"paper": "What it is drawn on."}
    assert meanings_of(type("Drawn", (Sketch,), {})) == meanings_of(Sketch)
    assert list(keys_of(Sketch)) == [*keys_of(Drawing), "paper"]


def test_a_section_takes_the_fields_of_a_declaration():
    class Section(Settings, Drawing):
        """A section."""

        own: Count = 1
        """Its own."""

    properties = Section.model_json_schema()["properties"]
    assert list(properties) == [*keys_of(Drawing), "own"]
    assert properties["lines"] == {
        "type": "integer",
        "minimum": 1,
        "default": 3,
        "title": "Lines",
        "description": "Lines of the drawing. There are many of them.",
    }
    assert properties["own"]["description"] == "Its own."
    assert Section(lines=4) == Section(lines=4) != Section()
    assert hash(Section(lines=4)) == hash(Section(lines=4))
    with pytest.raises(ValidationError, match="frozen"):
        Section().lines = 5  # type: ignore[misc]
    for wrong in ({"lines": 0}, {"lines": None}, {"width": 3.0}, {"style": "bold"}, {"line": 1}, {"gap": float("inf")}):
        with pytest.raises(ValidationError):
            Section.model_validate(wrong, strict=True)


@pytest.mark.parametrize("declaration", SECTIONS)
def test_specs_have_every_key_of_their_estimator(declaration):
    fields = SECTIONS[declaration].model_fields
    for name, key in keys_of(declaration).items():
        assert key.meaning
        if name in SECTIONS[declaration].__annotations__:  # a run has a default of its own, and says so
            assert fields[name].default != key.default
            continue
        assert (fields[name].description, fields[name].default) == (key.meaning, key.default)
        check_keys(declaration(), {name: fields[name].default})


@pytest.mark.parametrize(
    ("command", "declaration", "without"),
    [(cluster, JaccardDBSCANKeys, {"source_weight", "solver"}), (refine, SLRKeys, {"memory"})],
)
def test_commands_have_an_option_for_every_key_that_they_do_not_leave_out(command, declaration, without):
    keys, options = keys_of(declaration), inspect.signature(command).parameters
    assert set(keys) - set(options) == without
    for name in set(keys) - without:
        kind, info = get_args(options[name].annotation)
        assert options[name].default == keys[name].default
        assert keys[name].meaning.startswith(info.help.removesuffix(".").partition("--")[0])
        if keys[name].choices:
            assert set(kind) == set(keys[name].choices) - {"cuml"}
        assert (type(None) in get_args(kind)) == keys[name].optional


def test_options_of_a_declaration_take_the_place_of_the_parameter():
    got: dict[str, Any] = {}

    @with_keys(Drawing, without=("share",), no_choice={"style": ("dotted",)})
    def draw(name: str, keys: dict[str, Any], loud: bool = False) -> None:
        got.update(keys, name=name, loud=loud)

    parameters = inspect.signature(draw).parameters
    shown = [name for name in keys_of(Drawing) if name != "share"]
    assert list(parameters) == ["name", *shown, "loud"]
    helps = {name: get_args(parameters[name].annotation)[1].help for name in ("lines", "width")}
    assert helps == {"lines": "Lines of the drawing.", "width": "Takes the place of --line-width."}
    draw(name="a", **{name: parameters[name].default for name in shown}, loud=True)
    assert got == {"name": "a", "loud": True} | {name: keys_of(Drawing)[name].default for name in shown}
    assert type(got["style"]) is str
