"""The one exception type users meet when what they gave cannot be used, and others' words in one line."""

import importlib.util

__all__ = ["InputError", "one_line", "require_extra"]


class InputError(ValueError):
    """Input that cannot be used, told in one line: what was given, what is allowed, the way out.

    The command line turns it into exit code 2; every other exception is a failed run (exit code 1). What was
    given may hold ends of lines, a model's name for one: they become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def one_line(error: Exception, limit: int | None = None) -> str:
    """What an exception says, in one line of at most ``limit`` characters."""
    return " ".join(str(error).split())[:limit]


def require_extra(module: str, what: str, extra: str) -> None:
    """Raise ``InputError`` where a package is not installed that comes with an extra of this one."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f'{what} need {module}, which is not installed: pip install "mcr-lens[{extra}]"')
