"""The profile along training checkpoints: a sweep with a cell and a file for each step."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mcr_lens.errors import InputError
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.models import Model
from mcr_lens.models.training_run import Checkpoint, Source, checkpoints
from mcr_lens.prompts import Prompts
from mcr_lens.results import Profile
from mcr_lens.sweeps import Cell, ResultFolder, SweepArm, SweepModel, SweepPrompts
from mcr_lens.sweeps.run import run_local

__all__ = ["profile_training"]


@dataclass(frozen=True, kw_only=True)
class _Step(Cell):
    """A checkpoint with prompts that are tokenised already; its file is named after the step."""

    checkpoint: Checkpoint
    tokens: Prompts
    attribute: ClassVar[str] = "checkpoint"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"step_{self.checkpoint.step}"

    def load_model(self) -> Model:
        return self.checkpoint.load()

    def load_prompts(self, model: Model) -> Prompts:
        return self.tokens

    def settings(self) -> dict[str, Any]:
        return {
            "step": self.checkpoint.step,
            "source": self.checkpoint.source,
            "options": {name: str(value) for name, value in self.checkpoint.options.items()},
            "prompts": self.tokens.attributes(),
            "estimator": self.estimator.as_dict(),
            "sink_position": self.sink_position,
        }


class _StepFolder(ResultFolder):
    """The folder of a training run, which the first failure ends."""

    def record(self, cell: Cell, error: Exception) -> None:
        raise error

    def check(self, step: _Step) -> None:
        """Raise ``InputError`` where the file of a finished step is of another run."""
        earlier = self.result(step).data.attrs.get(step.attribute, {})
        differing = [name for name, value in step.settings().items() if earlier.get(name) != value]
        if differing:
            raise InputError(
                f"{self.result_path(step)}: there already, of another run ({', '.join(differing)} differ); "
                "choose another folder"
            )


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

    This is a sweep (``mcr_lens.sweeps``) over checkpoints: each is freed before the next is loaded. With
    ``out`` every step becomes a file there, written when it is complete; steps whose file is there are read,
    not measured again, so that a run that was stopped goes on where it was, and further steps can be added.
    The first error ends the run.

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
    steps_of_run = [
        _Step(
            SweepModel(checkpoint.source, batch_size=batch_size, chunk=chunk),
            f"step {checkpoint.step}",
            SweepPrompts("tokens"),
            SweepArm(),
            sink_position,
            estimator,
            checkpoint=checkpoint,
            tokens=prompts,
        )
        for checkpoint in checkpoints(source, steps, **options)
    ]
    with contextlib.nullcontext(out) if out is not None else tempfile.TemporaryDirectory() as place:
        folder = _StepFolder(place)
        folder.prepare(steps_of_run)
        for step in filter(folder.is_done, steps_of_run):
            folder.check(step)
        run_local(steps_of_run, folder, progress)
        folder.clean(steps_of_run)
        profiles = list(map(folder.result, steps_of_run))
    return Profile.concat(profiles, "step", [step.checkpoint.step for step in steps_of_run])
