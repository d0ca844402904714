"""What sections of a run spec are made of: settings, and choices by name out of a table one can see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from rapids_slr.settings.keys import meanings_of


class Settings(BaseModel):
    """A section of a spec: typed keys, each with its meaning beneath it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Add the words beneath keys that a dataclass declares: pydantic reads those of a model's own keys alone."""
        for name, meaning in meanings_of(cls).items():
            cls.model_fields[name].description = cls.model_fields[name].description or meaning
        return handler(source)


class Section(Settings):
    """The settings of one choice of a table, such as HOSTS; `build` makes what it names.

    A subclass declares the key TAG, `name: Literal["mine"] = "mine"`, and beside it what the choice can be told.
    """

    TAG: ClassVar[str] = "name"
    """The key that tells the choices of a table apart."""

    @classmethod
    def choice(cls) -> str:
        """The name of this choice."""
        return cls.model_fields[cls.TAG].default

    @classmethod
    def look_at_foreign(cls, values: Mapping[str, Any]) -> None:
        """Look at keys that only other choices of the table have, before they are left out.

        Raises: ValueError for those that must not be passed over.
        """

    def dump(self, mode: str = "python") -> str | dict[str, Any]:
        """The section as a spec has it: its name alone where it has no other key."""
        values = self.model_dump(mode=mode)
        return self.choice() if values.keys() == {self.TAG} else {self.TAG: self.choice(), **values}

    def build(self) -> Any:
        """What the settings describe. Heavy imports belong in here, so that reading a spec stays light."""
        raise NotImplementedError(type(self).__name__)


class Chosen:
    """Annotation of a key that names a choice of `table`: `key: name`, or `key: {<tag>: name, ...}`.

    A section without the tag is one of the default choice. Keys that only other choices know are checked and left
    out, so that a spec may change its choice and keep what it says of the others.

    Args:
        table: name -> section; looked at whenever a spec is read, so that it may grow.
        default: the choice of a section that names none.
    """

    def __init__(self, table: Mapping[str, type[Section]], default: str) -> None:
        self.table, self.default = table, default

    @property
    def tag(self) -> str:
        return self.table[self.default].TAG

    def section_of(self, values: Mapping[str, Any]) -> type[Section] | None:
        """The section that settings are meant for; None where they name no choice of the table."""
        name = values.get(self.tag, self.default)
        return self.table.get(name) if isinstance(name, str) else None

    def read(self, value: Any) -> Section:
        """A section from what a spec or a caller says: settings, a name, or None for `none`."""
        if isinstance(value, Section):
            return value
        by_name = value is None or isinstance(value, str)
        values = {self.tag: value or "none"} if by_name else value
        if not isinstance(values, Mapping):
            raise PydanticCustomError("model_type", "expected a section of settings")
        section = self.section_of(values)
        if section is None:
            # A bare name is the value of the key itself; in a section it stands below it.
            raise not_in_table(values[self.tag], self.table, () if by_name else (self.tag,))
        values = without_none_words(values, section)
        foreign = {key: value for key, value in values.items() if self._is_foreign(key, section)}
        own = {key: value for key, value in values.items() if key not in foreign}
        section.look_at_foreign(foreign)
        # Strict by itself: a plain validator is not told how the spec around it is read.
        read = section.model_validate(own, strict=True)
        for other in self.table.values():
            if theirs := {key: value for key, value in foreign.items() if key in other.model_fields}:
                other.model_validate(without_none_words(theirs, other), strict=True)
        return read

    def _is_foreign(self, key: str, section: type[Section]) -> bool:
        return key not in section.model_fields and any(key in other.model_fields for other in self.table.values())

    # How pydantic reads, writes and describes such a key --------------------------------------------------------------

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(
            lambda section, info: section.dump(info.mode), info_arg=True
        )
        return core_schema.no_info_plain_validator_function(self.read, serialization=write)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # Each in full; model_schema() gives them places among the definitions.
        sections = [handler(section.__pydantic_core_schema__) for section in self.table.values()]
        return {"anyOf": [{"enum": list(self.table)}, *sections], "default": self.default}


def not_in_table(name: Any, table: Iterable[str], where: tuple[str, ...] = ()) -> ValidationError:
    """The fault of a name that a table does not hold, at the key `where` below the one that is read."""
    known = [repr(each) for each in table]
    expected = " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))
    # The type of a Literal's fault, so that both are worded alike. Raised within a validator it keeps its place:
    # pydantic puts the key that is read before `loc`.
    fault = InitErrorDetails(type="literal_error", loc=where, input=name, ctx={"expected": expected})
    return ValidationError.from_exception_data("choice", [fault])


def sections_of(info: FieldInfo) -> list[type[BaseModel]]:
    """The models that a key may hold: none, one, or the choices of a table."""
    chosen = next((mark for mark in info.metadata if isinstance(mark, Chosen)), None)
    if chosen is not None:
        return list(chosen.table.values())
    choices = (info.annotation, *get_args(info.annotation))
    return [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)][:1]


def without_none_words(values: Any, model: type[BaseModel]) -> Any:
    """`values` with the word `none` turned into None where a setting may be left out."""
    if isinstance(values, list):
        return [without_none_words(value, model) for value in values]
    if not isinstance(values, Mapping):
        return values
    result = dict(values)
    for name, info in model.model_fields.items():
        if name not in result or any(isinstance(mark, Chosen) for mark in info.metadata):
            continue  # a choice reads its own section
        if result[name] == "none" and NoneType in get_args(info.annotation):
            result[name] = None
        elif sections := sections_of(info):
            result[name] = without_none_words(result[name], sections[0])
    return result
