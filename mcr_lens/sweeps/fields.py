"""The fields of a grid's tables, checked against their own annotations: a grid is typed by hand."""

import os
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mcr_lens.errors import InputError, one_line
from mcr_lens.validate import is_whole

__all__ = ["check_counts", "check_entries", "check_fields", "check_once", "check_texts"]

_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}


def check_fields(table: Any, what: str) -> None:
    """Check every field of a frozen dataclass; lists become tuples, and paths texts.

    Raises:
        InputError: for the first field that is not of its type, or a list without entries.
    """
    hints = get_type_hints(type(table))
    for field in fields(table):
        value = getattr(table, field.name)
        if isinstance(value, list | range | Path):
            value = str(value) if isinstance(value, Path) else tuple(value)
            object.__setattr__(table, field.name, value)
        _check(value, hints[field.name], f"{what}: {field.name}")


def check_entries(entries: Mapping[str, Any], kind: type, what: str) -> None:
    """Check what a dataclass of another room will be made of, which trusts the types of its fields.

    Raises:
        InputError: for the first entry that is not of its field's type.
    """
    hints = get_type_hints(kind)
    for name, value in entries.items():
        _check(tuple(value) if isinstance(value, list) else value, hints[name], f"{what}: {name}")


def check_once(what: str, values: Sequence[str]) -> None:
    """Raise ``InputError`` for a value that stands there twice."""
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise InputError(f"{what} {twice[0]!r} stands there twice; leave one out")


def check_texts(what: str, **texts: str | None) -> None:
    """Raise ``InputError`` for a text that is empty, or can be no path on any system."""
    for name, text in texts.items():
        if text is not None and not text.strip():
            raise InputError(f"{what}: {name} is empty")
        try:  # it may be a path, and is asked about in several places
            Path(text or "").expanduser().exists()
            if b"\0" in os.fsencode(text or ""):
                raise ValueError("it holds a NUL")
        except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, no text of any system
            reason = one_line(error, 80)
            raise InputError(f"{what}: {name} = {(text or '')[:80]!r}: no name or path ({reason})") from error


def check_counts(what: str, least: int = 1, **counts: Any) -> None:
    """Raise ``InputError`` for what is no whole number from ``least``, nor ``"auto"``, nor left out."""
    for name, count in counts.items():
        if count in (None, "auto"):
            continue
        if not is_whole(count, least):
            raise InputError(f"{what}: {name} = {count!r}: use a whole number from {least}")


def _check(value: object, hint: Any, what: str) -> None:
    if not _fits(value, hint):
        raise InputError(f"{what} = {_typed(value)}: use {' or '.join(dict.fromkeys(_words(hint)))}")


def _fits(value: object, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is Sequence:
        return isinstance(value, tuple) and bool(value) and all(_fits(each, inner[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float if hint is float else hint)


def _words(hint: Any) -> list[str]:
    """What is allowed, for a message; that a field may be left out goes without saying."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return [word for each in inner if each is not type(None) for word in _words(each)]
    if origin is Literal:
        return [repr(each) for each in inner]
    if origin is Sequence:
        # Of a number, a text or a table: those are all that a grid has lists of.
        return [f"a list of one or more ({_words(inner[0])[0].removeprefix('a ')} each)"]
    if origin is Mapping:
        return ["a table"]
    return [_WORDS.get(hint, f"a {hint.__name__}")]


def _typed(value: object) -> str:
    """As it would stand in a TOML file, more or less."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_typed, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)
