"""What the attributes of a result may be: whatever a file says, its readers must not meet another type."""

from collections.abc import Callable, Mapping
from typing import Any

from mcr_lens.errors import InputError
from mcr_lens.validate import is_number, is_whole

__all__ = ["check_attributes"]

_Check = Callable[[Any], bool]
_PRESETS = ("raw", "layer-by-layer")


def check_attributes(attributes: Any, path: object) -> None:
    """Raise ``InputError`` where an attribute that is read anywhere is of a type that it never has.

    Attributes that are not there, and those that nobody here reads, may be anything.
    """
    if not isinstance(attributes, dict):
        raise InputError(f"{path}: attributes that are no table; save the result again with mcr-lens")
    for name, (is_right, kind) in _KINDS.items():
        if name in attributes and not is_right(attributes[name]):
            raise InputError(
                f"{path}: attribute {name!r} is {attributes[name]!r:.60}, not {kind}; save the result again "
                "with mcr-lens"
            )
    for member in attributes.get("members", []):
        check_attributes(member, path)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: Any) -> bool:
    return is_whole(value, 0, 2**63)


def _is_estimator(value: Any) -> bool:
    known: dict[str, _Check] = {
        "center": lambda x: isinstance(x, bool),
        "unit_rows": lambda x: isinstance(x, bool),
        "alpha": lambda x: is_number(x) and x > 0,
        "preset": lambda x: x in _PRESETS,
    }
    return isinstance(value, dict) and all(name in known and known[name](x) for name, x in value.items())


def _table_of(is_right: _Check) -> _Check:
    return lambda value: isinstance(value, Mapping) and all(map(is_right, value.values()))


def _list_of(is_right: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


_is_table = _table_of(lambda _: True)
_TEXT = (_is_text, "a text")
_COUNT = (lambda value: value is None or _is_count(value), "a whole number from 0")
_BOOL = (lambda value: value is None or isinstance(value, bool), "true or false")
_TABLE = (_is_table, "a table")
_TEXTS = (lambda value: value is None or _list_of(lambda x: isinstance(x, str))(value), "a list of texts")
_NAMED_TEXTS = (_table_of(lambda x: isinstance(x, str)), "a table of texts")

_KINDS: dict[str, tuple[_Check, str]] = {
    **dict.fromkeys(("model", "revision", "backend", "processing", "dtype", "device", "result"), _TEXT),
    **dict.fromkeys(("hook", "direction"), _TEXT),
    **dict.fromkeys(("sink_position", "d_vocab", "before_depth"), _COUNT),
    **dict.fromkeys(("learned_sink", "has_compression_phase"), _BOOL),
    **dict.fromkeys(("interventions", "attached_hooks", "ends_norm"), _TEXTS),
    **dict.fromkeys(("failed_checks", "versions", "arms", "writes", "load_options"), _NAMED_TEXTS),
    **dict.fromkeys(("lens", "interval", "results", "requests", "sweep", "checkpoint"), _TABLE),
    "tasks": (_table_of(_is_table), "a table of tables"),
    "estimator": (_is_estimator, "an estimator's options"),
    "compressed_depths": (_list_of(_is_count), "a list of depths"),
    "prompts": (lambda value: _is_table(value) or _list_of(_is_table)(value), "where the prompts came from"),
    "members": (_list_of(_is_table), "a list of tables"),
}
