"""``mcr-lens demo`` and ``mcr-lens profile``: every depth, layer and head in one pass."""

from pathlib import Path
from typing import Annotated

import typer

import mcr_lens as mcr
from mcr_lens.cli.options import ModelOptions, Overwrite, PromptOptions, ResultFile, RunOptions
from mcr_lens.cli.report import said_of_report
from mcr_lens.cli.show import show_list, show_table, show_text, showing

# What the demo says of its model, so that nobody takes it for a large one; the numbers are the paper's.
_BESIDE_THE_PAPER = (
    "A small model trained on word problems, to learn the tools with. In the paper's models (410M to 120B "
    "parameters) the norm ratio reaches 10^2 to 10^4, the normalized entropy falls near 0 (LLaMA3 8B: 0.02), "
    "0.85 to 1 of the heads are sinks there, all from one layer on, and it ends in the last 15 % of depth."
)


def demo(
    out: Annotated[Path, typer.Option(help="Where to save the profile (netCDF, .nc).")] = Path("demo.nc"),
    n: Annotated[int, typer.Option(help="Number of made-up word problems.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the word problems.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Profile the bundled model on made-up word problems, say what there is to see and write a report.

    The report is a page beside the profile: demo.html. A file of that name that is no report is left alone.
    """
    from mcr_lens.viz import report as write_report
    from mcr_lens.viz._report import check_page

    ResultFile(out, overwrite)
    page = out.with_suffix(".html")
    check_page(page)
    model = mcr.load_model("tiny")
    texts = mcr.prompts.word_problems(n, seed)
    prompts = mcr.Prompts.from_texts(texts, model, source=f"word_problems({n}, {seed})")
    path = _save_and_show(mcr.profile(model, prompts), out, _BESIDE_THE_PAPER)
    with showing(path):
        page = write_report(path, page, model)
        show_text(said_of_report(page))


def profile(
    model: ModelOptions,
    prompts: PromptOptions,
    run: RunOptions,
    result: ResultFile,
) -> None:
    """Measure every depth, layer and head of a model on your prompts in one pass."""
    loaded = model.load()
    _save_and_show(mcr.profile(loaded, prompts.load(loaded), **run.settings()), result.out)


def _save_and_show(profile: "mcr.Profile", out: Path, *closing: str) -> Path:
    """Save first: a reader who closes the pipe early must not cost the run."""
    from mcr_lens.results import findings

    path = profile.save(out)
    with showing(path):
        show_table(profile.headline, profile.summary())
        show_list([*findings(profile), *closing])
        show_list(f"Beware: {caveat}" for caveat in profile.caveats())
        typer.echo(f"saved {path} (read it back with mcr_lens.load)")
    return path
