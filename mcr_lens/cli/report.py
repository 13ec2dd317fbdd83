"""``mcr-lens report``: saved results as one page that opens anywhere."""

from pathlib import Path
from typing import Annotated

import typer

from mcr_lens.cli.options import check_ending
from mcr_lens.cli.show import show_text, showing


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Saved results: .nc files, and folders of ablate, training, tasks or sweep."),
    ],
    out: Annotated[Path, typer.Option(help="The HTML file to write; an earlier report is replaced.")],
    model: Annotated[
        str | None,
        typer.Option(help="Model of the example: a name or folder; by default the run's, if it is at hand."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Text of the example.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is no report of mcr-lens.")
    ] = False,
) -> None:
    """Put saved results into one page: what was found in words, figures, sinks of an example, tables.

    Several profiles are compared. The page needs no network, and nothing in a result file can run.
    """
    from mcr_lens.viz import report as write_report
    from mcr_lens.viz._report import check_page

    check_page(out, overwrite)
    check_ending(out, ".html", "a report is a page")
    path = write_report(list(runs), out, model, prompt, overwrite=overwrite)
    with showing(path):
        show_text(said_of_report(path))


def said_of_report(path: Path) -> str:
    """Where the page is and what to do with it."""
    return f"report: {path} ({path.stat().st_size / 1e6:.1f} MB; open it in a browser)"
