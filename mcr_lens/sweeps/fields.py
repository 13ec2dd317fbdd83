"""What the tables of a grid share: strict pydantic dataclasses that refuse in one line what cannot be."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from mcr_lens.errors import InputError
from mcr_lens.validate import did_you_mean, plain_path

__all__ = ["Count", "Several", "Text", "table", "table_of"]

_Table = TypeVar("_Table", bound=type)
_Value = TypeVar("_Value")

# Pydantic's own words, except where they are those of Python and not of a file.
_LIST = "a list of one or more"
_WORDS = {
    "dataclass_exact_type": "a table",
    "is_instance_of": _LIST,
    "sequence_str": _LIST,
    "too_short": _LIST,
}


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("a name or a path (it is empty)")
    plain_path(text)
    return text


# A list is kept as a tuple, which nobody changes.
Several = Annotated[
    Sequence[_Value],
    Field(min_length=1),
    BeforeValidator(lambda value: tuple(value) if value and isinstance(value, list | range) else value),
]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value),
    AfterValidator(_check_text),
]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def table(kind: _Table) -> _Table:
    """A frozen dataclass that raises ``InputError``, one line that names the field and what it takes.

    A grid is typed by hand: a text is no number, and a key that is not known is a slip.
    """
    checked = dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))(kind)
    build = checked.__init__

    @functools.wraps(build)
    def init(self: Any, /, *values: Any, **named: Any) -> None:
        try:
            build(self, *values, **named)
        except ValidationError as error:
            names = [each.name for each in fields(checked)]
            raise InputError(_one_line(error.errors(include_url=False), names)) from error

    checked.__init__ = init  # type: ignore[misc]
    return checked  # type: ignore[return-value]


def table_of(kind: Callable[..., Any]) -> BeforeValidator:
    """In the place of a dataclass: a table of its fields, as a file holds it."""
    return BeforeValidator(lambda value: kind(**value) if isinstance(value, dict) else value)


def _one_line(errors: list[Any], names: list[str]) -> str:
    """The first field that is wrong, what it holds, and all that it may be."""
    # An unknown key is often the missing one, misspelt.
    first = min(errors, key=lambda error: error["type"] != "unexpected_keyword_argument")
    if not first["loc"]:  # of the whole table
        return _allowed(first)
    place, *inside = first["loc"]
    name = names[place] if isinstance(place, int) else place
    if first["type"] == "missing":
        return f"{name} is missing"
    if name not in names:
        return f"unknown key {name!r}; use some of {', '.join(names)}{did_you_mean(str(name), names)}"
    if inside and isinstance(inside[0], int):
        name = f"{name}[{inside[0]}]"
    if isinstance(first.get("ctx", {}).get("error"), InputError):
        return f"{name}: {_allowed(first)}"
    allowed = dict.fromkeys(_allowed(each) for each in errors if each["loc"][:1] == (place,))
    return f"{name} = {repr(first['input'])[:200]}: use {' or '.join(allowed)}"


def _allowed(error: Any) -> str:
    if error["type"] == "greater_than_equal":
        return f"a number from {error['ctx']['ge']:g}"
    words: str = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return _WORDS.get(error["type"], words)
