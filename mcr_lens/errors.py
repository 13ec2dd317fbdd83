"""The one exception type users meet when what they gave cannot be used, and others' words in one line."""

__all__ = ["InputError", "one_line"]


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
