"""Activations kept whole, for patching: the one observer that does not reduce."""

from collections.abc import Iterator, Mapping, Sequence

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import is_pattern
from mcr_lens.hooks.observers.base import BlockObserver, PromptTable
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.models.backend import Model

__all__ = ["ActivationRecorder", "Activations", "is_pattern"]


class Activations(Mapping[str, Tensor]):
    """Recorded activations by hook name, each ``(prompt, pos, ...)``, padded with zeros.

    Attributes:
        lengths: real tokens of each prompt.
    """

    def __init__(self, tensors: Mapping[str, Tensor], lengths: Int[Tensor, "prompt"]) -> None:
        self._tensors = dict(tensors)
        self.lengths = lengths

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise InputError(f"{name!r} was not recorded; there are {', '.join(self._tensors)}")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self._tensors.items())
        return f"Activations({shapes})"


class ActivationRecorder(BlockObserver[None]):
    """Keeps what the hook points of ``hook_names`` give, of every prompt.

    Whole prompts only. Mind the memory: nothing is reduced. ``mcr_lens.record`` runs one.
    """

    def __init__(self, hook_names: Sequence[str]) -> None:
        if isinstance(hook_names, str):
            raise InputError(f"hook_names is a single string: give a list, [{hook_names!r}]")
        super().__init__({name: name for name in hook_names}, PromptTable("depth", ()))
        self._recorded: dict[str, dict[int, Tensor]] = {name: {} for name in self._points}

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was recorded before is forgotten."""
        self._recorded = {name: {} for name in self._points}

    def result(self) -> xr.Dataset:
        """Nothing: activations are no labelled result; see ``activations``."""
        return xr.Dataset()

    def activations(self) -> Activations:
        """What was recorded, in the order of the prompts."""
        tensors: dict[str, Tensor] = {}
        lengths: list[int] = []
        for name, recorded in self._recorded.items():
            if not recorded:
                raise InputError(f"{name} did not fire: nothing was recorded there")
            ordered = [recorded[prompt] for prompt in sorted(recorded)]
            lengths = [tensor.shape[1 if is_pattern(name) else 0] for tensor in ordered]
            tensors[name] = _padded(ordered)
        return Activations(tensors, torch.tensor(lengths, dtype=torch.int64))

    def _take(self, block: Tensor, rows: Rows, place: str) -> None:
        if rows.context.offset > 0 or not rows.is_end:
            raise InputError("activations are recorded of whole prompts: leave out chunk=")
        recorded = self._recorded[place]
        # Outside the engine prompts are numbered as they come.
        prompts = rows.context.prompts or range(len(recorded), len(recorded) + len(block))
        for prompt, tensor, length in zip(prompts, block, rows.host_lengths.tolist(), strict=True):
            cut = tensor[:, :length, :length] if rows.axis == 2 else tensor[:length]
            recorded[prompt] = cut.clone()


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    padded = tensors[0].new_zeros(len(tensors), *shape)
    for into, tensor in zip(padded, tensors, strict=True):
        into[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded
