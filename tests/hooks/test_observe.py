"""An own quantity in three lines: right in every order, batch and chunk, on both backends; or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS

import mcr_lens as mcr
from mcr_lens.hooks import Rows

LENGTHS = (23, 2, 9, 14, 7, 2, 17)
WAYS: list[dict[str, Any]] = [{}, {"batch_size": 1}, {"batch_size": 3, "chunk": 4}, {"chunk": 1}]


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, load: Callable[..., Any]) -> Any:
    return load("llama", request.param)


@pytest.fixture(scope="module")
def alone(model: Any, see: Any) -> list[dict[str, np.ndarray]]:
    """What the hook points of each prompt give in a run of its own, by names."""
    names = [f"blocks.{layer}.{point}" for layer in range(3) for point in ("hook_resid_pre", "hook_mlp_out")]
    names += ["blocks.2.hook_resid_post", "ln_final.hook_normalized"]
    names += [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    runs = [see(model, [], names, torch.tensor([tokens])) for tokens in ragged().tokens]
    return [{name: tensor[0].numpy() for name, tensor in run.items()} for run in runs]


def ragged() -> mcr.Prompts:
    rng = np.random.default_rng(2)
    return mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, length - 1).tolist()] for length in LENGTHS])


def states(run: dict[str, np.ndarray]) -> np.ndarray:
    """(depth, position, d_model)"""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(3)] + ["blocks.2.hook_resid_post"]
    return np.stack([run[name] for name in names])


def last_norm(block: torch.Tensor, rows: Rows) -> dict[str, torch.Tensor]:
    return {"last_norm": rows.last(block).norm(dim=-1)}


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_the_norm_of_the_last_token_at_every_depth(model: Any, alone: Any, options: dict[str, Any]) -> None:
    data = mcr.measure(model, ragged(), [mcr.observe(last_norm)], progress=False, **options)
    assert data.last_norm.dims == ("prompt", "depth")
    expected = [np.linalg.norm(states(run)[:, -1], axis=-1) for run in alone]
    np.testing.assert_allclose(data.last_norm, expected, rtol=1e-4)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_sums_and_maxima_of_chunks(model: Any, alone: Any, options: dict[str, Any]) -> None:
    def total(block: torch.Tensor, rows: Rows) -> dict[str, torch.Tensor]:
        return {"total": rows.total(block), "n": rows.real.sum(1)}

    def largest(block: torch.Tensor, rows: Rows) -> dict[str, torch.Tensor]:
        return {"largest": block.abs().nan_to_num(0.0).amax((1, 2))}

    observers = [
        mcr.observe(total, "hook_mlp_out", dims="dimension", chunks="sum"),
        mcr.observe(largest, chunks="max"),
    ]
    data = mcr.measure(model, ragged(), observers, progress=False, **options)
    assert data.total.dims == ("prompt", "layer", "dimension")
    assert data.n.isel(layer=1).values.tolist() == list(LENGTHS)
    for prompt, run in enumerate(alone):
        writes = np.stack([run[f"blocks.{layer}.hook_mlp_out"].sum(0) for layer in range(3)])
        np.testing.assert_allclose(data.total.sel(prompt=prompt), writes, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(data.largest.sel(prompt=prompt), np.abs(states(run)).max((1, 2)), 1e-4)


def test_a_mean_of_whole_prompts(model: Any, alone: Any) -> None:
    def mean(block: torch.Tensor, rows: Rows) -> dict[str, torch.Tensor]:
        return {"mean": rows.mean(block.norm(dim=-1))}

    data = mcr.measure(model, ragged(), [mcr.observe(mean)], progress=False)
    expected = [np.linalg.norm(states(run), axis=-1).mean(1) for run in alone]
    np.testing.assert_allclose(data["mean"], expected, rtol=1e-5)
    with pytest.raises(mcr.InputError, match="'mean' has a value of one prompt in two chunks: leave out"):
        mcr.measure(model, ragged(), [mcr.observe(mean)], chunk=4, progress=False)


@pytest.mark.parametrize("options", [{}, {"chunk": 4}], ids=str)
def test_heads_and_tokens(model: Any, alone: Any, options: dict[str, Any]) -> None:
    def first_column(block: torch.Tensor, rows: Rows) -> dict[str, torch.Tensor]:
        return {"first": rows.total(block[..., 0])}

    def entropy(block: torch.Tensor, rows: Rows) -> dict[str, torch.Tensor]:
        return {"entropy": torch.special.entr(block).sum(-1)}

    observers = [
        mcr.observe(first_column, "attn.hook_pattern", dims=("head",), chunks="sum"),
        mcr.observe(entropy, "attn.hook_pattern", dims=("head", "position")),
    ]
    data = mcr.profile(model, ragged(), observers=observers, progress=False, **options).data
    assert data["first"].dims == ("prompt", "layer", "head")
    np.testing.assert_allclose(data["first"] / data.n_tokens, data.sink_score, rtol=1e-4)
    for prompt, run in enumerate(alone):
        patterns = torch.tensor(np.stack([run[f"blocks.{layer}.attn.hook_pattern"] for layer in range(3)]))
        expected = torch.special.entr(patterns.double()).sum(-1)
        rows = data.entropy.sel(prompt=prompt)
        np.testing.assert_allclose(rows[..., : LENGTHS[prompt]], expected, rtol=1e-3, atol=1e-4)
        assert rows[..., LENGTHS[prompt] :].isnull().all()


def test_one_point_alone(model: Any, alone: Any) -> None:
    one = mcr.observe(last_norm, "blocks.1.hook_mlp_out")
    data = mcr.measure(model, ragged(), [one], progress=False)
    assert data.layer.values.tolist() == [1]
    final = mcr.measure(model, ragged(), [mcr.observe(last_norm, "ln_final.hook_normalized")], progress=False)
    assert final.last_norm.dims == ("prompt",)
    expected = [np.linalg.norm(run["ln_final.hook_normalized"][-1]) for run in alone]
    np.testing.assert_allclose(final.last_norm, expected, rtol=1e-4)


def test_an_edit_is_seen_and_padding_that_is_forgotten_shows(model: Any) -> None:
    silence = [("blocks.1.hook_mlp_out", lambda write, hook: torch.zeros_like(write))]
    observer = mcr.observe(last_norm, "hook_mlp_out")
    data = mcr.measure(model, ragged(), [observer], interventions=silence, progress=False)
    assert (data.last_norm.sel(layer=1) == 0).all() and (data.last_norm.sel(layer=0) > 0).all()
    forgets = mcr.observe(lambda block, rows: {"norm": block.norm(dim=-1).mean(1)})
    data = mcr.measure(model, ragged(), [forgets], batch_size=7, progress=False)
    assert data.norm.isnull().all("depth").values.tolist() == [length < 23 for length in LENGTHS]


def test_a_broken_prompt_is_nan_and_named(model: Any) -> None:
    def edit(state: torch.Tensor, hook: Any) -> torch.Tensor:
        return state.masked_fill(state.abs() > state.abs().amax() * 0.999, torch.inf)

    with pytest.warns(RuntimeWarning, match=r"of 7 prompts, first in prompt . at depth 1"):
        data = mcr.measure(
            model,
            ragged(),
            [mcr.observe(last_norm)],
            interventions=[("blocks.1.hook_resid_pre", edit)],
            progress=False,
        )
    broken = data.not_finite_depth == 1
    assert broken.any() and not broken.all()
    np.testing.assert_array_equal(data.last_norm.sel(depth=2).isnull(), broken)


def in_place(block: torch.Tensor, rows: Rows) -> dict[str, torch.Tensor]:
    block -= block.mean()
    return {"x": rows.last(block).norm(dim=-1)}


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (lambda block, rows: {"x": block}, {}, r"'x' has shape \(1, 3, 32\) for 1 prompts and dims=\(\)"),
        (
            lambda block, rows: {"x": block.norm(dim=-1)[:, :2]},
            {"dims": "position"},
            "return .1, 3., or name",
        ),
        (lambda block, rows: block, {}, "returns Tensor: return {name: tensor}"),
        (lambda block, rows: {"x": 1.0}, {}, "returns dict: return {name: tensor}"),
        (last_norm, {"at": "hook_mlp_outt"}, "no hook 'blocks.0.hook_mlp_outt'"),
        (last_norm, {"at": "blocks.9.hook_mlp_out"}, r"its layers are 0\.\.2"),
        (last_norm, {"axis": "layer"}, "at='resid' has the axis 'depth'"),
        (last_norm, {"dims": ("depth",)}, "'depth' is there already"),
        (last_norm, {"chunks": "mean"}, "use 'once', 'sum' or 'max'"),
        ("norm", {}, "is no function"),
        (in_place, {}, "in_place edits its block: write x = x - y"),
    ],
)
def test_what_cannot_be_is_told(model: Any, function: Any, options: dict[str, Any], message: str) -> None:
    def measured() -> None:
        prompts = mcr.Prompts.from_tokens([[1, 5, 9]])
        mcr.measure(model, prompts, [mcr.observe(function, **options)], progress=False)

    with pytest.raises(mcr.InputError, match=message) as caught:
        measured()
    assert "\n" not in str(caught.value)


def test_two_observers_of_one_name_are_refused(model: Any) -> None:
    with pytest.raises(mcr.InputError, match="returns a variable 'last_norm'"):
        mcr.measure(model, ragged(), [mcr.observe(last_norm), mcr.observe(last_norm)], progress=False)


def test_a_plain_run_needs_the_model(model: Any) -> None:
    with pytest.raises(mcr.InputError, match="Give model="):
        mcr.observe(last_norm).hooks()
    observer, tokens = mcr.observe(last_norm, model=model), torch.tensor([[1, 5, 9]])
    for _ in range(2):
        model.run_with_hooks(tokens, fwd_hooks=observer.hooks())
    assert observer.result().sizes["prompt"] == 2
    alone = mcr.measure(model, mcr.Prompts.from_tokens([[1, 5, 9]]), [mcr.observe(last_norm)], progress=False)
    np.testing.assert_allclose(observer.result().last_norm[1], alone.last_norm[0], rtol=1e-6)
