"""The one exception type users meet when what they gave cannot be used, and others' words in one line."""

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator

__all__ = ["InputError", "one_line", "require_extra", "warnings_about"]


class InputError(ValueError):
    """Input that cannot be used, told in one line: what was given, what is allowed, the way out.

    The command line turns it into exit code 2; every other exception is a failed run (exit code 1). What was
    given may hold ends of lines, a model's name for one: they become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def one_line(error: Exception, limit: int | None = None) -> str:
    """What an exception says, in one line of at most ``limit`` characters, cut between words.

    Example:
        >>> one_line(ValueError("no such file or folder"), 16)
        'no such file ...'
    """
    words = " ".join(str(error).split())
    if limit is None or len(words) <= limit:
        return words
    end = words.rfind(" ", 0, limit - 3)
    return f"{words[: end if end > 0 else limit - 4]} ..."


def require_extra(module: str, what: str, extra: str) -> None:
    """Raise ``InputError`` where a package is not installed that comes with an extra of this one."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f'{what} need {module}, which is not installed: pip install "mcr-lens[{extra}]"')


@contextlib.contextmanager
def warnings_about(name: str) -> Iterator[None]:
    """Around one of many runs: warnings from inside begin with its name, and come when it is over.

    What the filters that are set would turn into an error, or hide, stays an error or hidden.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught, warnings_about("arm clamp"):
        ...     warnings.warn("Inf in prompt 3", RuntimeWarning)
        >>> str(caught[0].message)
        'arm clamp: Inf in prompt 3'
    """
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield
    finally:
        for each in caught:
            # Other kinds may be made of more than a text.
            is_text = each.message.args == (str(each.message),)  # pyright: ignore[reportAttributeAccessIssue]
            is_text &= issubclass(each.category, RuntimeWarning | UserWarning)
            message = f"{name}: {each.message}" if is_text else each.message
            warnings.warn_explicit(message, each.category, each.filename, each.lineno)
