"""Padded ids in a plain run: no padding is read as a token in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from backends import BACKENDS

import mcr_lens as mcr
from mcr_lens import hooks
from mcr_lens.models.passes import current_pass, padding_mask

TEXTS = ["Natalia sold clips to 48 friends.", "Ann has 5 pens."]


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest) -> Any:
    return mcr.load_model("tiny", backend=request.param)


def padded(model: Any, side: str = "right") -> tuple[torch.Tensor, list[int]]:
    """Ids of prompts of unequal length, and the lengths."""
    prompts = mcr.Prompts.from_texts(TEXTS, model)
    rows = [torch.tensor(tokens) for tokens in prompts.tokens]
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(rows, True, padding_value=model.tokenizer.pad_token_id, padding_side=side)
    return ids, list(prompts.lengths)


OBSERVERS: dict[str, Callable[[Any, torch.Tensor], list[Any]]] = {
    "residual": lambda model, ids: hooks.ResidualObserver(model).hooks(),
    "writes": lambda model, ids: hooks.WriteObserver(model).hooks(),
    "attention": lambda model, ids: hooks.AttentionObserver(model).hooks(),
    "patterns": lambda model, ids: hooks.PatternObserver(model, [1]).hooks(),
    "pooled": lambda model, ids: hooks.PooledStates(model, "last").hooks(),
    "recorder": lambda model, ids: hooks.ActivationRecorder(["blocks.1.hook_mlp_out"]).hooks(),
    "logit lens": lambda model, ids: hooks.LogitLens(model, ids).hooks(),
    "answers": lambda model, ids: hooks.AnswerLens(model, 2, [hooks.Answer(0, 1, (3,))], [2]).hooks(),
    "not finite": lambda model, ids: hooks.NonFinite(model).around(),
    "own": lambda model, ids: mcr.observe(lambda x, rows: {"x": rows.last(x)[:, 0]}, model=model).hooks(),
    "rows": lambda model, ids: [("blocks.1.hook_resid_pre", lambda x, hook: hooks.Rows(x, hook) and None)],
}


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_observer_in_a_plain_run_does_not_read_padding_as_tokens(model: Any, name: str, side: str) -> None:
    ids, lengths = padded(model, side)
    fwd_hooks = OBSERVERS[name](model, ids)
    with pytest.raises(mcr.InputError, match=r"an observer meets a padded batch.*use mcr.measure"):
        model.run_with_hooks(ids, fwd_hooks=fwd_hooks)
    # One prompt alone is read as before.
    model.run_with_hooks(ids[:1], fwd_hooks=OBSERVERS[name](model, ids[:1]))
    assert lengths[0] == ids.shape[1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_minus_one_is_the_last_real_token_of_padded_ids_without_a_mask(model: Any, side: str) -> None:
    ids, lengths = padded(model, side)
    writes: list[torch.Tensor] = []
    off = mcr.ablate_mlp_write([1], -1)
    with pytest.warns(UserWarning, match="look like padding and count as such"), torch.no_grad():
        model.run_with_hooks(
            ids, fwd_hooks=[*off, ("blocks.1.hook_mlp_out", lambda write, hook: writes.append(write))]
        )
    last = [ids.shape[1] - 1 if side == "left" else length - 1 for length in lengths]
    assert (writes[0] == 0).all(-1).nonzero().tolist() == [[0, last[0]], [1, last[1]]]


def test_a_model_that_nobody_follows_is_told_of(llama_folder: Any) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(llama_folder), device="cpu")
    fwd_hooks: list[Any] = hooks.PooledStates(bridge, "last", depths=[1]).hooks()
    with pytest.warns(UserWarning, match="which rows of this pass are padding") as messages:
        bridge.run_with_hooks(torch.tensor([[1, 5, 9], [1, 5, 0]]), fwd_hooks=fwd_hooks)
    assert "\n" not in str(messages[0].message)


@pytest.mark.parametrize(
    ("ids", "mask"),
    [
        ([[7, 7, 1, 2], [7, 3, 4, 5]], [[0, 1, 1, 1], [1, 1, 1, 1]]),
        ([[1, 2, 7, 7], [3, 4, 5, 6]], [[1, 1, 0, 0], [1, 1, 1, 1]]),
        ([[7, 2, 7], [7, 4, 7]], [[1, 1, 1], [1, 1, 1]]),
        ([[1, 7, 7, 2]], [[1, 1, 1, 1]]),
    ],
)
def test_runs_of_the_padding_id_at_an_end_are_padding(model: Any, ids: Any, mask: Any) -> None:
    masks: list[Any] = []

    def look(state: torch.Tensor, hook: Any) -> None:
        this = current_pass(hook)
        assert this is not None
        masks.append(padding_mask(hook, this))

    pad = model.tokenizer.pad_token_id
    tokens = torch.tensor(ids)
    tokens = torch.where(tokens == 7, pad, tokens + pad + 10)
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_resid_pre", look)])
    if masks[0] is None:  # the model was given a mask of its own making
        pytest.skip("this backend makes a mask itself")
    assert masks[0].int().tolist() == mask
