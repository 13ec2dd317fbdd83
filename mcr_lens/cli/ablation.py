"""``mcr-lens ablate``: an ablation study, as a folder of files."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mcr_lens as mcr
from mcr_lens.cli.options import ModelOptions, Overwrite, PromptOptions, RunOptions, numbers, words
from mcr_lens.cli.show import show_list, show_table, show_text, showing
from mcr_lens.cli.together import appearing_together, check_folder
from mcr_lens.errors import InputError
from mcr_lens.validate import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

# What is written, and what it is for.
FILES = {
    "study.nc": "every number (read it back with mcr_lens.load)",
    "effects.csv": "paired effects at the largest dose, with intervals and p-values",
    "claims.md": "what this model supports, in words",
    "dose_response.html": "the curves over the dose, for a browser",
}


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
        typer.Option(
            help="Some of write, clamp, dimensions, direction, block, random-direction, other-token."
        ),
    ] = None,
    max_ratio: Annotated[
        float, typer.Option(help="Norm that the clamp leaves, over the mean of the other tokens.")
    ] = 1.0,
    sink_position: Annotated[int, typer.Option(help="Position of the sink token.", min=0)] = 0,
    control_seed: Annotated[
        int, typer.Option(help="Seed of the controls' directions and tokens.", min=0)
    ] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Take away, dose by dose, what makes the sink token massive, and see what goes with it."""
    from mcr_lens.experiments.ablation.arms import ARMS

    check_folder(out, list(FILES), overwrite)
    places: Any = layers if layers == "emergence" else numbers("--layers", layers, int, "1,4, or 'emergence'")
    shares = numbers("--doses", doses, float, "0,0.5,1")
    if not all(0 <= share <= 1 for share in shares) or not any(shares):
        raise InputError(f"--doses {doses}: use shares from 0 to 1, at least one above 0, such as 0,0.5,1")
    kinds = ARMS if arms is None else words(arms)
    for kind in kinds:
        if kind not in ARMS:
            names = [arm.replace(" ", "-") for arm in ARMS]
            near = did_you_mean(kind.replace(" ", "-"), names)
            raise InputError(f"--arms {arms}: no arm {kind!r}; there are {', '.join(names)}{near}")
    loaded = model.load()
    study = mcr.ablation_study(
        loaded,
        prompts.load(loaded),
        places,
        shares,
        kinds,
        sink_position=sink_position,
        max_ratio=max_ratio,
        seed=control_seed,
        **run.settings(),
    )
    folder = out.expanduser()
    effects = study.effects()
    _save(study, effects, folder)
    with showing(folder):
        show_table(study.headline, study.outcome_table())
        show_text("Arms, at dose 1:")
        show_list(f"{arm}: {what}" for arm, what in study.data.attrs["arms"].items())
        show_text(f"Claims, at dose {effects.attrs['dose']:g}:")
        show_list(study.claims())
        show_text(_about_p(study, effects))
        for caveat in study.caveats():
            show_text(f"Beware: {caveat}")
        typer.echo(f"saved in {folder}:")
        for name, what in FILES.items():
            show_text(what, f"  {name:18}  ")


def _save(study: "mcr.experiments.AblationStudy", effects: "pd.DataFrame", folder: Path) -> None:
    """All of ``FILES``; what was measured comes first, so that nothing that follows can lose it."""
    from mcr_lens import viz

    study.save(folder / "study.nc")
    others = list(FILES)[1:]
    for name in others:
        (folder / name).unlink(missing_ok=True)  # of an earlier study
    with appearing_together(folder, others) as (table, page, figure):
        effects.to_csv(table, index=False)
        page.write_text(_claims_page(study, effects), encoding="utf-8")
        # With the whole of plotly in it: it opens without a network.
        viz.dose_response(study).write_html(figure, include_plotlyjs=True)


def _about_p(study: "mcr.experiments.AblationStudy", effects: "pd.DataFrame") -> str:
    """What stands behind the p-values, and how small they could have become."""
    smallest, compared = effects.attrs["smallest_p"], effects.attrs["comparisons"]
    return (
        f"p-values: sign-flip permutations over {study.data.sizes['prompt']} prompts, which give no less "
        f"than {smallest:.2g}, corrected for {compared} primary rows (Holm). Claims rest on the intervals."
    )


def _claims_page(study: "mcr.experiments.AblationStudy", effects: "pd.DataFrame") -> str:
    """What claims.md says."""
    import jinja2

    from mcr_lens.results.tables import to_markdown

    source = files("mcr_lens.cli").joinpath("claims.md").read_text(encoding="utf-8")
    template = jinja2.Template(source, trim_blocks=True, keep_trailing_newline=True)
    return template.render(
        study=study,
        made=study.data.attrs,
        dose=f"{effects.attrs['dose']:g}",
        about_p=_about_p(study, effects),
        outcomes=to_markdown(study.outcome_table()),
    )
