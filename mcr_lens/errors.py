"""The one exception type users meet when what they gave cannot be used."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Input that cannot be used, told in one line: what was given, what is allowed, the way out.

    The command line turns it into exit code 2; every other exception is a failed run (exit code 1).
    """
