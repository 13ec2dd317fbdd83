"""What a worker process does: it keeps one model, and answers a shard of a cell with its profile."""

import contextlib
import os
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from mcr_lens.hooks.context import current_context
from mcr_lens.models import Hook, Model
from mcr_lens.models.memory import Sharing
from mcr_lens.not_finite import NotFiniteWarning
from mcr_lens.prompts import Prompts
from mcr_lens.results import Profile
from mcr_lens.sweeps.cells import Cell, compute, loading_key, prompts_key
from mcr_lens.sweeps.folder import Failure
from mcr_lens.sweeps.local import release_memory
from mcr_lens.sweeps.shards import shard

__all__ = ["Failed", "Measured", "Worker"]


@dataclass(frozen=True)
class Measured:
    """A shard that was computed.

    Attributes:
        profile: of the shard's prompts; ``None`` for a shard without any.
        prompts: what a result tells of the cell's prompts, all shards together.
        n_prompts: of the cell, all shards together.
        warnings: kinds and words of the warnings meanwhile, without those of the shard's broken states:
            only the whole knows which prompt it was.
    """

    profile: Profile | None
    prompts: dict[str, Any]
    n_prompts: int
    warnings: tuple[tuple[type[Warning], str], ...] = ()


@dataclass(frozen=True)
class Failed:
    """A shard that was not: what failed, and with that which other cells have failed, too."""

    at: Literal["model", "prompts", "cell"]
    failure: Failure


class Worker:
    """Computes shards of cells, one at a time, with one model in memory.

    Args:
        place: the folder that relative paths start from, where this machine has it.
        threads: how many PyTorch computes with.
        sharing: how many workers share a machine, and a GPU.
    """

    def __init__(self, place: str, threads: int, sharing: Sharing) -> None:
        # On a machine without this folder a relative path will fail, in the cell that has it.
        with contextlib.suppress(OSError):
            os.chdir(place)
        self._threads, self._sharing = threads, sharing
        self._key: str | None = None
        self._model: Model = None
        self._prompts: dict[str, Prompts] = {}
        self._counter = _PromptCounter()

    def ready(self) -> str:
        """Answers once the worker can take tasks: with its version."""
        import mcr_lens

        return mcr_lens.__version__

    def begun(self) -> int:
        """How many prompts of the present task have been begun."""
        return self._counter.begun

    def run(self, cell: Cell, index: int, count: int, baseline: Profile | None) -> Measured | Failed:
        """The profile of shard ``index`` of ``count``, or why there is none."""
        # A setting of the thread, and this may be another one than before.
        torch.set_num_threads(self._threads)
        self._counter = _PromptCounter()
        at: Literal["model", "prompts", "cell"] = "model"
        with self._sharing.of_memory(), warnings.catch_warnings(record=True) as caught:
            try:
                model = self._loaded(cell)
                at = "prompts"
                prompts = self._read(cell)
                at = "cell"
                part = shard(prompts, index, count)
                profile = None
                if part is not None:
                    profile = compute(cell, model, part, baseline, observers=[self._counter])
            except Exception as error:  # a model's code and its loader raise what they like
                return Failed(at, Failure.of(error))
        told = tuple(
            (each.category if each.category.__module__ == "builtins" else UserWarning, str(each.message))
            for each in caught
            if not issubclass(each.category, NotFiniteWarning)
        )
        return Measured(profile, prompts.attributes(), len(prompts), told)

    def _loaded(self, cell: Cell) -> Model:
        key = loading_key(cell)
        if key != self._key:
            self._key, self._model, self._prompts = None, None, {}
            release_memory()
            self._model = cell.model.load(cell.revision)
            self._key = key
        return self._model

    def _read(self, cell: Cell) -> Prompts:
        key = prompts_key(cell)
        if key not in self._prompts:
            self._prompts = {key: cell.prompts.load(self._model)}
        return self._prompts[key]


class _PromptCounter:
    """An observer that counts the prompts that come by, for those who wait."""

    def __init__(self) -> None:
        self.begun = 0

    def hooks(self) -> list[Hook]:
        return [("blocks.0.hook_resid_pre", self._count)]

    def result(self) -> xr.Dataset:
        return xr.Dataset()

    def _count(self, residual: Tensor, hook: Any) -> None:
        context = current_context()
        if context.offset == 0:
            self.begun += len(residual)
