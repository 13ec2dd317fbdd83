"""From saved files to runs: what a file or folder holds, and a short name to call it by."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import xarray as xr

from mcr_lens.errors import InputError, one_line
from mcr_lens.results import Profile, Result, as_result, load
from mcr_lens.viz._report.html import plain

Source: TypeAlias = "str | Path | Result | xr.Dataset"

_MOST = 24
_LONGEST_LABEL = 36
_TASKS = ("lens perplexity", "multiple choice", "linear probes")
_KINDS = ("profile", "ablation study", "lens", "activation patching", "training", "tasks")


@dataclass(frozen=True)
class Run:
    """One saved result.

    Attributes:
        kind: that of the result; ``"training"`` of profiles by step, ``"tasks"`` of tables of qualities.
        label: short, made of the model's name; different for every run of a report and kind.
        source: the file or folder, by its name alone; "in memory" for what was never saved.
        content: the result; of tasks the tables of qualities and of best depths.
        attributes: how it was made.
        caveats: what to beware of, one sentence each.
    """

    kind: str
    label: str
    source: str
    content: Any
    attributes: Mapping[str, Any]
    caveats: Sequence[str] = ()


def gather(sources: Source | Sequence[Source]) -> list[Run]:
    """The runs in files, in folders of files or in memory, in this order.

    Raises:
        InputError: for what is missing, foreign or broken, a result that is named twice, a folder without
            results, or more than 24 runs.
    """
    several = list(sources) if isinstance(sources, list | tuple) else [sources]
    paths = [Path(source).expanduser().resolve() for source in several if isinstance(source, str | Path)]
    if twice := [path for path, n in Counter(paths).items() if n > 1]:
        raise InputError(f"{plain(twice[0].name)}: given twice; name each result once")
    runs = [run for source in several for run in _read(source)]
    if not runs:
        raise InputError("nothing to report: give saved results, such as demo.nc or the folder of a study")
    if len(runs) > _MOST:
        raise InputError(f"{len(runs)} runs: a report holds up to {_MOST}, choose some of them")
    return _with_own_labels(runs)


@contextlib.contextmanager
def naming(source: str) -> Iterator[None]:
    """Around all that reads a result: one line that names the file, whatever is wrong inside."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if source in text else f"{source}: {text}") from error
    except MemoryError:
        raise
    except Exception as error:  # a foreign file makes the libraries raise what they like
        reason = plain(one_line(error), 120)
        raise InputError(
            f"{source}: not a whole result ({type(error).__name__}: {reason}); save it again with mcr-lens"
        ) from error


def _read(source: Any) -> list[Run]:
    if isinstance(source, Result | xr.Dataset):
        with naming("in memory"):
            return _runs(source if isinstance(source, Result) else as_result(source), "in memory")
    if not isinstance(source, str | Path):
        raise InputError(f"a {type(source).__name__} is no result: give a saved file or folder, or a Profile")
    path = Path(source).expanduser()
    if not path.is_dir():
        return _of_file(path, plain(path.name))
    name = plain(path.resolve().name)
    files = sorted(file for file in path.glob("*.nc") if not file.name.startswith("."))
    if (path / "quality.csv").is_file():
        return [_tasks(path, files, name)]
    if not files:
        raise InputError(f"{name}: no results in this folder (*.nc, quality.csv)")
    if steps := [file for file in files if file.name.startswith("step_")]:
        return [_training(steps, name)]
    if len(files) > _MOST:
        raise InputError(f"{name}: {len(files)} results, a report holds up to {_MOST}; name some of them")
    called = {file: name if file.name == "study.nc" else plain(file.name) for file in files}
    return [run for file in files for run in _of_file(file, called[file])]


def _of_file(path: Path, name: str) -> list[Run]:
    with naming(name):
        return _runs(load(path), name)


