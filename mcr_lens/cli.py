"""The ``mcr-lens`` command: thin. Heavy imports wait inside the commands, so that ``--help`` is instant."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mcr_lens.errors import InputError, one_line

if TYPE_CHECKING:
    from mcr_lens.result import Profile

__all__ = ["app"]

app = typer.Typer(
    name="mcr-lens",
    help="Where attention sinks, massive activations and compression valleys begin in a language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# What the demo says of its model, so that nobody takes it for a large one; the numbers are the paper's.
_BESIDE_THE_PAPER = (
    "- A small model trained on word problems, to learn the tools with. In the paper's models (410M to 120B "
    "parameters) the norm ratio reaches 10^2 to 10^4, the normalized entropy falls near 0 (LLaMA3 8B: 0.02), "
    "0.85 to 1 of the heads are sinks there, all from one layer on, and it ends in the last 15 % of depth."
)


@app.callback()
def main() -> None:
    """Where attention sinks, massive activations and compression valleys begin in a language model."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to save the profile.")] = Path("demo.nc"),
    n: Annotated[int, typer.Option(help="Number of made-up word problems.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the word problems.")] = 0,
) -> None:
    """Profile the bundled model on made-up word problems and say what there is to see."""
    with _exit_codes():
        import mcr_lens as mcr
        from mcr_lens.netcdf import check_place

        check_place(out)
        model = mcr.load_model("tiny")
        texts = mcr.word_problems(n, seed)
        prompts = mcr.Prompts.from_texts(texts, model, source=f"word_problems({n}, {seed})")
        _save_and_show(mcr.profile(model, prompts), out, _BESIDE_THE_PAPER)


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="'tiny', a model name, or a Hugging Face folder.")],
    prompts: Annotated[str, typer.Argument(help="A .jsonl/.json/.csv/.parquet/.txt file or hf:NAME.")],
    out: Annotated[Path, typer.Option(help="Where to save the profile (netCDF).")],
    field: Annotated[str | None, typer.Option(help="Column that holds the text.")] = None,
    n: Annotated[int | None, typer.Option(help="Number of prompts.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Cut prompts to this many tokens.")] = None,
    batch_size: Annotated[str, typer.Option(help="'auto' or a number of prompts.")] = "auto",
    chunk: Annotated[int | None, typer.Option(help="Feed prompts in chunks of tokens.")] = None,
    backend: Annotated[
        Literal["auto", "hooked_transformer", "bridge"],
        typer.Option(help="TransformerLens model class."),
    ] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps ...")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision on the hub, e.g. step1000.")] = None,
    seed: Annotated[int | None, typer.Option(help="Sample prompts at random.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of an hf: data set.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of an hf: data set.")] = None,
) -> None:
    """Measure every depth, layer and head of a model on your prompts in one pass."""
    with _exit_codes():
        import mcr_lens as mcr
        from mcr_lens.netcdf import check_place

        check_place(out)
        size = _batch_size(batch_size)
        loaded = mcr.load_model(model, backend=backend, dtype=dtype, device=device, revision=revision)
        chosen = mcr.load_prompts(
            prompts,
            loaded,
            field=field,
            n=n,
            seed=seed,
            max_tokens=max_tokens,
            config=config,
            split=split,
        )
        _save_and_show(mcr.profile(loaded, chosen, batch_size=size, chunk=chunk), out)


def _batch_size(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--batch-size {text!r}: use 'auto' or a number of prompts from 1")
    return int(text)


def _show(profile: "Profile") -> None:
    """The depth table, and what it says."""
    from rich.console import Console
    from rich.table import Table

    from mcr_lens.findings import findings

    # In a pipe there is no width to fit: sentences are not folded there.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    summary = profile.summary()
    table = Table(title=repr(profile).split("\n")[0], title_justify="left")
    table.add_column("depth", justify="right")
    for name in summary.columns:
        table.add_column(name.replace("_", " "), justify="right")
    for depth, row in summary.iterrows():
        cells = ["" if value != value else f"{value:.3f}" for value in row]
        table.add_row(str(depth), *cells)
    # Captured, because rich ends the program by itself when a reader closes the pipe.
    with console.capture() as captured:
        console.print(table)
        for sentence in findings(profile):
            console.print(f"- {sentence}", markup=False)
    typer.echo(captured.get(), nl=False)


def _save_and_show(profile: "Profile", out: Path, closing: str = "") -> None:
    """Save first: a reader who closes the pipe early must not cost the run."""
    path = profile.save(out)
    try:
        _show(profile)
        if closing:
            typer.echo(closing)
        typer.echo(f"saved {path} (read it back with mcr_lens.Profile.load)")
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer has nowhere to go; Python would complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    """Exit code 2 and one line for bad input, 1 and one line for a failed run, 130 for Ctrl-C."""
    try:
        yield
    except InputError as error:
        typer.echo(f"mcr-lens: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("mcr-lens: interrupted, nothing was saved", err=True)
        raise typer.Exit(130) from error
    except Exception as error:
        typer.echo(f"mcr-lens: the run failed: {type(error).__name__}: {one_line(error)}", err=True)
        raise typer.Exit(1) from error
