"""``mcr-lens lens``: what every depth would predict."""

from pathlib import Path
from typing import Annotated

import typer

import mcr_lens as mcr
from mcr_lens.cli.options import ModelOptions, PromptOptions, ResultFile, RunOptions
from mcr_lens.cli.show import show_list, show_table, showing


def lens(
    model: ModelOptions,
    prompts: PromptOptions,
    run: RunOptions,
    result: ResultFile,
    translators: Annotated[
        Path | None, typer.Option(help="Folder of a tuned lens; without it, the logit lens.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Also keep the best tokens of every position.", min=0)] = 0,
    per_token: Annotated[
        bool, typer.Option("--per-token", help="Also keep every quantity token by token.")
    ] = False,
) -> None:
    """Read every depth of a model out through its last step: loss, entropy, rank of the next token."""
    tuned = None if translators is None else mcr.hooks.Translators.load(translators)
    loaded = model.load()
    texts = prompts.load(loaded)
    lens = mcr.logit_lens(
        loaded, texts, translators=tuned, top_k=top_k, per_token=per_token, **run.settings()
    )
    path = lens.save(result.out)
    with showing(path):
        title = (
            f"{lens.data.attrs['lens']['kind'].capitalize()} lens of {lens.model_name}, "
            f"{len(texts)} prompts, {sum(texts.lengths):,} tokens (loss, entropy and KL in nats)"
        )
        show_table(title, lens.summary())
        show_list(f"Beware: {caveat}" for caveat in lens.caveats())
        typer.echo(f"saved {path} (read it back with mcr_lens.load)")
