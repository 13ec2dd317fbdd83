"""``mcr-lens plan``: memory and time of a profile from the model's configuration; nothing is loaded."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from mcr_lens.cli.options import RunOptions
from mcr_lens.cli.show import show_list, show_table, showing
from mcr_lens.errors import InputError

__all__ = ["plan"]

_MOST = 10_000_000
# What is said of a file or data set of prompts.
_OF_FILES = ("field", "max_tokens", "config", "split")


@dataclass(frozen=True)
class PlanOptions:
    """Which model, which prompts, which machine."""

    model: Annotated[
        str, typer.Argument(help="'tiny', a model name, or a folder with at least a config.json.")
    ]
    prompts: Annotated[
        str | None, typer.Argument(help="As for profile; or leave it out and give --tokens.")
    ] = None
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of each prompt, for PROMPTS.", rich_help_panel="Prompts"),
    ] = None
    field: Annotated[
        str | None, typer.Option(help="Column that holds the text.", rich_help_panel="Prompts")
    ] = None
    n: Annotated[int | None, typer.Option(help="Number of prompts.", rich_help_panel="Prompts")] = None
    max_tokens: Annotated[
        int | None, typer.Option(help="Cut prompts to this many tokens.", rich_help_panel="Prompts")
    ] = None
    config: Annotated[
        str | None, typer.Option(help="Configuration of an hf: data set.", rich_help_panel="Prompts")
    ] = None
    split: Annotated[
        str | None, typer.Option(help="Split of an hf: data set.", rich_help_panel="Prompts")
    ] = None
    backend: Annotated[
        Literal["auto", "hooked_transformer", "bridge"],
        typer.Option(help="TransformerLens model class.", rich_help_panel="Model"),
    ] = "auto"
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; else the first two.", rich_help_panel="Model"),
    ] = None
    revision: Annotated[
        str | None, typer.Option(help="Revision on the hub, e.g. step1000.", rich_help_panel="Model")
    ] = None
    bits: Annotated[
        float | None, typer.Option(help="Bits a weight of the blocks, if quantised.", rich_help_panel="Model")
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(help="80GB, 8x80GB, cpu; what is free here if left out.", rich_help_panel="Machine"),
    ] = None
    host_memory: Annotated[
        str | None, typer.Option(help="Memory of the host, such as 512GB.", rich_help_panel="Machine")
    ] = None
    flops: Annotated[
        float | None,
        typer.Option(help="Operations a second; measured here if left out.", rich_help_panel="Machine"),
    ] = None


def plan(options: PlanOptions, run: RunOptions) -> None:
    """Predict memory and time of a profile from the model's configuration, and say which settings fit."""
    chunk = run.settings()["chunk"]
    for name, value in (("--n", options.n), ("--tokens", options.tokens), ("--chunk", chunk)):
        if value not in (None, "auto") and value > _MOST:
            raise InputError(f"{name} {value:.3g}: use a number up to {_MOST:,}")
    lengths = None if options.tokens is None else [options.tokens] * (options.n or 1)
    prompts = options.prompts or lengths
    if prompts is None or (options.prompts and lengths):
        raise InputError("give either PROMPTS or --tokens (with --n)")
    if options.tokens is not None and not 2 <= options.tokens:
        raise InputError(f"--tokens {options.tokens}: a prompt needs at least 2")
    if options.n is not None and options.n < 1:
        raise InputError(f"--n {options.n}: ask for at least one prompt")

    foreign = [name for name in _OF_FILES if getattr(options, name) is not None]
    if options.prompts is None and foreign:
        raise InputError(
            f"--{foreign[0].replace('_', '-')} is for PROMPTS, which are missing: give them, or --n"
        )

    from mcr_lens.host import in_words
    from mcr_lens.planning import plan as predict

    chosen: dict[str, Any] = {}
    if options.prompts is not None:
        chosen = {name: getattr(options, name) for name in ("n", *_OF_FILES)}
    settings = run.settings()
    planned = predict(
        options.model,
        prompts,
        backend=options.backend,
        dtype=options.dtype,
        revision=options.revision,
        memory=options.memory,
        host_memory=options.host_memory,
        batch_size=None if settings["batch_size"] == "auto" else settings["batch_size"],
        chunk=settings["chunk"],
        bits=options.bits,
        flops=options.flops,
        **chosen,
    )
    with showing("nothing"):
        show_table(planned.headline, planned.summary())
        show_list(planned.sentences())
        parts = planned.parts().GB.map(lambda size: in_words(1e9 * size) if size else "")
        show_table("Memory by part", parts.rename("size").to_frame())
