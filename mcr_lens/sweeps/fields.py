"""What the tables of a grid share: strict pydantic dataclasses that refuse in one line what cannot be."""

import functools
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError

from mcr_lens.errors import InputError, one_line

__all__ = ["STRICT", "Count", "Several", "Text", "refusing"]

_Table = TypeVar("_Table", bound=type)

# A grid is typed by hand: a text is no number, and a key that is not known is a slip.
STRICT = ConfigDict(strict=True, extra="forbid")
_WORDS = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "greater_than_equal": "a larger number",
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


def refusing(what: str) -> Callable[[_Table], _Table]:
    """Make a pydantic dataclass raise ``InputError``, one line that begins with ``what``."""

    def decorate(kind: _Table) -> _Table:
        build = kind.__init__
        names = [field.name for field in fields(kind)]

        @functools.wraps(build)
        def init(self: Any, /, *values: Any, **named: Any) -> None:
            given = dict(zip(names, values, strict=False)) | named
            try:
                build(self, *values[len(names) :], **given)
            except ValidationError as error:
                raise InputError(f"{what}: {_one_line(error, given, names)}") from error

        kind.__init__ = init  # type: ignore[misc]
        return kind

    return decorate


def _one_line(error: ValidationError, given: dict[str, Any], names: list[str]) -> str:
    """The first field that is wrong, what it holds, and all that it may be."""
    errors = error.errors(include_url=False)
    first = errors[0]
    if not first["loc"]:  # of the whole table
        return str(first["ctx"]["error"]) if "ctx" in first else first["msg"]
    field = first["loc"][0]
    if first["type"] == "missing":
        return f"{field} is missing"
    if field not in names:
        return f"unknown key {field!r}; use some of {', '.join(names)}"
    allowed = dict.fromkeys(_allowed(each) for each in errors if each["loc"][:1] == (field,))
    return f"{field} = {repr(given[field])[:200]}: use {' or '.join(allowed)}"


def _allowed(error: Any) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return _WORDS.get(error["type"]) or error["msg"].removeprefix("Input should be ")