def _runs(result: Result, source: str) -> list[Run]:
    """One run; the single profiles of a stack; the tables of what the depths were tried at."""
    if isinstance(result, Profile) and result.is_stacked:
        if "step" in result.data.dims:
            return [_run("training", result, source)]
        return _stacked(result.data, "model" if "model" in result.data.dims else "arm", source)
    if result.kind in _TASKS:
        from mcr_lens.experiments import best_depth, quality_by_depth

        uses = result.uses()  # type: ignore[attr-defined]
        return [replace(_run("tasks", result, source), content=(quality_by_depth(uses), best_depth(uses)))]
    if result.kind not in _KINDS:
        raise InputError(
            f"{source}: no result that a report knows; it takes profiles, ablation studies, lenses, patching "
            "sweeps, folders of mcr-lens training and of mcr-lens tasks"
        )
    return [_run(result.kind, result, source)]


def _stacked(data: xr.Dataset, dim: str, source: str) -> list[Run]:
    """The single profiles of a stack."""
    members = data.attrs.get("members") or [data.attrs] * data.sizes[dim]
    runs = []
    for i, label in enumerate(data[dim].values):
        part = data.isel({dim: i}, drop=True).assign_attrs(members[i])
        # Models of fewer layers were padded.
        part = part.dropna("depth", how="all", subset=["norm_ratio"])
        for padded in ("layer", "head") if "sink_score" in part else ():
            part = part.dropna(padded, how="all", subset=["sink_score"])
        runs.append(replace(_run("profile", Profile(part), source), label=plain(label, _LONGEST_LABEL)))
    return runs


def _training(files: Sequence[Path], source: str) -> Run:
    """A folder of ``mcr-lens training``: a profile per step."""
    with naming(source):
        profiles = {int(file.stem.removeprefix("step_")): Profile.load(file) for file in files}
        steps = sorted(profiles)
        run = Profile.concat([profiles[step] for step in steps], "step", steps)
        run.data.attrs = profiles[steps[-1]].data.attrs | {"revision": None}
        return _run("training", run, source)


def _tasks(folder: Path, files: Sequence[Path], source: str) -> Run:
    """A folder of ``mcr-lens tasks``: two tables, and the results that say how they were made."""
    with naming(source):
        quality = pd.read_csv(folder / "quality.csv")
        best = pd.read_csv(folder / "best_depth.csv", index_col="use")
        quality = quality.astype(dict.fromkeys(("quality", "low", "high"), float) | {"depth": int})
        # Depths are whole numbers, also where one is missing.
        exits = best.columns.intersection(["exit_depth", "exit_low", "exit_high"])
        best = best.astype(dict.fromkeys(exits, float)).astype(dict.fromkeys(exits, "Int64"))
        parts = {file.name: load(file) for file in files}
        first = next(iter(parts.values()), Result(xr.Dataset()))
        notes = [f"{plain(name)}: {note}" for name, part in parts.items() for note in part.caveats()]
        return replace(_run("tasks", first, source), content=(quality, best), caveats=notes)


def _run(kind: str, result: Result, source: str) -> Run:
    attributes = result.data.attrs
    model = str(attributes.get("model") or "a model")
    # Of a folder its name; names on a hub have one slash and are no path.
    short = model if model.count("/") == 1 and not model.startswith(("/", ".", "~")) else Path(model).name
    revision, checkpoint = attributes.get("revision"), attributes.get("checkpoint")
    if revision is None and isinstance(checkpoint, Mapping) and kind == "profile":
        revision = f"step{checkpoint.get('step')}"
    label = f"{short or model}@{revision}" if revision else short or model
    return Run(kind, plain(label, _LONGEST_LABEL), source, result, attributes, result.caveats())


def _with_own_labels(runs: list[Run]) -> list[Run]:
    """Labels that several runs of a kind share get what tells them apart; at last a number."""
    counts = Counter((run.kind, run.label) for run in runs)
    numbers = [str(i) for i in range(1, len(runs) + 1)]
    edits = [str(edits[0]) if (edits := run.attributes.get("interventions")) else "" for run in runs]
    prompts = [str(dict(run.attributes.get("prompts") or {}).get("source", "")) for run in runs]
    for extras in (edits, prompts, [Path(run.source).stem for run in runs], numbers):
        labels = [
            f"{run.label} ({plain(extra, 24)})" if counts[run.kind, run.label] > 1 and extra else run.label
            for run, extra in zip(runs, extras, strict=True)
        ]
        if len({(run.kind, label) for run, label in zip(runs, labels, strict=True)}) == len(runs):
            break
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]
