"""The ``mcr-lens`` command: thin. Heavy imports wait inside the commands, so that ``--help`` is instant.

A command is a function in a module of its own, named in the list below. It says which groups of options it
takes (``options.py``), checks the place of its result first, saves before it shows (``show.py``), and raises
``InputError`` for what cannot be used (``command.py``).
"""

from typing import Annotated

import typer

from mcr_lens import __version__
from mcr_lens.cli.ablation import ablate
from mcr_lens.cli.command import command
from mcr_lens.cli.lenses import lens
from mcr_lens.cli.plan import plan
from mcr_lens.cli.profiles import demo, profile
from mcr_lens.cli.report import report
from mcr_lens.cli.sweep import sweep
from mcr_lens.cli.tasks import tasks
from mcr_lens.cli.training import training

__all__ = ["app"]

app = typer.Typer(
    name="mcr-lens",
    help="Where attention sinks, massive activations and compression valleys begin in a language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_set: bool) -> None:
    if is_set:
        typer.echo(f"mcr-lens {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


# One function, one command; they are listed in this order by --help.
for _function in (demo, profile, ablate, lens, training, tasks, plan, sweep, report):
    app.command()(command(_function))
