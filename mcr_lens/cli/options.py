"""Options that several commands share, in groups; each group turns what was typed into what it is for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from mcr_lens.errors import InputError

if TYPE_CHECKING:
    from mcr_lens.models import Model
    from mcr_lens.prompts import Prompts

__all__ = [
    "Backend",
    "Config",
    "Field",
    "MaxTokens",
    "ModelOptions",
    "NPrompts",
    "Overwrite",
    "PromptOptions",
    "ResultFile",
    "Revision",
    "RunOptions",
    "Split",
    "model_option",
    "numbers",
    "prompt_option",
    "words",
]

Number = TypeVar("Number", int, float)
model_option = partial(typer.Option, rich_help_panel="Model")
prompt_option = partial(typer.Option, rich_help_panel="Prompts")

# Options that stand in several groups.
Backend = Annotated[
    Literal["auto", "hooked_transformer", "bridge"], model_option(help="TransformerLens model class.")
]
Revision = Annotated[str | None, model_option(help="Revision on the hub, e.g. step1000.")]
Field = Annotated[str | None, prompt_option(help="Column that holds the text.")]
NPrompts = Annotated[int | None, prompt_option(help="Number of prompts.")]
MaxTokens = Annotated[int | None, prompt_option(help="Cut prompts to this many tokens.")]
Config = Annotated[str | None, prompt_option(help="Configuration of an hf: data set.")]
Split = Annotated[str | None, prompt_option(help="Split of an hf: data set.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result of that name.")]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: Annotated[str, typer.Argument(help="'tiny', a model name, or a Hugging Face folder.")]
    backend: Backend = "auto"
    dtype: Annotated[str | None, model_option(help="float32, bfloat16 or float16.")] = None
    device: Annotated[str | None, model_option(help="cpu, cuda, mps ...")] = None
    revision: Revision = None

    def load(self) -> "Model":
        """The model; errors as ``mcr_lens.load_model``."""
        import mcr_lens as mcr

        return mcr.load_model(self.model, **_without(self, "model"))


@dataclass(frozen=True)
class PromptOptions:
    """Which prompts, and how many."""

    prompts: Annotated[str, typer.Argument(help="A .jsonl/.json/.csv/.tsv/.parquet/.txt file or hf:NAME.")]
    field: Field = None
    n: NPrompts = None
    max_tokens: MaxTokens = None
    seed: Annotated[int | None, prompt_option(help="Sample prompts at random.")] = None
    config: Config = None
    split: Split = None

    def __post_init__(self) -> None:
        # Before a model is loaded.
        from mcr_lens.prompts.batches import check_number
        from mcr_lens.prompts.files import check_source

        check_source(self.prompts, ".txt")
        check_number("--n", self.n, 1, "ask for at least one prompt")
        check_number("--max-tokens", self.max_tokens, 2, "a prompt needs at least 2 tokens")

    def load(self, model: "Model") -> "Prompts":
        """The prompts in the model's tokens; errors as ``mcr_lens.load_prompts``."""
        import mcr_lens as mcr

        return mcr.load_prompts(self.prompts, model, **_without(self, "prompts"))


@dataclass(frozen=True)
class ResultFile:
    """Where a result is saved; a file that is there is replaced only when that is asked for."""

    out: Annotated[Path, typer.Option(help="Where to save the result (netCDF, .nc).")]
    overwrite: Overwrite = False

    def __post_init__(self) -> None:
        # Before a model is loaded.
        from mcr_lens.results import check_place

        check_place(self.out, is_result=True)
        if self.out.suffix != ".nc":
            raise InputError(f"--out {self.out}: a result is netCDF; name it {self.out.with_suffix('.nc')}")
        if self.out.expanduser().is_file() and not self.overwrite:
            raise InputError(
                f"{self.out}: already there; choose another name, or replace it with --overwrite"
            )


@dataclass(frozen=True)
class RunOptions:
    """How prompts are fed to the model."""

    batch_size: Annotated[str, typer.Option(help="'auto' or a number of prompts.", rich_help_panel="Run")] = (
        "auto"
    )
    chunk: Annotated[
        str | None,
        typer.Option(help="Feed prompts in chunks of tokens; 'auto': where needed.", rich_help_panel="Run"),
    ] = None

    def __post_init__(self) -> None:
        # Before a model is loaded.
        if self.batch_size != "auto" and not _is_count(self.batch_size):
            raise InputError(f"--batch-size {self.batch_size!r}: use 'auto' or a number of prompts from 1")
        if self.chunk not in (None, "auto") and not _is_count(self.chunk):
            raise InputError(f"--chunk {self.chunk}: use 'auto' or a number of tokens from 1")

    def settings(self) -> dict[str, Any]:
        """As the engine and the experiments take them."""
        size = self.batch_size if self.batch_size == "auto" else int(self.batch_size)
        chunk = self.chunk if self.chunk in (None, "auto") else int(self.chunk)
        return {"batch_size": size, "chunk": chunk}


def _without(options: Any, argument: str) -> dict[str, Any]:
    """The options of a group by name, less the argument that they are for."""
    return {name: value for name, value in vars(options).items() if name != argument}


def _is_count(text: str) -> bool:
    # No number of thousands of digits, which Python refuses to read.
    return text.isdecimal() and len(text) < 10 and int(text) > 0


def numbers(option: str, text: str, kind: Callable[[str], Number], example: str) -> list[Number]:
    """The numbers of an option such as ``--layers 1,4``.

    Raises:
        InputError: when something in it is none.
    """
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text!r}: use numbers with commas between, such as {example}") from error
    if not all(map(math.isfinite, found)):
        raise InputError(f"{option} {text!r}: use finite numbers, such as {example}")
    return found


def words(text: str) -> list[str]:
    """The names in an option such as ``--arms write,other-token``; a hyphen spares quoting a space."""
    return [part.strip().replace("-", " ") for part in text.split(",")]
