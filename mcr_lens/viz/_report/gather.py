"""From saved files to runs: what a file or folder holds, and a short name to call it by."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pandas as pd
import xarray as xr

from mcr_lens.errors import InputError, one_line
from mcr_lens.not_finite import not_finite_note
from mcr_lens.results import Profile, load_dataset
from mcr_lens.viz._report.html import plain

if TYPE_CHECKING:
    from mcr_lens.experiments import AblationStudy

__all__ = ["Result", "Run", "gather", "naming"]

Kind = Literal["profile", "study", "lens", "patching", "training", "tasks"]
Result: TypeAlias = "str | Path | Profile | AblationStudy | xr.Dataset"

_MOST = 24
_LONGEST_LABEL = 36


@dataclass(frozen=True)
class Run:
    """One saved result.

    Attributes:
        label: short, made of the model's name; different for every run of a report and kind.
        source: the file or folder, by its name alone; "in memory" for what was never saved.
        content: the profile, study or dataset; of tasks the tables of qualities and of best depths.
        attributes: how it was made.
        cautions: sentences about states that hold Inf or NaN.
    """

    kind: Kind
    label: str
    source: str
    content: Any
    attributes: Mapping[str, Any]
    cautions: Sequence[str] = ()


def gather(results: Result | Sequence[Result]) -> list[Run]:
    """The runs in files, in folders of files or in memory, in this order.

    Raises:
        InputError: for what is missing, foreign or broken, a result that is named twice, a folder without
            results, or more than 24 runs.
    """
    several = list(results) if isinstance(results, list | tuple) else [results]
    paths = [Path(result).expanduser().resolve() for result in several if isinstance(result, str | Path)]
    for path, count in Counter(paths).items():
        if count > 1:
            raise InputError(f"{plain(path.name)}: given twice; name each result once")
    runs = [run for result in several for run in _read(result)]
    if not runs:
        raise InputError("nothing to report: give saved results, such as demo.nc or the folder of a study")
    if len(runs) > _MOST:
        raise InputError(f"{len(runs)} runs: a report holds up to {_MOST}, choose some of them")
    return _told_apart(runs)


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


def _read(result: Any) -> list[Run]:
    data = result if isinstance(result, xr.Dataset) else getattr(result, "data", None)
    if isinstance(data, xr.Dataset):
        return _runs(data, "in memory")
    if not isinstance(result, str | Path):
        raise InputError(f"a {type(result).__name__} is no result: give a saved file or folder, or a Profile")
    path = Path(result).expanduser()
    if not path.is_dir():
        return _runs(load_dataset(path), plain(path.name))
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
    return [run for file in files for run in _runs(load_dataset(file), called[file])]


def _runs(data: xr.Dataset, source: str) -> list[Run]:
    """What a dataset is, from its dimensions and variables; a stack of profiles is several."""
    from mcr_lens.experiments import AblationStudy, PatchingResult, best_depth, quality_by_depth

    dims = set(data.dims)
    with naming(source):
        if {"arm", "dose", "prompt", "depth"} <= dims:
            return [_run("study", data, source, AblationStudy(data))]
        if {"recovered", "lost"} & set(data.data_vars) and "layer" in dims:
            return [_run("patching", data, source, PatchingResult(data))]
        if {"prompt", "depth"} <= dims and "norm_ratio" in data:
            if "step" in dims:
                return [_run("training", data, source, Profile(data))]
            stacked = next((dim for dim in ("model", "arm") if dim in dims), None)
            return (
                _stacked(data, stacked, source) if stacked else [_run("profile", data, source, Profile(data))]
            )
        if uses := _uses(data):
            return [_run("tasks", data, source, (quality_by_depth(uses), best_depth(uses)))]
        if {"prompt", "depth"} <= dims and "lens_loss" in data:
            return [_run("lens", data, source, data)]
    raise InputError(
        f"{source}: no result that a report knows; it takes profiles, ablation studies, lenses, patching "
        "sweeps, folders of mcr-lens training and of mcr-lens tasks"
    )


def _stacked(data: xr.Dataset, dim: str, source: str) -> list[Run]:
    """The single profiles of a stack."""
    members = data.attrs.get("members") or [data.attrs] * data.sizes[dim]
    runs = []
    for i, label in enumerate(data[dim].values):
        part = data.isel({dim: i}, drop=True).assign_attrs(members[i])
        # Models of fewer layers were padded.
        part = part.dropna("depth", how="all", subset=["norm_ratio"])
        for padded in ("layer", "head"):
            if "sink_score" in part:
                part = part.dropna(padded, how="all", subset=["sink_score"])
        runs.append(replace(_run("profile", part, source, Profile(part)), label=plain(label, _LONGEST_LABEL)))
    return runs


def _training(files: Sequence[Path], source: str) -> Run:
    """A folder of ``mcr-lens training``: a profile per step."""
    with naming(source):
        profiles = {int(file.stem.removeprefix("step_")): Profile(load_dataset(file)) for file in files}
        steps = sorted(profiles)
        run = Profile.concat([profiles[step] for step in steps], "step", steps)
        last = profiles[steps[-1]].data.attrs | {"revision": None}
        return _run("training", run.data.assign_attrs(last), source, run)


def _tasks(folder: Path, files: Sequence[Path], source: str) -> Run:
    """A folder of ``mcr-lens tasks``: two tables, and the results that say how they were made."""
    with naming(source):
        quality = pd.read_csv(folder / "quality.csv")
        best = pd.read_csv(folder / "best_depth.csv", index_col="use")
        quality = quality.astype(dict.fromkeys(("quality", "low", "high"), float) | {"depth": int})
        # Depths are whole numbers, also where one is missing.
        exits = best.columns.intersection(["exit_depth", "exit_low", "exit_high"])
        best = best.astype(dict.fromkeys(exits, float)).astype(dict.fromkeys(exits, "Int64"))
        parts = {file.name: load_dataset(file) for file in files}
        attributes = next((part.attrs for part in parts.values()), {})
        run = _run("tasks", xr.Dataset(attrs=attributes), source, (quality, best))
    notes = {name: not_finite_note(part, part.attrs.get("dtype")) for name, part in parts.items()}
    return replace(run, cautions=[f"{plain(name)}: {note}" for name, note in notes.items() if note])


def _uses(data: xr.Dataset) -> list[Any]:
    """What the single results of a folder of tasks are uses of; none for other results."""
    from mcr_lens.experiments import ChoiceResult, PerplexityResult, ProbeResult

    if {"correct", "majority_correct"} <= set(data.data_vars):
        return ProbeResult(data).uses()
    if "document" in data.dims and "acc" in data:
        return ChoiceResult(data).uses()
    if "document" in data.coords and "lens_loss" in data:
        return PerplexityResult(data).uses()
    return []


def _run(kind: Kind, data: xr.Dataset, source: str, content: Any) -> Run:
    attributes = data.attrs
    model = str(attributes.get("model") or "a model")
    # Of a folder its name; names on a hub have one slash and are no path.
    short = model if model.count("/") == 1 and not model.startswith(("/", ".", "~")) else Path(model).name
    revision, checkpoint = attributes.get("revision"), attributes.get("checkpoint")
    if revision is None and isinstance(checkpoint, Mapping) and kind == "profile":
        revision = f"step{checkpoint.get('step')}"
    label = f"{short or model}@{revision}" if revision else short or model
    note = not_finite_note(data, attributes.get("dtype"))
    return Run(kind, plain(label, _LONGEST_LABEL), source, content, attributes, [note] if note else [])


def _told_apart(runs: list[Run]) -> list[Run]:
    """Labels that several runs of a kind share get what tells them apart; at last a number."""
    counts = Counter((run.kind, run.label) for run in runs)
    for extra in (_edits, _prompts, lambda run: Path(run.source).stem, None):
        seen: Counter[tuple[str, str]] = Counter()
        labelled = []
        for run in runs:
            key = (run.kind, run.label)
            seen[key] += 1
            more = str(seen[key]) if extra is None else plain(extra(run), 24)
            several = counts[key] > 1 and more
            labelled.append(replace(run, label=f"{run.label} ({more})") if several else run)
        if len({(run.kind, run.label) for run in labelled}) == len(runs):
            return labelled
    return runs


def _edits(run: Run) -> str:
    edits = run.attributes.get("interventions")
    return str(edits[0]) if isinstance(edits, list) and edits else ""


def _prompts(run: Run) -> str:
    prompts = run.attributes.get("prompts")
    return str(prompts.get("source", "")) if isinstance(prompts, Mapping) else ""
