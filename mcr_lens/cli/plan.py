"""``mcr-lens plan``: does a profile fit into memory? From the configuration alone; nothing is loaded."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from mcr_lens.cli.options import RunOptions
from mcr_lens.cli.show import show_list, show_table, showing
from mcr_lens.errors import InputError, one_line

__all__ = ["plan"]

# Options for a file or data set of prompts.
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
    devices: Annotated[
        int | None,
        typer.Option(
            help="Number of GPUs; 0 for the CPU; what is here if left out.", rich_help_panel="Machine"
        ),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(help="Of each GPU, e.g. 80GB; what is free if left out.", rich_help_panel="Machine"),
    ] = None
    host_memory: Annotated[
        str | None,
        typer.Option(help="Of the host, e.g. 512GB; what is free if left out.", rich_help_panel="Machine"),
    ] = None


def plan(options: PlanOptions, run: RunOptions) -> None:
    """Predict the memory of a profile from the model's configuration, and say whether it fits."""
    settings = run.settings()
    if (options.prompts is None) == (options.tokens is None):
        raise InputError("give either PROMPTS or --tokens (with --n)")
    if options.tokens is not None and options.tokens < 2:
        raise InputError(f"--tokens {options.tokens}: a prompt needs at least 2")
    if options.n is not None and options.n < 1:
        raise InputError(f"--n {options.n}: ask for at least one prompt")
    given = {name: value for name in _OF_FILES if (value := getattr(options, name)) is not None}
    if options.prompts is None and given:
        name = next(iter(given)).replace("_", "-")
        raise InputError(f"--{name} is for PROMPTS, which are missing: give them, or --n")

    from mcr_lens import models

    if options.prompts is not None:
        lengths = _lengths(options.prompts, options, {**given, "n": options.n})
    else:
        lengths = [options.tokens or 0] * (options.n or 1)
    planned = models.plan(
        options.model,
        lengths,
        backend=options.backend,
        dtype=options.dtype,
        revision=options.revision,
        devices=options.devices,
        memory=options.memory,
        host_memory=options.host_memory,
        batch_size=None if settings["batch_size"] == "auto" else settings["batch_size"],
        chunk=settings["chunk"],
        bits=options.bits,
    )
    with showing("nothing"):
        show_table(planned.headline, planned.table())
        show_list(planned.sentences())
        show_table("Memory by part", planned.parts())


def _lengths(prompts: str, options: PlanOptions, of_files: dict[str, Any]) -> list[int]:
    """Tokens of every prompt, counted by the model's tokenizer alone."""
    from types import SimpleNamespace

    from transformers import AutoTokenizer

    from mcr_lens.models.hub import hub_or_cache
    from mcr_lens.models.load_checks import model_folder
    from mcr_lens.prompts import load_prompts

    folder = model_folder(options.model, options.revision)
    try:
        if folder is not None:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        else:
            with hub_or_cache():
                tokenizer = AutoTokenizer.from_pretrained(
                    options.model, revision=options.revision, trust_remote_code=False
                )
    except Exception as error:  # missing, broken, behind no network
        raise InputError(
            f"{options.model}: no tokenizer to count the prompts' tokens with ({one_line(error, 120)}); give "
            "--tokens 512 --n 64 instead of PROMPTS"
        ) from error
    return list(load_prompts(prompts, SimpleNamespace(tokenizer=tokenizer), **of_files).lengths)
