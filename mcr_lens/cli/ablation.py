"""``mcr-lens ablate``: an ablation study, as a folder of files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mcr_lens.cli.options import ModelOptions, PromptOptions, RunOptions, numbers, words
from mcr_lens.cli.show import show_list, show_table, show_text, showing
from mcr_lens.cli.study_files import FILES, about_p, arms_in_words, write_study
from mcr_lens.cli.together import appearing_together, check_folder

if TYPE_CHECKING:
    from mcr_lens.experiments import AblationStudy

__all__ = ["ablate"]


def ablate(
    model: ModelOptions,
    prompts: PromptOptions,
    run: RunOptions,
    out: Annotated[Path, typer.Option(help=f"Folder for {', '.join(FILES)}.")],
    layers: Annotated[
        str, typer.Option(help="'emergence' (found by the baseline) or layers such as 1,4.")
    ] = "emergence",
    doses: Annotated[str, typer.Option(help="Shares that are removed, 0 to 1.")] = "0,0.25,0.5,0.75,1",
    arms: Annotated[
        str | None,
        typer.Option(help="Some of write, clamp, dimensions, block, other-token, other-layer; else all."),
    ] = None,
    max_ratio: Annotated[
        float, typer.Option(help="Norm that the clamp leaves, over the mean of the other tokens.")
    ] = 1.0,
    sink_position: Annotated[int, typer.Option(help="Position of the sink token.", min=0)] = 0,
    control_seed: Annotated[int, typer.Option(help="Seed of the controls' tokens and layers.", min=0)] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a study that is in the folder.")
    ] = False,
) -> None:
    """Take away, dose by dose, what makes the sink token massive, and see what goes with it."""
    import mcr_lens as mcr
    from mcr_lens.experiments.ablation.arms import ARMS

    check_folder(out, list(FILES), overwrite)
    chosen: Literal["emergence"] | list[int] = "emergence"
    if layers != "emergence":
        chosen = numbers("--layers", layers, int, "1,4, or 'emergence'")
    shares = numbers("--doses", doses, float, "0,0.5,1")
    loaded = model.load()
    study = mcr.ablation_study(
        loaded,
        prompts.load(loaded),
        chosen,
        shares,
        ARMS if arms is None else words(arms),
        sink_position=sink_position,
        max_ratio=max_ratio,
        seed=control_seed,
        **run.settings(),
    )
    _save_and_show(study, out.expanduser())


def _save_and_show(study: "AblationStudy", folder: Path) -> None:
    effects = study.effects()
    with appearing_together(folder) as new:
        write_study(study, effects, new)
    with showing(folder):
        show_table(study.headline, study.outcome_table())
        show_text("Arms, at dose 1:")
        show_list(arms_in_words(study))
        show_text(f"Claims, at dose {effects.attrs['dose']:g}:")
        show_list(study.claims())
        show_text(about_p(study, effects))
        if note := study.not_finite_note():
            show_text(f"Beware: {note}")
        typer.echo(f"saved in {folder}:")
        for name, what in FILES.items():
            show_text(what, f"  {name:18}  ")
