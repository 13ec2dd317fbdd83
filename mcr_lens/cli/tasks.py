"""``mcr-lens tasks``: what each depth is good for, and where one could stop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import mcr_lens as mcr
from mcr_lens.cli.options import ModelOptions, Overwrite, RunOptions
from mcr_lens.cli.show import show_table, show_text, showing
from mcr_lens.cli.together import appearing_together, check_folder
from mcr_lens.errors import InputError

FILES = ("perplexity.nc", "choices.nc", "probes.nc", "quality.csv", "best_depth.csv", "tasks.html")
_SHOWN = ("best_depth", "best_low", "best_high", "gain", "exit_depth", "exit_kept", "blocks_saved")


@dataclass(frozen=True)
class TaskOptions:
    """What the depths are tried at: any of the three."""

    text: Annotated[
        str | None, typer.Option(help="Perplexity: a file of texts, or hf:NAME; WikiText by articles.")
    ] = None
    field: Annotated[str | None, typer.Option(help="Column of --text that holds the text.")] = None
    text_config: Annotated[str | None, typer.Option(help="Configuration of --text hf:NAME.")] = None
    text_split: Annotated[str | None, typer.Option(help="Split of --text hf:NAME.")] = None
    n: Annotated[int | None, typer.Option(help="Documents of --text, from the first.")] = None
    window: Annotated[int | None, typer.Option(help="Tokens of a window of --text.")] = None
    choices: Annotated[
        str | None, typer.Option(help="Multiple choice: lm-eval tasks or YAML files, with commas between.")
    ] = None
    metric: Annotated[str, typer.Option(help="Metric of --choices, such as acc or acc_norm.")] = "acc"
    include_path: Annotated[Path | None, typer.Option(help="Folder of lm-eval tasks of your own.")] = None
    num_fewshot: Annotated[int | None, typer.Option(help="Examples before each question.")] = None
    limit: Annotated[int | None, typer.Option(help="Only the first documents of each task.")] = None
    labelled: Annotated[
        str | None, typer.Option(help="Probes: texts and labels, .tsv/.csv/.jsonl/.parquet or hf:NAME.")
    ] = None
    labelled_config: Annotated[str | None, typer.Option(help="Configuration of --labelled hf:NAME.")] = None
    labelled_split: Annotated[str | None, typer.Option(help="Split of --labelled hf:NAME.")] = None
    text_column: Annotated[str, typer.Option(help="Column of --labelled; a number: no header.")] = "text"
    label_column: Annotated[str, typer.Option(help="Column of --labelled; a number: no header.")] = "label"
    group_column: Annotated[
        str | None, typer.Option(help="Column of --labelled: rows of a group stay together.")
    ] = None
    n_labelled: Annotated[int | None, typer.Option(help="Texts of --labelled, at random.")] = None
    translators: Annotated[
        Path | None, typer.Option(help="Folder of a tuned lens for --text and --choices.")
    ] = None


def tasks(
    model: ModelOptions,
    options: TaskOptions,
    run: RunOptions,
    out: Annotated[Path, typer.Option(help="Folder for tables, results and figure.")],
    keep: Annotated[float, typer.Option(help="Share of the last depth's quality that an exit keeps.")] = 0.95,
    overwrite: Overwrite = False,
) -> None:
    """Try every depth at generation, multiple choice and embeddings; say which is best for what."""
    import pandas as pd

    from mcr_lens.prompts.batches import check_number
    from mcr_lens.prompts.files import check_source

    if options.text is None and options.choices is None and options.labelled is None:
        raise InputError("nothing to do: give some of --text, --choices and --labelled")
    if options.text is not None:
        check_source(options.text, ".txt")
        check_number("--n", options.n, 1, "ask for at least one document")
    if options.labelled is not None:
        check_source(options.labelled)
        check_number("--n-labelled", options.n_labelled, 1, "ask for at least one text")
    if not 0 < keep <= 1:
        raise InputError(f"--keep {keep}: use a share above 0 and up to 1, such as 0.95")
    check_folder(out, FILES, overwrite)
    tuned = None if options.translators is None else mcr.hooks.Translators.load(options.translators)
    loaded = model.load()
    results: dict[str, Any] = {}
    uses: list[mcr.experiments.Use] = []
    try:
        for name, result in _results(loaded, options, tuned, run.settings()):
            results[name] = result
            uses += result.uses(options.metric) if name == "choices.nc" else result.uses()
        quality, best = mcr.tasks.quality_by_depth(uses), mcr.tasks.best_depth(uses, keep)
    except InputError as error:  # a later part, or depths that nothing can be said of
        if not results:
            raise
        with appearing_together(out.expanduser(), list(results)) as partial:
            _save(results, partial)
        raise InputError(f"{error}; what was measured is saved in {out}: {', '.join(results)}") from error
    with appearing_together(out.expanduser(), [*FILES[3:], *results]) as (table, best_table, figure, *rest):
        quality.to_csv(table, index=False)
        best.to_csv(best_table)
        mcr.viz.task_depth(quality).write_html(figure, include_plotlyjs=True)
        _save(results, rest)
    with showing(out):
        table = pd.DataFrame({use.name: use.curve() for use in uses}).rename_axis("depth")
        show_table("Quality by depth (accuracy, or loss in nats a token)", table)
        show_table(f"Best depth, and the first that keeps {keep:g} of the last", best.filter(list(_SHOWN)))
        show_text(f"saved in {out}: {', '.join([*results, *FILES[3:]])}")


def _save(results: "dict[str, mcr.results.Result]", paths: Sequence[Path]) -> None:
    for result, path in zip(results.values(), paths, strict=True):
        result.save(path)


def _results(
    model: "mcr.models.Model",
    options: TaskOptions,
    tuned: "mcr.hooks.Translators | None",
    settings: dict[str, Any],
) -> Iterator[tuple[str, Any]]:
    """The result of each part that was asked for, by file name, as soon as it is there."""
    from mcr_lens.experiments.tasks import read_documents

    if options.text is not None:
        where = {"config": options.text_config, "split": options.text_split}
        texts = read_documents(options.text, field=options.field, n=options.n, **where)
        tuning = {"translators": tuned, "max_tokens": options.window}
        yield "perplexity.nc", mcr.tasks.lens_perplexity(model, texts, **tuning, **settings)
    if options.choices is not None:
        answers = mcr.tasks.multiple_choice(
            model,
            options.choices.split(","),
            translators=tuned,
            num_fewshot=options.num_fewshot,
            limit=options.limit,
            include_path=options.include_path,
            batch_size=settings["batch_size"],
        )
        yield "choices.nc", answers
    if options.labelled is not None:
        named = {part: getattr(options, f"{part}_column") for part in ("text", "label", "group")}
        columns: Any = {part: int(name) if (name or "").isdecimal() else name for part, name in named.items()}
        labelled = mcr.prompts.load_labelled(
            options.labelled,
            model,
            **columns,
            n=options.n_labelled,
            seed=0,
            config=options.labelled_config,
            split=options.labelled_split,
        )
        yield "probes.nc", mcr.tasks.linear_probes(model, *labelled, groups=labelled.groups, **settings)
