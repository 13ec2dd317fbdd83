"""``mcr-lens plan``: does a profile fit into memory? From the configuration alone; nothing is loaded."""

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from mcr_lens.cli.options import ModelName, PromptShape, RunOptions, model_option, prompt_option
from mcr_lens.cli.show import show_list, show_table, showing
from mcr_lens.errors import InputError, one_line

_machine_option = partial(typer.Option, rich_help_panel="Machine")


@dataclass(frozen=True, kw_only=True)
class PlanPrompts(PromptShape):
    """Prompts, or how many of which length."""

    prompts: Annotated[
        str | None, typer.Argument(help="As for profile; or leave it out and give --tokens.")
    ] = None
    tokens: Annotated[int | None, prompt_option(help="Tokens of each prompt, for PROMPTS.")] = None

    def __post_init__(self) -> None:
        from mcr_lens.prompts.batches import check_number

        super().__post_init__()
        if (self.prompts is None) == (self.tokens is None):
            raise InputError("give either PROMPTS or --tokens (with --n)")
        check_number("--tokens", self.tokens, 2, "a prompt needs at least 2 tokens")
        for name in ("field", "max_tokens", "config", "split") if self.prompts is None else ():
            if getattr(self, name) is not None:
                option = name.replace("_", "-")
                raise InputError(f"--{option} is for PROMPTS, which are missing: give them, or --n")


@dataclass(frozen=True)
class Machine:
    """What a profile would run on."""

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


def plan(model: ModelName, prompts: PlanPrompts, machine: Machine, run: RunOptions) -> None:
    """Predict the memory of a profile from the model's configuration, and say whether it fits."""
    from mcr_lens import models

    settings = vars(model) | vars(machine) | run.settings()
    if settings["batch_size"] == "auto":
        settings["batch_size"] = None
    lengths = [prompts.tokens] * (prompts.n or 1) if prompts.tokens else _lengths(model, prompts)
    planned = models.plan(settings.pop("model"), lengths, **settings)
    with showing("nothing"):
        show_table(planned.headline, planned.table())
        show_list(planned.sentences())
        show_table("Memory by part", planned.parts())


def _lengths(model: ModelName, prompts: PlanPrompts) -> list[int]:
    """Tokens of every prompt, counted by the model's tokenizer alone."""
    from types import SimpleNamespace

    from transformers import AutoTokenizer

    from mcr_lens.models.hub import hub_or_cache
    from mcr_lens.models.load_checks import model_folder
    from mcr_lens.prompts import load_prompts

    folder = model_folder(model.model, model.revision)
    where = {"revision": model.revision} if folder is None else {"local_files_only": True}
    try:
        with contextlib.nullcontext() if folder is not None else hub_or_cache():
            tokenizer = AutoTokenizer.from_pretrained(folder or model.model, trust_remote_code=False, **where)
    except Exception as error:  # missing, broken, behind no network
        raise InputError(
            f"{model.model}: no tokenizer to count the prompts' tokens with ({one_line(error, 120)}); give "
            "--tokens 512 --n 64 instead of PROMPTS"
        ) from error
    options = {**vars(prompts)}
    options.pop("tokens")
    source = options.pop("prompts")
    return list(load_prompts(source, SimpleNamespace(tokenizer=tokenizer), **options).lengths)
