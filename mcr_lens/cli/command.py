"""From a function to a command: groups of options spread out, exceptions turned into exit codes."""

import contextlib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass
from typing import Any

import typer

from mcr_lens.errors import InputError, one_line


def command(function: Callable[..., None]) -> Callable[..., None]:
    """What Typer registers for ``function``.

    A parameter whose type is a dataclass stands for a group of options (see ``options.py``): each field is
    an argument or option of the command, and the function gets them as one object.
    """
    own = inspect.signature(function, eval_str=True).parameters.values()
    groups: dict[str, Any] = {
        parameter.name: parameter.annotation for parameter in own if is_dataclass(parameter.annotation)
    }
    fields = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}
    spread = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in own
        for each in (fields[parameter.name].values() if parameter.name in fields else [parameter])
    ]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        if not sys.stderr.isatty():
            # Bars of the libraries that are imported from here on.
            for variable in (
                "TQDM_DISABLE",
                "HF_HUB_DISABLE_PROGRESS_BARS",
                "HF_DATASETS_DISABLE_PROGRESS_BARS",
            ):
                os.environ.setdefault(variable, "1")
        with exit_codes([parameter.name for parameter in spread]):
            grouped = {
                name: group(**{field: values.pop(field) for field in fields[name]})
                for name, group in groups.items()
            }
            function(**values, **grouped)

    # Typer reads both.
    run.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return run


@contextlib.contextmanager
def exit_codes(options: Iterable[str] = ()) -> Iterator[None]:
    """Exit code 2 and one line for bad input, 1 and one line for a failed run, 130 for Ctrl-C.

    Args:
        options: names of the command's options, for messages that advise Python.
    """
    try:
        yield
    except typer.Exit:
        raise
    except InputError as error:
        typer.echo(f"mcr-lens: {_in_the_shell(str(error), options)}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("mcr-lens: interrupted, nothing was saved", err=True)
        raise typer.Exit(130) from error
    except MemoryError as error:  # says nothing of itself, most of the time
        reason = one_line(error) or "there was not enough"
        typer.echo(f"mcr-lens: the run failed: out of memory ({reason}); see mcr-lens plan", err=True)
        raise typer.Exit(1) from error
    except Exception as error:
        typer.echo(f"mcr-lens: the run failed: {type(error).__name__}: {one_line(error)}", err=True)
        raise typer.Exit(1) from error


def _in_the_shell(message: str, options: Iterable[str]) -> str:
    """Advice such as ``max_tokens=64`` as it is typed here, where the command has that option.

    Example:
        >>> _in_the_shell("choose a split (split=...), or chat_template=True", ["split", "chat_template"])
        'choose a split (--split ...), or --chat-template'
    """
    for name in options:
        option = "--" + name.replace("_", "-")
        message = re.sub(rf"\b{name}=True\b(?: \({option}\))?", option, message)
        message = re.sub(rf"\b{name}=(?=[\w.])(?!None\b|False\b)", f"{option} ", message)
    return message
