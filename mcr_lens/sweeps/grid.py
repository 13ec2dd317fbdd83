"""A grid: models x prompts x arms, as frozen tables that refuse what cannot be run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mcr_lens.errors import InputError
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.models import Model, load_model
from mcr_lens.prompts import Prompts, library_code, load_prompts, word_problems
from mcr_lens.sweeps.arms import SweepArm
from mcr_lens.sweeps.fields import Count, Several, Text, table, table_of
from mcr_lens.validate import plain_path

__all__ = ["BUNDLED", "Grid", "SweepModel", "SweepPrompts"]

# Prompts that need no file.
BUNDLED = {"made-up": word_problems, "library-code": library_code}
_N_BUNDLED = 64
# Arguments of ``load_model`` that are not among a model's options.
_FIELDS_OF_LOADING = {"source", "backend", "revision", "dtype", "device", "device_map"}


@table
class SweepModel:
    """A model of a grid, how it is loaded (as by ``load_model``) and fed (as by ``profile``).

    Attributes:
        source: ``"tiny"``, a model name, or a Hugging Face folder.
        revisions: one cell for each; the default one when left out.
        options: more for the backend's own loader.
        name: what the model is called in tables and files; else the source.
    """

    source: Text
    revisions: Several[str] | None = None
    backend: Literal["auto", "hooked_transformer", "bridge"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    device_map: str | dict[str, Any] | None = None
    batch_size: Count | Literal["auto"] = "auto"
    chunk: Count | Literal["auto"] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    name: Text | None = None

    def __post_init__(self) -> None:
        if self.device_map is not None and self.backend == "hooked_transformer":
            raise InputError(f"{self.label}: device_map works through the bridge: backend = 'bridge'")
        revisions = list(self.revisions or ())
        for revision in revisions:
            if revisions.count(revision) > 1:
                raise InputError(f"{self.label}: revision {revision!r} stands there twice; leave one out")
        for name in _FIELDS_OF_LOADING & set(self.options):
            raise InputError(f"{self.label}: options.{name}: use the field of that name, or leave it out")

    @property
    def label(self) -> str:
        """What the model is called."""
        return self.name or (Path(self.source).name if Path(self.source).is_absolute() else self.source)

    def load(self, revision: str | None) -> Model:
        """The model of a revision; errors as ``load_model``."""
        options = {name: getattr(self, name) for name in ("backend", "dtype", "device", "device_map")}
        return load_model(self.source, revision=revision, **options, **self.options)


@table
class SweepPrompts:
    """A set of prompts of a grid, as ``load_prompts`` takes them.

    Attributes:
        source: a file, ``"hf:NAME"``, ``"made-up"`` (the bundled word problems) or ``"library-code"``
            (functions of Python's own library); of the last two 64 with seed 0, unless ``n`` and ``seed``
            say otherwise.
        name: what the set is called in tables and files; else made of the source.
    """

    source: Text
    field: str | None = None
    n: Count | None = None
    seed: int | None = None
    max_tokens: Count | None = None
    prepend_bos: bool | None = None
    config: str | None = None
    split: str | None = None
    name: Text | None = None

    def __post_init__(self) -> None:
        of_files = [name for name in ("field", "config", "split") if getattr(self, name) is not None]
        if self.source in BUNDLED and of_files:
            raise InputError(f"{self.label}: {', '.join(of_files)} is for files and data sets only")

    @property
    def label(self) -> str:
        """What the set is called."""
        return self.name or Path(self.source.removeprefix("hf:")).stem or self.source

    @property
    def file(self) -> Path | None:
        """The local file that the prompts are read from, if they are from one."""
        if self.source in BUNDLED or self.source.startswith("hf:"):
            return None
        path = plain_path(self.source)
        if os.path.exists(path) and not path.is_file():
            raise InputError(f"prompts {self.label}: {path} is not a file; give one, or 'hf:FOLDER'")
        return path

    @property
    def folder(self) -> Path | None:
        """The local folder of the data set that the prompts are read from, if they are from one."""
        path = plain_path(self.source.removeprefix("hf:"))
        return path if self.source.startswith("hf:") and os.path.isdir(path) else None

    def load(self, model: Model) -> Prompts:
        """The prompts in the model's tokens; errors as ``load_prompts``."""
        if self.source in BUNDLED:
            n, seed = self.n or _N_BUNDLED, self.seed or 0
            policy = {"max_tokens": self.max_tokens, "prepend_bos": self.prepend_bos}
            texts, source = BUNDLED[self.source](n, seed), f"{self.source}({n}, {seed})"
            return Prompts.from_texts(texts, model, source=source, **policy)
        options = asdict(self)
        del options["source"], options["name"]
        return load_prompts(self.source, model, **options)


@table
class _StrictEstimator(Estimator):
    """The same fields, of the types that they should have."""


def _estimator(**table: Any) -> Estimator:
    return Estimator(**asdict(_StrictEstimator(**table)))


@table
class Grid:
    """Every model x every set of prompts x every arm, one profile each.

    Attributes:
        sink_position: the token that is watched.
        estimator: how the matrix entropy is estimated.

    Raises:
        InputError: for an empty list, two entries of the same name or the same content, or settings that
            exclude each other.

    Example:
        >>> from mcr_lens.sweeps import Grid, SweepArm, SweepModel, SweepPrompts, cells
        >>> grid = Grid(
        ...     models=[SweepModel("tiny", revisions=["step0", "step512"])],
        ...     prompts=[SweepPrompts("made-up", n=8)],
        ...     arms=[SweepArm(), SweepArm("ablate_mlp_write", layers=[1])],
        ... )
        >>> len(cells(grid))
        4
    """

    models: Several[Annotated[SweepModel, table_of(SweepModel)]]
    prompts: Several[Annotated[SweepPrompts, table_of(SweepPrompts)]]
    arms: Several[Annotated[SweepArm, table_of(SweepArm)]] = (SweepArm(),)
    sink_position: Annotated[int, Field(ge=0)] = 0
    estimator: Annotated[Estimator, table_of(_estimator)] = Estimator()

    def __post_init__(self) -> None:
        for name in ("models", "prompts", "arms"):
            _check_distinct(name, getattr(self, name))
        chunked = [model.label for model in self.models if model.chunk not in (None, "auto")]
        if chunked and self.estimator.needs_whole_prompt:
            raise InputError(f"model {chunked[0]}: chunk excludes an estimator that needs whole prompts")

    def with_models(self, names: Sequence[str]) -> Grid:
        """The same grid with other models, with their default settings; ``"name@revision"`` is allowed."""
        revisions: dict[str, list[str]] = {}
        for text in names:
            name, at, revision = text.rpartition("@")
            if not at or os.path.exists(plain_path(text)):
                name, revision = text, ""
            revisions.setdefault(name, []).append(revision)
        both = [name for name, listed in revisions.items() if "" in listed and len(listed) > 1]
        if both:
            raise InputError(f"model {both[0]}: once with a revision and once without, or twice")
        models = [
            SweepModel(name, revisions=None if listed == [""] else listed)
            for name, listed in revisions.items()
        ]
        return replace(self, models=models)

    def with_prompts(self, source: str) -> Grid:
        """The same grid with one set of prompts from elsewhere, read and cut as the grid's first set."""
        first = self.prompts[0]
        column = None if source in BUNDLED else first.field
        there = replace(first, source=source, name=None, config=None, split=None, field=column)
        return replace(self, prompts=(there,))


def _check_distinct(name: str, entries: Sequence[Any]) -> None:
    """No two of one name, which nobody could tell apart, and no two that differ in the name only."""
    for i, entry in enumerate(entries):
        for other in entries[:i]:
            if entry.label == other.label:
                raise InputError(f"{name}: two are called {entry.label!r}; leave one out or give it a name")
            if replace(entry, name=None) == replace(other, name=None):
                raise InputError(f"{name}: {other.label!r} and {entry.label!r} are the same; leave one out")
