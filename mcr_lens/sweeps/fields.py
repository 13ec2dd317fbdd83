"""What the tables of a grid share: strict pydantic dataclasses that refuse in one line what cannot be."""

import functools
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError

from mcr_lens.errors import InputError, one_line

__all__ = ["STRICT", "Count", "Several", "Text", "refusing", "table_of"]

_Table = TypeVar("_Table", bound=type)

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
}


def _as_tuple(value: object) -> object:
    if isinstance(value, list | range | tuple):
        if not value:
            raise ValueError("a list of one or more")
        return tuple(value)
    return value


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _check_text(text: str) -> str:
    """A text that may be a path: systems refuse to be asked about some of them."""
    try:
        if not text.strip():
            raise ValueError("it is empty")
        Path(text).expanduser().exists()
        if b"\0" in os.fsencode(text):
            raise ValueError("it holds a NUL")
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"a name or a path ({one_line(error, 80)})") from error
    return text


Several = BeforeValidator(_as_tuple)
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, BeforeValidator(_as_text), AfterValidator(_check_text)]


def refusing(kind: _Table) -> _Table:
    """Make a pydantic dataclass raise ``InputError``, one line that names the field and what it takes."""
    build = kind.__init__
    names = [field.name for field in fields(kind)]

    @functools.wraps(build)
    def init(self: Any, /, *values: Any, **named: Any) -> None:
        given = dict(zip(names, values, strict=False)) | named
        try:
            build(self, *values[len(names) :], **given)
        except ValidationError as error:
            raise InputError(_one_line(error, given, names)) from error

    kind.__init__ = init  # type: ignore[misc]
    return kind


def table_of(kind: Callable[..., Any]) -> BeforeValidator:
    """In the place of a dataclass: a table of its fields, as a file holds it."""
    return BeforeValidator(lambda value: kind(**value) if isinstance(value, dict) else value)


def _one_line(error: ValidationError, given: dict[str, Any], names: list[str]) -> str:
    """The first field that is wrong, what it holds, and all that it may be."""
    errors = error.errors(include_url=False)
    first = errors[0]
    if not first["loc"]:  # of the whole table
        return _allowed(first)
    field, *inside = first["loc"]
    if first["type"] == "missing":
        return f"{field} is missing"
    if field not in names:
        return f"unknown key {field!r}; use some of {', '.join(names)}"
    value, where = given[field], str(field)
    if inside and isinstance(inside[0], int):
        value, where = value[inside[0]], f"{field}[{inside[0]}]"
    if isinstance(first.get("ctx", {}).get("error"), InputError):
        return f"{where}: {_allowed(first)}"
    allowed = dict.fromkeys(_allowed(each) for each in errors if each["loc"][:1] == (field,))
    return f"{where} = {repr(value)[:200]}: use {' or '.join(allowed)}"


def _allowed(error: Any) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "greater_than_equal":
        return f"a number from {error['ctx']['ge']:g}"
    return _WORDS.get(error["type"]) or error["msg"].removeprefix("Input should be ")
