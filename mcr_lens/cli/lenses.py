"""``mcr-lens lens``: what every depth would predict."""

from pathlib import Path
from typing import Annotated

import typer

from mcr_lens.cli.options import ModelOptions, PromptOptions, RunOptions
from mcr_lens.cli.show import show_list, show_table, showing

__all__ = ["lens"]


def lens(
    model: ModelOptions,
    prompts: PromptOptions,
    run: RunOptions,
    out: Annotated[Path, typer.Option(help="Where to save the lens (netCDF).")],
    translators: Annotated[
        Path | None, typer.Option(help="Folder of a tuned lens; without it, the logit lens.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Also keep the best tokens of every position.", min=0)] = 0,
    per_token: Annotated[
        bool, typer.Option("--per-token", help="Also keep every quantity token by token.")
    ] = False,
) -> None:
    """Read every depth of a model out through its last step: loss, entropy, rank of the next token."""
    import mcr_lens as mcr
    from mcr_lens.result_files import check_result_place, write_dataset

    check_result_place(out)
    tuned = None if translators is None else mcr.hooks.Translators.load(translators)
    loaded = model.load()
    texts = prompts.load(loaded)
    data = mcr.logit_lens(
        loaded, texts, translators=tuned, top_k=top_k, per_token=per_token, **run.settings()
    )
    path = write_dataset(data, out)
    with showing(path):
        title = (
            f"{data.attrs['lens']['kind'].capitalize()} lens of {data.attrs['model']}, "
            f"{len(texts)} prompts, {sum(texts.lengths):,} tokens (loss, entropy and KL in nats)"
        )
        summary = mcr.experiments.lens_summary(data)
        show_table(title, summary)
        show_list([f"Beware: {summary.attrs['not_finite']}"] if "not_finite" in summary.attrs else [])
        typer.echo(f"saved {path} (read it back with mcr_lens.read_dataset)")
