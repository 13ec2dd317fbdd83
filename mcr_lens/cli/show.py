"""What a command prints: tables and sentences that fit the terminal, and are not folded in a pipe."""

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

# A pipe has no width; tables get one, sentences are not folded there.
_WIDTH_IN_A_PIPE = 120


@contextlib.contextmanager
def showing(saved: object) -> Iterator[None]:
    """Around what is printed once the result is saved: whatever happens here must not cost the run.

    A reader who closes the pipe early is no error, and Ctrl-C says that the result is there.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer has nowhere to go; Python would complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        typer.echo(f"mcr-lens: interrupted; the result is saved in {saved}", err=True)
        raise typer.Exit(130) from error


def show_table(title: str, table: "pd.DataFrame") -> None:
    """A table under its title, the index first; numbers as everywhere (``results.tables``)."""
    from rich.console import Console
    from rich.table import Table

    from mcr_lens.results.tables import cells

    names, *rows = cells(table)
    widths, padding = _fit(names, rows, _terminal_width() or _WIDTH_IN_A_PIPE)
    drawn = Table(padding=(0, padding))
    for column, (name, width) in enumerate(zip(names, widths, strict=True)):
        is_text = column == 0 and not all(row[0].isdecimal() for row in rows)
        drawn.add_column(name, justify="left" if is_text else "right", width=width)
    for row in rows:
        drawn.add_row(*row)
    # Captured, because rich ends the program by itself when a reader closes the pipe.
    console = Console(highlight=False, width=sum(widths) + (2 * padding + 1) * len(widths) + 1)
    with console.capture() as captured:
        console.print(drawn)
    show_text(title)
    typer.echo(captured.get(), nl=False)


def _fit(names: list[str], rows: list[list[str]], width: int) -> tuple[list[int], int]:
    """Widths of the columns and the padding at their sides.

    Where space is short headers are folded between words and the padding goes; cells are never cut, since
    a clipped number is a wrong one.
    """
    least = [
        max(len(part) for part in (*name.split(), *(row[column] for row in rows), ""))
        for column, name in enumerate(names)
    ]
    widths = least
    for padding in (1, 0):
        for longest in range(max(map(len, names)), -1, -1):
            widths = [max(low, min(len(name), longest)) for low, name in zip(least, names, strict=True)]
            if sum(widths) + (2 * padding + 1) * len(names) + 1 <= width:
                return widths, padding
    return widths, 0


def show_list(sentences: Iterable[object]) -> None:
    """A line a sentence; on a terminal folded between words, under its own beginning."""
    for sentence in sentences:
        show_text(str(sentence), "- ")


def show_text(text: str, bullet: str = "") -> None:
    """A paragraph behind its bullet; on a terminal folded, under its own beginning."""
    indents: Any = {"initial_indent": bullet, "subsequent_indent": " " * len(bullet)}
    if width := _terminal_width():
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False, **indents)
    typer.echo(text if width else bullet + text)


def _terminal_width() -> int | None:
    """None where there is no terminal. A very narrow one is left to fold by itself."""
    return max(40, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
