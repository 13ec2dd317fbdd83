"""``mcr-lens plan``: does a profile fit into memory? From the configuration alone; nothing is loaded."""

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from mcr_lens.cli.options import (
    Backend,
    Config,
    Field,
    MaxTokens,
    NPrompts,
    Revision,
    RunOptions,
    Split,
    model_option,
    prompt_option,
)
from mcr_lens.cli.show import show_list, show_table, showing
from mcr_lens.errors import InputError, one_line

__all__ = ["plan"]

_machine_option = partial(typer.Option, rich_help_panel="Machine")
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
    tokens: Annotated[int | None, prompt_option(help="Tokens of each prompt, for PROMPTS.")] = None
    field: Field = None
    n: NPrompts = None
    max_tokens: MaxTokens = None
    config: Config = None
    split: Split = None
    backend: Backend = "auto"
    dtype: Annotated[str | None, model_option(help="float32, bfloat16 or float16; else the first two.")] = (
        None
    )
    revision: Revision = None
    bits: Annotated[float | None, model_option(help="Bits a weight of the blocks, if quantised.")] = None
    devices: Annotated[
        int | None, _machine_option(help="Number of GPUs; 0 for the CPU; what is here if left out.")
    ] = None
    memory: Annotated[
        str | None, _machine_option(help="Of each GPU, e.g. 80GB; what is free if left out.")
    ] = None
    host_memory: Annotated[
        str | None, _machine_option(help="Of the host, e.g. 512GB; what is free if left out.")
    ] = None


def plan(options: PlanOptions, run: RunOptions) -> None:
    """Predict the memory of a profile from the model's configuration, and say whether it fits."""
    settings = run.settings()
    settings["batch_size"] = None if settings["batch_size"] == "auto" else settings["batch_size"]
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
    own = ("backend", "dtype", "revision", "devices", "memory", "host_memory", "bits")
    settings |= {name: getattr(options, name) for name in own}
    planned = models.plan(options.model, lengths, **settings)
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
    where = {"revision": options.revision} if folder is None else {"local_files_only": True}
    try:
        with contextlib.nullcontext() if folder is not None else hub_or_cache():
            tokenizer = AutoTokenizer.from_pretrained(
                folder or options.model, trust_remote_code=False, **where
            )
    except Exception as error:  # missing, broken, behind no network
        raise InputError(
            f"{options.model}: no tokenizer to count the prompts' tokens with ({one_line(error, 120)}); give "
            "--tokens 512 --n 64 instead of PROMPTS"
        ) from error
    return list(load_prompts(prompts, SimpleNamespace(tokenizer=tokenizer), **of_files).lengths)
