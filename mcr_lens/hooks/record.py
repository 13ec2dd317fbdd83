"""Activations kept whole, for patching: the one observer that does not reduce."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.context import current_context
from mcr_lens.models.backend import Hook, Model

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


class ActivationRecorder:
    """Keeps what the hook points of ``hook_names`` give, of every prompt.

    Whole prompts only. Mind the memory: nothing is reduced. ``mcr_lens.record`` runs one.
    """

    def __init__(self, hook_names: Sequence[str]) -> None:
        if isinstance(hook_names, str):
            raise InputError(f"hook_names is a single string: give a list, [{hook_names!r}]")
        self._names = tuple(dict.fromkeys(hook_names))
        self._rows: dict[str, dict[int, Tensor]] = {name: {} for name in self._names}

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was recorded before is forgotten."""
        self._rows = {name: {} for name in self._names}

    def hooks(self) -> list[Hook]:
        """A hook for each name."""
        return [(name, partial(self._keep, name=name)) for name in self._names]

    def result(self) -> xr.Dataset:
        """Nothing: activations are no labelled result; see ``activations``."""
        return xr.Dataset()

    def activations(self) -> Activations:
        """What was recorded, in the order of the prompts."""
        tensors: dict[str, Tensor] = {}
        lengths = torch.zeros(0, dtype=torch.int64)
        for name, rows in self._rows.items():
            ordered = [rows[prompt] for prompt in sorted(rows)]
            if not ordered:
                raise InputError(f"{name} did not fire: nothing was recorded there")
            lengths = torch.tensor([_n_tokens(name, row) for row in ordered])
            tensors[name] = _padded(ordered)
        return Activations(tensors, lengths)

    def _keep(self, activation: Float[Tensor, "batch ..."], hook: Any, name: str) -> None:
        context = current_context()
        rows = activation.shape[2 if is_pattern(name) else 1]
        if context.offset > 0 or not context.ends_with(rows):
            raise InputError("activations are recorded of whole prompts: leave out chunk=")
        lengths = context.prompt_lengths(len(activation), rows).tolist()
        first = len(self._rows[name])  # outside the engine prompts are numbered as they come
        for row, prompt in enumerate(context.prompts or range(first, first + len(activation))):
            length = lengths[row]
            kept = activation[row]
            kept = kept[:, :length, :length] if is_pattern(name) else kept[:length]
            self._rows[name][prompt] = kept.detach().clone()


def is_pattern(name: str) -> bool:
    """Whether a hook point's activation is ``(batch, head, query, key)``."""
    return name.endswith(("hook_pattern", "hook_attn_scores"))


def _n_tokens(name: str, row: Tensor) -> int:
    return row.shape[1] if is_pattern(name) else row.shape[0]


def _padded(rows: Sequence[Tensor]) -> Tensor:
    shape = [max(row.shape[axis] for row in rows) for axis in range(rows[0].ndim)]
    padded = torch.zeros(len(rows), *shape, dtype=rows[0].dtype, device=rows[0].device)
    for into, row in zip(padded, rows, strict=True):
        into[tuple(slice(size) for size in row.shape)] = row
    return padded
