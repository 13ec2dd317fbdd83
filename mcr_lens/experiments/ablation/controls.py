"""Edits of the same norm as a removed write, in another direction or at another token."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mcr_lens.hooks.interventions.base import Intervention, RowEdit, Rows, edit_rows
from mcr_lens.hooks.interventions.positions import Positions, position_tuple, recorded
from mcr_lens.models import Hook

__all__ = [
    "N_DRAWS",
    "Write",
    "hook_point",
    "random_directions",
    "subtract_elsewhere",
    "subtract_random",
    "turn",
]

Write = Literal["mlp", "attention"]
# So many random directions stand for all.
N_DRAWS = 20


def hook_point(layer: int, write: Write) -> str:
    """Where a layer's write passes."""
    return f"blocks.{layer}.hook_{'mlp' if write == 'mlp' else 'attn'}_out"


def random_directions(n: int, layers: Sequence[int], width: int, seed: int) -> list[dict[int, Tensor]]:
    """Unit vectors, evenly over all directions: ``n`` draws of one for each layer."""
    rng = np.random.default_rng([seed, width])
    vectors = rng.standard_normal((n, len(layers), width))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return [dict(zip(layers, torch.from_numpy(draw), strict=True)) for draw in vectors]


def subtract_random(
    writes: Mapping[int, Write], position: int, directions: Mapping[int, Tensor], dose: float
) -> list[Hook]:
    """``x - dose ||write|| u``: what a removed write would take away, but in a random direction ``u``."""
    edits = {
        hook_point(layer, write): partial(_subtract_random, direction=directions[layer], dose=dose)
        for layer, write in writes.items()
    }
    return _hooks("subtract_random", edits, position, dose, list(writes))


def subtract_elsewhere(
    writes: Mapping[int, Write],
    positions: Sequence[Sequence[int]],
    vectors: Mapping[int, Float[Tensor, "prompt d_model"]],
    dose: float,
) -> list[Hook]:
    """``x - dose write`` with the write of the sink token, at another token of each prompt."""
    edits = {
        hook_point(layer, write): partial(_subtract, vectors=vectors[layer], dose=dose)
        for layer, write in writes.items()
    }
    return _hooks("subtract_elsewhere", edits, positions, dose, list(writes))


def turn(layers: Sequence[int], position: int, directions: Mapping[int, Tensor], dose: float) -> list[Hook]:
    """A state's direction replaced by a random one, its norm kept: what a clamp leaves, and the converse."""
    edits = {
        f"blocks.{layer}.hook_resid_post": partial(_turn, direction=directions[layer], dose=dose)
        for layer in layers
    }
    return _hooks("turn", edits, position, dose, list(layers))


def _hooks(
    call: str, edits: Mapping[str, RowEdit], positions: Positions, dose: float, layers: list[int]
) -> list[Hook]:
    places = position_tuple(positions, call)
    settings = {"layers": layers, "positions": recorded(places), "dose": dose}
    return edit_rows(Intervention(call, settings, places), edits, None)


def _subtract_random(states: Tensor, rows: Rows, direction: Tensor, dose: float) -> Tensor:
    norms = torch.linalg.vector_norm(states.float(), dim=-1, keepdim=True)
    return states - (dose * norms * direction.to(norms)).to(states)


def _subtract(states: Tensor, rows: Rows, vectors: Tensor, dose: float) -> Tensor:
    assert rows.context.prompts is not None  # measured by the engine
    index = torch.tensor(rows.context.prompts)[rows.prompts.cpu()]
    return states - dose * vectors[index].to(states)


def _turn(states: Tensor, rows: Rows, direction: Tensor, dose: float) -> Tensor:
    wide = states.float()
    norms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    turned = (1 - dose) * wide / norms + dose * direction.to(wide)
    return (norms * turned / torch.linalg.vector_norm(turned, dim=-1, keepdim=True)).to(states)
