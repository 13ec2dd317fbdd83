"""Models of several families on both backends, and what their hook points give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mcr_lens as mcr
from mcr_lens.models.backend import has_hooked_transformer

Recorded = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def load(family_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """A tiny random model of a family on a backend, made once; tests must leave it as it is."""
    made: dict[tuple[str, str], Any] = {}

    def get(family: str, backend: str = "bridge") -> Any:
        if backend == "hooked_transformer" and not has_hooked_transformer():
            pytest.skip("needs HookedTransformer, which TransformerLens 4 no longer has")
        if (family, backend) not in made:
            made[family, backend] = mcr.load_model(family_folder(family), backend=backend)  # type: ignore[arg-type]
        return made[family, backend]

    return get


@pytest.fixture(scope="session")
def see() -> Callable[..., Recorded]:
    """Activations at named points of a plain run under hooks, by hooks of our own."""

    def run(model: Any, hooks: list[Any], names: list[str], tokens: torch.Tensor) -> Recorded:
        seen: Recorded = {}

        def keep(name: str) -> Any:
            return name, lambda tensor, hook: seen.__setitem__(name, tensor.detach().clone())

        with torch.no_grad():
            model.run_with_hooks(tokens, fwd_hooks=[*hooks, *map(keep, names)])
        return seen

    return run
