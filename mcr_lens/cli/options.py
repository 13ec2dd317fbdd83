"""Options that several commands share, in groups; each group turns what was typed into what it is for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

import mcr_lens as mcr
from mcr_lens.errors import InputError

Number = TypeVar("Number", int, float)
model_option = partial(typer.Option, rich_help_panel="mcr.models.Model")
prompt_option = partial(typer.Option, rich_help_panel="mcr.Prompts")
_run_option = partial(typer.Option, rich_help_panel="Run")
# Endings that nobody gives to a folder.
_OF_FILES = (
    ".nc",
    ".html",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".txt",
    ".md",
    ".toml",
    ".png",
    ".svg",
    ".pdf",
)
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are there.")]


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """Which model."""

    model: Annotated[str, typer.Argument(help="'tiny', a model name, or a Hugging Face folder.")]
    backend: Annotated[
        Literal["auto", "hooked_transformer", "bridge"], model_option(help="TransformerLens model class.")
    ] = "auto"
    dtype: Annotated[str | None, model_option(help="float32, bfloat16 or float16.")] = None
    revision: Annotated[str | None, model_option(help="Revision on the hub, e.g. step1000.")] = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ModelName):
    """Which model, and where it is loaded to."""

    device: Annotated[str | None, model_option(help="cpu, cuda, mps ...")] = None

    def load(self) -> "mcr.models.Model":
        """The model; errors as ``mcr_lens.load_model``."""
        options = {**vars(self)}
        return mcr.load_model(options.pop("model"), **options)


@dataclass(frozen=True, kw_only=True)
class PromptShape:
    """What is read of prompts, and how many; checked before a model is loaded."""

    field: Annotated[str | None, prompt_option(help="Column that holds the text; a.b: b inside a.")] = None
    chat_template: Annotated[
        bool, prompt_option("--chat-template", help="The field holds conversations: the model's template.")
    ] = False
    n: Annotated[int | None, prompt_option(help="Number of prompts that can be used.")] = None
    max_tokens: Annotated[int | None, prompt_option(help="Cut prompts to this many tokens.")] = None
    config: Annotated[str | None, prompt_option(help="Configuration of an hf: data set.")] = None
    split: Annotated[str | None, prompt_option(help="Split of an hf: data set.")] = None

    def __post_init__(self) -> None:
        from mcr_lens.prompts.batches import check_number

        check_number("--n", self.n, 1, "ask for at least one prompt")
        check_number("--max-tokens", self.max_tokens, 2, "a prompt needs at least 2 tokens")


@dataclass(frozen=True, kw_only=True)
class PromptOptions(PromptShape):
    """Which prompts, and how many."""

    prompts: Annotated[str, typer.Argument(help="A .jsonl/.json/.csv/.tsv/.parquet/.txt file or hf:NAME.")]
    seed: Annotated[int | None, prompt_option(help="Sample prompts at random.")] = None

    def __post_init__(self) -> None:
        from mcr_lens.prompts.files import check_source

        check_source(self.prompts, ".txt")
        super().__post_init__()

    def load(self, model: "mcr.models.Model") -> "mcr.Prompts":
        """The prompts in the model's tokens; errors as ``mcr_lens.load_prompts``."""
        options = {**vars(self)}
        prompts = mcr.load_prompts(options.pop("prompts"), model, **options)
        say_skipped(prompts, self.n)
        return prompts


@dataclass(frozen=True)
class ResultFile:
    """Where a result is saved; checked before a model is loaded."""

    out: Annotated[Path, typer.Option(help="Where to save the result (netCDF, .nc).")]
    overwrite: Overwrite = False

    def __post_init__(self) -> None:
        from mcr_lens.results import check_place

        check_place(self.out, is_result=True)
        check_ending(self.out, ".nc", "a result is netCDF")
        check_free(self.out, self.overwrite)


@dataclass(frozen=True)
class RunOptions:
    """How prompts are fed to the model; checked before one is loaded."""

    batch_size: Annotated[str, _run_option(help="'auto' or a number of prompts.")] = "auto"
    chunk: Annotated[
        str | None, _run_option(help="Feed prompts in chunks of tokens; 'auto': where needed.")
    ] = None

    def __post_init__(self) -> None:
        self.settings()

    def settings(self) -> dict[str, Any]:
        """As the engine and the experiments take them."""
        chunk = None if self.chunk is None else _auto_or_count("--chunk", self.chunk, "tokens")
        return {"batch_size": _auto_or_count("--batch-size", self.batch_size, "prompts"), "chunk": chunk}


def check_ending(out: Path, ending: str, what: str) -> None:
    """Raise ``InputError`` unless a file has the ending of what is written."""
    if out.suffix.lower() != ending:
        raise InputError(f"--out {out}: {what}; name it {out.with_suffix(ending)}")


def check_free(out: Path, overwrite: bool) -> None:
    """Raise ``InputError`` for a file that is there and is not to be replaced."""
    if out.expanduser().is_file() and not overwrite:
        raise InputError(f"{out}: already there; choose another name, or replace it with --overwrite")


def check_is_folder(out: Path) -> None:
    """Raise ``InputError`` for a folder to write that is named like one of the files in it."""
    if out.suffix.lower() in _OF_FILES and not out.expanduser().exists():
        raise InputError(
            f"--out {out}: a folder is written, not a {out.suffix} file; use {out.with_suffix('')}"
        )


def say_skipped(prompts: "mcr.Prompts", n: int | None) -> None:
    """Rows that are no prompts, and prompts that were asked for and are not there, in one line."""
    parts = []
    if prompts.dropped:
        parts.append(f"{prompts.dropped} rows skipped (blank, or fewer than 2 tokens)")
    if n is not None and len(prompts) < n:
        parts.append(f"{len(prompts)} prompts, not {n}: there are no more")
    if parts:
        typer.echo(f"mcr-lens: {prompts.source}: {'; '.join(parts)}", err=True)


def _auto_or_count(option: str, text: str, noun: str) -> Literal["auto"] | int:
    if text == "auto":
        return "auto"
    # No number of thousands of digits, which Python refuses to read.
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise InputError(f"{option} {text!r}: use 'auto' or a number of {noun} from 1")
    return int(text)


def numbers(option: str, text: str, kind: Callable[[str], Number], example: str) -> list[Number]:
    """The numbers of an option such as ``--layers 1,4``.

    Raises:
        InputError: when something in it is none.
    """
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text!r}: use numbers with commas between, such as {example}") from error
    if not all(map(math.isfinite, values)):
        raise InputError(f"{option} {text!r}: use finite numbers, such as {example}")
    return values


def words(text: str) -> list[str]:
    """The names in an option such as ``--arms write,other-token``; a hyphen spares quoting a space."""
    return [part.strip().replace("-", " ") for part in text.split(",")]
