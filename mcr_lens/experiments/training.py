"""The profile along training checkpoints: one file a step, one model in memory at a time."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from mcr_lens.engine import profile
from mcr_lens.errors import InputError, warnings_about
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.models.training_run import Checkpoint, Source, checkpoints
from mcr_lens.prompts import Prompts
from mcr_lens.results import Profile, check_place

__all__ = ["profile_training"]


def profile_training(
    source: Source,
    prompts: Prompts,
    steps: Sequence[int] | Literal["all", "thinned"] = "thinned",
    *,
    out: str | Path | None = None,
    batch_size: int | Literal["auto"] = "auto",
    chunk: int | Literal["auto"] | None = None,
    estimator: Estimator = Estimator(),  # noqa: B008  (frozen)
    sink_position: int = 0,
    progress: bool = True,
    **options: Any,
) -> Profile:
    """Profile every checkpoint of a training run on the same prompts.

    Each checkpoint is freed before the next is loaded. With ``out`` every step becomes a file there,
    written when it is complete; steps whose file is there are read, not measured again, so that a run that
    was stopped goes on where it was, and further steps can be added.

    Args:
        source: ``"tiny"``, a Pythia or stanford-crfm name, a folder or list of folders, or a mapping from
            step to folder or ``"name@revision"``; see ``mcr_lens.models.checkpoints``.
        prompts: tokenised with the tokenizer of any of the checkpoints: they share one.
        steps: ``"all"``, ``"thinned"`` (about two an octave), or those wanted.
        out: folder for one netCDF file a step.
        **options: for ``load_model``: ``backend``, ``dtype``, ``device``, ...

    Returns:
        A profile with one more dimension, ``step``; ``mcr_lens.experiments.appearance`` says when what
        appeared.

    Raises:
        InputError: as ``checkpoints`` and ``profile``; when a file in ``out`` is of another run.

    Example:
        >>> import mcr_lens as mcr
        >>> prompts = mcr.load_prompts(mcr.prompts.word_problems(2), mcr.load_model("tiny"))
        >>> run = profile_training("tiny", prompts, [0, 20000], progress=False)
        >>> first, last = run["norm_ratio"].mean("prompt").max("depth").values
        >>> bool(last > 5 * first)
        True
    """
    found = checkpoints(source, steps, **options)
    settings = {"estimator": estimator, "sink_position": sink_position}
    wanted = {
        "prompts": prompts.attributes(),
        "estimator": estimator.as_dict(),
        "sink_position": sink_position,
    }
    profiles = []
    bar = tqdm(found, desc="training", unit="step", disable=None if progress else True)
    for checkpoint in bar:
        bar.set_postfix_str(f"step {checkpoint.step}")
        path = None if out is None else Path(out).expanduser() / f"step_{checkpoint.step}.nc"
        if path is not None and path.is_file():
            measured = _finished(path, wanted | _identity(checkpoint))
        else:
            if path is not None:
                check_place(path, is_result=True)
            measured = _measured(checkpoint, prompts, settings | {"batch_size": batch_size, "chunk": chunk})
            if path is not None:
                measured.save(path)
        profiles.append(measured)
    return Profile.concat(profiles, "step", [checkpoint.step for checkpoint in found])


def _measured(checkpoint: Checkpoint, prompts: Prompts, settings: dict[str, Any]) -> Profile:
    """The profile of one checkpoint, whose model is gone when this returns."""
    model = checkpoint.load()
    with warnings_about(f"step {checkpoint.step}"):
        measured = profile(model, prompts, progress=False, **settings)
    measured.data.attrs |= _identity(checkpoint)
    del model
    # Hooks and modules refer to each other: only the collector frees them.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return measured


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    options = {name: str(value) for name, value in checkpoint.options.items()}
    return {"checkpoint": {"step": checkpoint.step, "source": checkpoint.source, "options": options}}


def _finished(path: Path, wanted: dict[str, Any]) -> Profile:
    """A step that an earlier run has measured, if it is of this run."""
    found = Profile.load(path)
    differ = [name for name, value in wanted.items() if found.data.attrs.get(name) != value]
    if differ:
        raise InputError(
            f"{path}: there already, of another run ({', '.join(differ)} differ); choose another folder"
        )
    return found
