"""``mcr-lens sweep``: a grid of profiles into a folder, resumed by the same command."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcr_lens.cli.options import check_is_folder
from mcr_lens.cli.show import show_text, showing
from mcr_lens.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("state", "model", "revision", "prompts", "arm")


@dataclass(frozen=True)
class RayOptions:
    """What several workers take."""

    workers: Annotated[int | None, typer.Option(help="Of ray: how many; as there is room for.")] = None
    address: Annotated[
        str | None,
        typer.Option(help="Of ray: HOST:PORT of a running cluster, or auto; else one starts here."),
    ] = None
    cpus_per_worker: Annotated[int | None, typer.Option(help="Of ray: cores, and PyTorch's threads; 1.")] = (
        None
    )
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="Of ray: a whole number or a part of one; 1 where there are GPUs.")
    ] = None
    shards: Annotated[
        int | None, typer.Option(help="Of ray: parts of each cell's prompts; as many as keep workers busy.")
    ] = None


def sweep(
    ray: RayOptions,
    grid: Annotated[Path, typer.Argument(help="TOML file of models, prompts and arms.")],
    out: Annotated[Path, typer.Option(help="Folder for one profile a cell, and records of failures.")],
    model: Annotated[
        list[str] | None, typer.Option(help="In place of the grid's models: NAME or NAME@REVISION.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="In place of the grid's prompts: a file, hf:NAME, made-up or library-code."),
    ] = None,
    field: Annotated[str | None, typer.Option(help="Column of --prompts that holds the text.")] = None,
    n: Annotated[int | None, typer.Option(help="Prompts of each set, in place of the grid's number.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Cut prompts to this many tokens.")] = None,
    engine: Annotated[
        str, typer.Option(help="local: one cell after another. ray: several workers, here or on a cluster.")
    ] = "local",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let models whose options ask for it run their code.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say what is done, failed and left.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the cells and their files.")] = False,
) -> None:
    """Profile every model x prompts x arm of a grid; a sweep that was stopped goes on where it was.

    Exit code 1 when cells have failed: the rest is done, and the same command tries them again.
    """
    from mcr_lens import sweeps

    check_is_folder(out)
    run_by = _engine(engine, _without_none(vars(ray)))
    # Models of the grid that others replace run nothing, whatever they ask for.
    trust_remote_code = trust_remote_code or bool(model)
    cells = sweeps.read_grid(grid, trust_remote_code=trust_remote_code)
    if model:
        cells = cells.with_models(model)
    if prompts is not None:
        cells = cells.with_prompts(prompts)
    changes = _without_none({"field": field, "n": n, "max_tokens": max_tokens})
    cells = replace(cells, prompts=tuple(replace(each, **changes) for each in cells.prompts))
    if status or dry_run:
        table = sweeps.sweep_status(cells, out)
        with showing(out):
            _show(table, with_files=dry_run)
            typer.echo(_counted(table))
        return
    try:
        table = sweeps.sweep(cells, out, run_by)
    except (KeyboardInterrupt, SystemExit) as error:
        table = sweeps.sweep_status(cells, out)
        typer.echo(f"mcr-lens: interrupted, {_counted(table)}; the same command goes on from here", err=True)
        # SIGTERM has a code of its own.
        code = error.code if isinstance(error, SystemExit) else 130
        raise typer.Exit(code if isinstance(code, int) else 1) from error
    with showing(out):
        _show(table)
        show_text(f"{_counted(table)}; saved in {out}: a profile a cell (mcr_lens.load)")
    failed = table[table.state == "failed"]
    if len(failed):
        first = failed.iloc[0]
        record = first.file.removesuffix(".nc") + ".error.json"
        typer.echo(
            f"mcr-lens: {len(failed)} of {len(table)} cells failed, the first of {first.error}; "
            f"its traceback is in {out / record}, and the same command tries again",
            err=True,
        )
        raise typer.Exit(1)


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _engine(name: str, of_ray: dict[str, Any]) -> Any:
    """What ``sweep`` takes."""
    from mcr_lens.sweeps import RayEngine
    from mcr_lens.sweeps.run import engine_of

    if name == "ray":
        return RayEngine(**of_ray)
    run_by = engine_of(name)
    if of_ray:
        options = ", ".join("--" + option.replace("_", "-") for option in of_ray)
        raise InputError(f"{options}: for --engine ray only; the engine is {name}")
    return run_by


def _show(table: "pd.DataFrame", with_files: bool = False) -> None:
    """A line a cell in columns of text, and under a failed one why."""
    columns = [name for name in _COLUMNS if any(table[name])] + (["file"] if with_files else [])
    widths = [max(map(len, (name, *table[name]))) for name in columns]
    rows = [columns, *table[columns].itertuples(index=False)]
    for row, error in zip(rows, ["", *table.error], strict=True):
        typer.echo("  ".join(map(str.ljust, row, widths)).rstrip())
        if error:
            show_text(error, "    ")


def _counted(table: "pd.DataFrame") -> str:
    counts = table.state.value_counts()
    parts = [f"{counts[state]} {state}" for state in ("done", "failed", "left") if state in counts]
    return f"{len(table)} cells: {', '.join(parts)}"
