"""The tuned lens: a logit lens that first maps each depth to where the last one would have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from mcr_lens.errors import InputError
from mcr_lens.hooks.lenses.logit import LogitLens
from mcr_lens.hooks.lenses.translators import Translators
from mcr_lens.models import Model, model_facts

__all__ = ["TunedLens"]


class TunedLens(LogitLens):
    """A logit lens with an affine map before the read-out of each depth but the last.

    Depth l < L is read as ``h + A_l h + b_l``, with ``Translators`` from ``fit_tuned_lens`` or from the
    folder of a published lens. Variables, options and errors are those of ``LogitLens``.
    Source: Belrose et al. 2023 (arXiv 2303.08112).

    Raises:
        InputError: for translators of another number of layers or another width than the model's.

    Example:
        >>> import torch
        >>> import mcr_lens as mcr
        >>> model = mcr.load_model("tiny")
        >>> n, d = model.cfg.n_layers, model.cfg.d_model
        >>> lens = TunedLens(model, Translators(torch.zeros(n, d, d), torch.zeros(n, d)))
    """

    def __init__(
        self,
        model: Model,
        translators: Translators,
        tokens: Int[Tensor, "batch pos"] | Sequence[Sequence[int]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, tokens, **options)
        facts = model_facts(model)
        if (translators.n_layers, translators.d_model) != (facts.n_layers, facts.d_model):
            made_for = translators.record.get("base_model")
            raise InputError(
                f"translators of {translators.n_layers} layers and width {translators.d_model}, made for "
                f"{made_for}; {facts.name} has {facts.n_layers} and {facts.d_model}"
            )
        self.translators = translators
        self._on_device = translators.to(model.cfg.device)

    @classmethod
    def from_folder(cls, model: Model, folder: str | Path, **options: Any) -> TunedLens:
        """The lens with the translators of a folder; see ``Translators.load``."""
        return cls(model, Translators.load(folder), **options)

    def _translated(self, state: Tensor, depth: int) -> Tensor:
        return self._on_device.translate(state, depth)
