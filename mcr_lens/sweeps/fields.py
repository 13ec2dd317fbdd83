"""What the tables of a grid share: strict pydantic dataclasses that refuse in one line what cannot be."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError

from mcr_lens.errors import InputError
from mcr_lens.paths import plain_path

__all__ = ["STRICT", "Count", "Several", "Text", "refusing", "table_of"]

_Table = TypeVar("_Table", bound=type)
_Value = TypeVar("_Value")

# A grid is typed by hand: a text is no number, and a key that is not known is a slip.
STRICT = ConfigDict(strict=True, extra="forbid")
_WORDS = {
    "dataclass_exact_type": "a table",
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "int_type": "a whole number",
    "is_instance_of": "a list of one or more",
    "sequence_str": "a list of one or more",
    "string_type": "a text",
    "too_short": "a list of one or more",
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


def refusing(kind: _Table) -> _Table:
    """Make a pydantic dataclass raise ``InputError``, one line that names the field and what it takes."""
    build = kind.__init__

    @functools.wraps(build)
    def init(self: Any, /, *values: Any, **named: Any) -> None:
        try:
            build(self, *values, **named)
        except ValidationError as error:
            names = [field.name for field in fields(kind)]
            raise InputError(_one_line(error.errors(include_url=False), names)) from error

    kind.__init__ = init  # type: ignore[misc]
    return kind


def table_of(kind: Callable[..., Any]) -> BeforeValidator:
    """In the place of a dataclass: a table of its fields, as a file holds it."""
    return BeforeValidator(lambda value: kind(**value) if isinstance(value, dict) else value)


def _one_line(errors: list[Any], names: list[str]) -> str:
    """The first field that is wrong, what it holds, and all that it may be."""
    # An unknown key is often the missing one, misspelt.
    first = min(errors, key=lambda error: error["type"] != "unexpected_keyword_argument")
    if not first["loc"]:  # of the whole table
        return _allowed(first)
    field, *inside = first["loc"]
    where = names[field] if isinstance(field, int) else field
    if first["type"] == "missing":
        return f"{where} is missing"
    if where not in names:
        return f"unknown key {where!r}; use some of {', '.join(names)}"
    if inside and isinstance(inside[0], int):
        where = f"{where}[{inside[0]}]"
    if isinstance(first.get("ctx", {}).get("error"), InputError):
        return f"{where}: {_allowed(first)}"
    allowed = dict.fromkeys(_allowed(each) for each in errors if each["loc"][:1] == (field,))
    return f"{where} = {repr(first['input'])[:200]}: use {' or '.join(allowed)}"


def _allowed(error: Any) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "greater_than_equal":
        return f"a number from {error['ctx']['ge']:g}"
    return _WORDS.get(error["type"]) or error["msg"].removeprefix("Input should be ")
