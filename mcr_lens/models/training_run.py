"""Training checkpoints: the steps that a model was saved at, and how to load the model of each."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcr_lens.errors import InputError
from mcr_lens.models.backend import Model, checkpoint_labels
from mcr_lens.models.load import load_model
from mcr_lens.tiny import checkpoint_steps
from mcr_lens.validate import is_whole

__all__ = ["Checkpoint", "checkpoints"]

# How the published families name the revision of a step, by their names on the hub. What else TransformerLens
# knows keeps its checkpoints as files, which it loads by their number.
_REVISIONS = {"EleutherAI/pythia": "step{}", "stanford-crfm/": "checkpoint-{}"}
# Neighbours that "thinned" keeps are at least this factor apart: about two in an octave.
_FACTOR = 1.4

Source = str | Path | Sequence[str | Path] | Mapping[int, str | Path]
# What ``load_model`` is given for a step, and the options that say which.
Place = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """One step of a training run, not loaded yet.

    Attributes:
        step: optimizer step, or whatever number the source counts by (tokens, for some).
        source: what ``load_model`` is given.
        options: with what options, the revision among them.
    """

    step: int
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Model:
        """The model as it was at this step, by ``load_model``."""
        return load_model(self.source, **self.options)


def checkpoints(
    source: Source, steps: Sequence[int] | Literal["all", "thinned"] = "thinned", **options: Any
) -> list[Checkpoint]:
    """The checkpoints of a training run, in order of their steps.

    Args:
        source: ``"tiny"``; a name whose checkpoints TransformerLens knows (Pythia, stanford-crfm,
            NeelNanda); a name or folder of any other model together with nothing but ``steps`` that are
            revisions ``step<N>``; a list of local folders, the step being the last number in each name; or
            a mapping from step to a folder, or to a revision as ``"name@revision"``.
        steps: ``"all"``; ``"thinned"``: about two an octave, first and last among them; or those wanted.
        **options: for ``load_model``, the same for every step.

    Raises:
        InputError: for steps that there are not, folders without a number, or a name whose steps nobody
            knows.

    Example:
        >>> [checkpoint.step for checkpoint in checkpoints("tiny", [0, 512])]
        [0, 512]
    """
    if isinstance(steps, str):
        is_valid = steps in ("all", "thinned")
    else:
        is_valid = isinstance(steps, Iterable) and all(map(is_whole, steps))
    if not is_valid:
        raise InputError(f"steps {steps!r}: use 'all', 'thinned' or a list of whole numbers such as [0, 512]")
    places = _places(source, steps)
    if not places:
        raise InputError("no checkpoints: give at least one folder, or a mapping from steps to folders")
    every = sorted(places)
    selection = every if steps == "all" else _thinned(every) if steps == "thinned" else sorted({*steps})
    missing = [step for step in selection if step not in places]
    if missing or not selection:
        there = ", ".join(map(str, _thinned(every)))
        raise InputError(f"no checkpoint of step {', '.join(map(str, missing))}: there are {there} ...")
    return [Checkpoint(step, places[step][0], {**options, **places[step][1]}) for step in selection]


def _places(source: Source, steps: Sequence[int] | str) -> dict[int, Place]:
    """Every checkpoint of a source by its step."""
    if isinstance(source, Mapping):
        if wrong := [step for step in source if not is_whole(step)]:
            raise InputError(
                f"{wrong[0]!r} is no step: a mapping goes from whole numbers to folders or names"
            )
        return {int(step): _place(str(place)) for step, place in source.items()}
    if not isinstance(source, str | Path):
        if not isinstance(source, Iterable):
            raise InputError(
                f"checkpoints of {source!r}: give a name, folders, or a mapping from step to folder"
            )
        return _of_folders(map(Path, source))
    name, revision = str(source), "step{}"
    if name == "tiny":
        labels = checkpoint_steps()
    elif (folder := Path(name).expanduser()).is_dir():
        return _of_folders(inside for inside in folder.iterdir() if inside.is_dir())
    elif (published := checkpoint_labels(name)) is not None:
        official, labels = published
        revision = next((form for prefix, form in _REVISIONS.items() if official.startswith(prefix)), None)
    elif isinstance(steps, str):
        raise InputError(
            f"{name}: TransformerLens knows no checkpoints of it; give steps=[...] (revisions step<N>), "
            "or a mapping from steps to 'name@revision' or folders"
        )
    else:
        labels = steps
    if revision is None:
        return {step: (name, {"checkpoint_value": step}) for step in labels}
    return {step: (name, {"revision": revision.format(step)}) for step in labels}


def _place(place: str) -> Place:
    """``name@revision``, a name, or a folder."""
    name, at, revision = place.rpartition("@")
    is_revision = at and not Path(place).expanduser().exists()
    return (name, {"revision": revision}) if is_revision else (place, {})


def _of_folders(folders: Iterable[Path]) -> dict[int, Place]:
    """Folders by the last number in their names."""
    places: dict[int, Place] = {}
    for folder in folders:
        numbers = re.findall(r"\d+", folder.name)
        if not numbers:
            raise InputError(f"{folder}: no step in the folder's name; give a mapping from steps to folders")
        step = int(numbers[-1])
        if step in places:
            raise InputError(f"{folder} and {places[step][0]} are both of step {step}: give a mapping")
        places[step] = (str(folder), {})
    return places


def _thinned(steps: Sequence[int]) -> list[int]:
    """First, last, and between them none closer than a factor."""
    thinned = list(steps[:1])
    for step in steps[1:]:
        if step >= _FACTOR * thinned[-1] or step == steps[-1]:
            thinned.append(step)
    return thinned
