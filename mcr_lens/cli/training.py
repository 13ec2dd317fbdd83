"""``mcr-lens training``: profiles along training checkpoints, and when what appeared."""

from pathlib import Path
from typing import Annotated, Any

import typer

import mcr_lens as mcr
from mcr_lens.cli.options import ModelOptions, PromptOptions, RunOptions, check_is_folder, numbers
from mcr_lens.cli.show import show_list, show_table, show_text, showing
from mcr_lens.errors import InputError

FIGURE = "training.html"


def training(
    model: ModelOptions,
    prompts: PromptOptions,
    run: RunOptions,
    out: Annotated[Path, typer.Option(help=f"Folder for one profile a step, and {FIGURE}.")],
    steps: Annotated[
        str, typer.Option(help="'thinned' (about two an octave), 'all', or steps such as 0,512,1000.")
    ] = "thinned",
) -> None:
    """Profile every checkpoint of a training run; MODEL is 'tiny', a Pythia name or a folder of checkpoints.

    A run that was stopped goes on where it was: steps whose file is in the folder are not measured again.
    """
    from mcr_lens.experiments.appearances import levels_by_step
    from mcr_lens.models import checkpoints
    from mcr_lens.results import atomic_write, check_place

    if model.revision is not None:
        raise InputError(f"--revision {model.revision}: the steps are the revisions here, use --steps")
    check_is_folder(out)
    check_place(out / FIGURE)
    choice: Any = steps
    if steps not in ("all", "thinned"):
        choice = numbers("--steps", steps, int, "0,512,1000, or 'all' or 'thinned'")
    options = {"backend": model.backend, "dtype": model.dtype, "device": model.device}
    sources = checkpoints(model.model, choice, **options)
    # All checkpoints share one tokenizer.
    texts, settings = prompts.load(sources[-1].load()), run.settings() | options
    try:
        profiles = mcr.experiments.profile_training(model.model, texts, choice, out=out, **settings)
    except KeyboardInterrupt as error:
        there = sum((out.expanduser() / f"step_{each.step}.nc").is_file() for each in sources)
        typer.echo(
            f"mcr-lens: interrupted, {there} of {len(sources)} steps are in {out}; the same command goes on "
            "from here",
            err=True,
        )
        raise typer.Exit(130) from error
    with atomic_write(out / FIGURE) as partial:
        mcr.viz.training(profiles).write_html(partial, include_plotlyjs=True)
    with showing(out):
        show_table(profiles.headline, levels_by_step(profiles))
        if len(sources) > 1:
            show_list(str(mcr.experiments.appearance(profiles)).split("\n"))
        show_text(f"saved in {out}: a profile a step (mcr_lens.load), {FIGURE}")
