"""From saved files to runs: what a file or folder holds, and a short name to call it by."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import xarray as xr

from mcr_lens.errors import InputError, one_line
from mcr_lens.experiments.study import AblationStudy
from mcr_lens.experiments.tasks.best_depth import best_depth, quality_by_depth
from mcr_lens.experiments.tasks.uses import choice_uses, perplexity_use, probe_uses
from mcr_lens.not_finite import not_finite_note
from mcr_lens.results import Profile, load_dataset
from mcr_lens.viz.report_page.safe import plain

__all__ = ["Kind", "Result", "Run", "Tasks", "read_runs", "whole"]

Kind = Literal["profile", "study", "lens", "patching", "training", "tasks"]
Result = str | Path | Profile | AblationStudy | xr.Dataset

_MOST = 24
_LONGEST_LABEL = 36
_NUMBERS = ("depth", "quality", "low", "high", "kept")


@dataclass(frozen=True)
class Tasks:
    """Quality by depth and the best depths, as ``mcr-lens tasks`` writes them."""

    quality: pd.DataFrame
    best: pd.DataFrame


@dataclass(frozen=True)
class Run:
    """One saved result.

    Attributes:
        label: short, made of the model's name; different for every run of a report and kind.
        source: the file or folder, by its name alone; "in memory" for what was never saved.
        attributes: how it was made.
        broken: a sentence about states that hold Inf or NaN, a file with such states.
    """

    kind: Kind
    label: str
    source: str
    data: Any
    attributes: Mapping[str, Any]
    broken: Sequence[str] = ()


def read_runs(results: Sequence[Result]) -> list[Run]:
    """The runs in files, in folders of files or in memory, in the order given.

    Raises:
        InputError: for what is missing, foreign or broken, a folder without results, or more than 24 runs.
    """
    runs = [run for result in results for run in _read(result)]
    if not runs:
        raise InputError("nothing to report: give saved results, such as demo.nc or the folder of a study")
    if len(runs) > _MOST:
        raise InputError(f"{len(runs)} runs: a report holds up to {_MOST}, choose some of them")
    return _told_apart(runs)


@contextlib.contextmanager
def whole(source: str) -> Iterator[None]:
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


def _read(result: Result) -> list[Run]:
    if isinstance(result, Profile | AblationStudy):
        return _of_dataset(result.data, "in memory")
    if isinstance(result, xr.Dataset):
        return _of_dataset(result, "in memory")
    if not isinstance(result, str | Path):
        raise InputError(f"a {type(result).__name__} is no result: give a saved file or folder, or a Profile")
    path = Path(result).expanduser()
    if not path.is_dir():
        return _of_dataset(load_dataset(path), plain(path.name))
    name = plain(path.resolve().name)
    if (path / "study.nc").is_file():
        return _of_dataset(load_dataset(path / "study.nc"), name)
    if (path / "quality.csv").is_file():
        return [_of_tables(path, name)]
    steps = sorted(path.glob("step_*.nc"))
    if steps:
        return [_of_steps(steps, name)]
    # The folder of a sweep, or one in which somebody gathered results.
    files = sorted(file for file in path.glob("*.nc") if not file.name.startswith("."))
    if not files:
        raise InputError(f"{name}: no results in this folder (*.nc, quality.csv)")
    if len(files) > _MOST:
        raise InputError(
            f"{name}: {len(files)} results, a report holds up to {_MOST}; name some of the files"
        )
    return [run for file in files for run in _of_dataset(load_dataset(file), plain(file.name))]


def _of_dataset(data: xr.Dataset, source: str) -> list[Run]:
    """What a dataset is, from its dimensions and variables."""
    dims = set(data.dims)
    with whole(source):
        if {"arm", "dose", "prompt", "depth"} <= dims:
            return [_run("study", data, source, AblationStudy(data))]
        if {"recovered", "lost"} & set(data.data_vars) and "layer" in dims:
            return [_run("patching", data, source, data)]
        if {"prompt", "depth"} <= dims and "norm_ratio" in data:
            return _of_profile(data, source)
        uses = _uses(data)
        if uses:
            return [_run("tasks", data, source, Tasks(quality_by_depth(uses), best_depth(uses)))]
        if {"prompt", "depth"} <= dims and "lens_loss" in data:
            return [_run("lens", data, source, data)]
    raise InputError(
        f"{source}: no result that a report knows; it takes profiles, ablation studies, lenses, patching "
        "sweeps, folders of mcr-lens training and of mcr-lens tasks"
    )


def _of_profile(data: xr.Dataset, source: str) -> list[Run]:
    """A training run, the single profiles of a stack, or the one that there is."""
    if "step" in data.dims:
        return [_run("training", data, source, Profile(data))]
    for dim in ("model", "arm"):
        if dim in data.dims:
            members = data.attrs.get("members") or [data.attrs] * data.sizes[dim]
            parts = []
            for place, label in enumerate(data[dim].values):
                part = data.isel({dim: place}, drop=True)
                # Models of fewer layers were padded.
                part = part.dropna("depth", how="all", subset=["norm_ratio"])
                if "sink_score" in part:
                    part = part.dropna("layer", how="all", subset=["sink_score"])
                    part = part.dropna("head", how="all", subset=["sink_score"])
                part.attrs = dict(members[place])
                run = _run("profile", part, source, Profile(part))
                parts.append(replace(run, label=plain(label, _LONGEST_LABEL)))
            return parts
    return [_run("profile", data, source, Profile(data))]


def _of_steps(files: Sequence[Path], source: str) -> Run:
    """A folder of ``mcr-lens training``: a profile a step."""
    parts = [Profile(load_dataset(file)) for file in files]
    with whole(source):
        numbered = sorted(
            ((int(file.stem.removeprefix("step_")), part) for file, part in zip(files, parts, strict=True)),
            key=lambda pair: pair[0],
        )
        run = Profile.concat([part for _, part in numbered], "step", [step for step, _ in numbered])
        made = dict(numbered[-1][1].data.attrs) | {"revision": None}
        return _run("training", run.data.assign_attrs(made), source, run)


def _of_tables(folder: Path, source: str) -> Run:
    """A folder of ``mcr-lens tasks``: two tables, and the results that say how they were made."""
    with whole(source):
        quality = pd.read_csv(folder / "quality.csv")
        best = pd.read_csv(folder / "best_depth.csv", index_col="use")
        quality[list(_NUMBERS)] = quality[list(_NUMBERS)].astype(float)
        whole_depth = quality["depth"].astype(int)
        quality["depth"] = whole_depth
        # Depths are whole numbers, also where one is missing.
        for name in best.columns.intersection(["exit_depth", "exit_low", "exit_high", "blocks_saved"]):
            best[name] = best[name].astype(float).astype("Int64")
    made = [file for file in sorted(folder.glob("*.nc")) if not file.name.startswith(".")]
    parts = {file.name: load_dataset(file) for file in made}
    empty = xr.Dataset(attrs=next(iter(parts.values())).attrs if parts else {})
    run = _run("tasks", empty, source, Tasks(quality, best))
    notes = {name: not_finite_note(part, part.attrs.get("dtype")) for name, part in parts.items()}
    return replace(run, broken=[f"{plain(name)}: {note}" for name, note in notes.items() if note])


def _uses(data: xr.Dataset) -> list[Any]:
    """What the single results of a folder of tasks are uses of; none for other results."""
    if {"correct", "majority_correct"} <= set(data.data_vars):
        return probe_uses(data)
    if "document" in data.dims and "acc" in data:
        return choice_uses(data)
    if "document" in data.coords and "lens_loss" in data:
        return [perplexity_use(data)]
    return []


def _run(kind: Kind, data: xr.Dataset, source: str, content: Any) -> Run:
    attributes = data.attrs
    model = str(attributes.get("model") or "a model")
    # Of a folder its name; names on a hub have one slash and are no path.
    short = model if model.count("/") == 1 and not model.startswith(("/", ".", "~")) else Path(model).name
    step = attributes.get("checkpoint")
    revision = attributes.get("revision")
    if revision is None and isinstance(step, Mapping) and kind == "profile":
        revision = f"step{step.get('step')}"
    label = f"{short or model}@{revision}" if revision else short or model
    note = not_finite_note(data, attributes.get("dtype"))
    return Run(kind, plain(label, _LONGEST_LABEL), source, content, attributes, [note] if note else [])


def _told_apart(runs: list[Run]) -> list[Run]:
    """Labels that several runs share get what differs: interventions, the file, at last a number."""
    named = runs
    for extra in (_edit, _prompts, lambda run: Path(run.source).stem, None):
        counts = Counter((run.kind, run.label) for run in named)
        seen: Counter[tuple[str, str]] = Counter()
        told = []
        for run in named:
            key = (run.kind, run.label)
            seen[key] += 1
            if counts[key] > 1:
                more = str(seen[key]) if extra is None else plain(extra(run), 24)
                run = replace(run, label=f"{run.label} ({more})" if more else run.label)
            told.append(run)
        # What is the same for all of them tells nothing apart.
        if extra is None or len({(run.kind, run.label) for run in told}) > len(counts):
            named = told
    return named


def _edit(run: Run) -> str:
    edits = run.attributes.get("interventions")
    return str(edits[0]) if isinstance(edits, list) and edits else ""


def _prompts(run: Run) -> str:
    prompts = run.attributes.get("prompts")
    return str(prompts.get("source", "")) if isinstance(prompts, Mapping) else ""
