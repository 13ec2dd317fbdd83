"""Pooled states against NumPy on what Hugging Face's own modules gave, however the prompts are cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from backends import needs_hooked_transformer
from families import eager
from hugging_face_oracle import record

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.hooks.context import BatchContext, running
from mcr_lens.hooks.observers.pooled_states import POOLINGS, PooledStates

LOADED = [
    *[pytest.param(family, "bridge", id=f"{family}-bridge") for family in ("llama", "gpt2", "gpt_neox")],
    pytest.param("llama", "hooked_transformer", id="llama-hooked", marks=needs_hooked_transformer),
]
# Ragged: shorter than a chunk, of several chunks, and two of one length.
LENGTHS = (23, 2, 9, 14, 7, 2, 17)


def ragged() -> mcr.Prompts:
    rng = np.random.default_rng(0)
    return mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, length - 1).tolist()] for length in LENGTHS])


def pooled(model: Any, prompts: mcr.Prompts, sink: int = 0, **options: Any) -> xr.DataArray:
    observer = PooledStates(model, sink_position=sink)
    return mcr.measure(model, prompts, [observer], progress=False, **options).pooled_state


def oracle(folder: Path, prompts: mcr.Prompts, sink: int = 0) -> np.ndarray:
    """(prompt, depth, pooling, dimension) in float64, one prompt at a time without padding."""
    reference = eager(folder)
    rows = []
    for tokens in prompts.tokens:
        states = np.stack(record(reference, tokens)["states"])
        others = np.delete(states, sink, axis=1)
        rows.append(np.stack([states.mean(1), states[:, -1], others.mean(1)], axis=1))
    return np.stack(rows)


@pytest.mark.parametrize(("family", "backend"), LOADED)
@pytest.mark.parametrize("sink", [0, 1])
def test_equals_numpy_on_hugging_face_states_for_every_batch_and_chunk(
    family_folder: Callable[[str], Path], family: str, backend: Any, sink: int
) -> None:
    folder, prompts = family_folder(family), ragged()
    model = mcr.load_model(folder, backend=backend)
    expected = oracle(folder, prompts, sink)
    assert expected.shape == (len(LENGTHS), 4, 3, 32)
    for options in ({}, {"batch_size": 1}, {"batch_size": 3}, {"chunk": 1}, {"chunk": 7, "batch_size": 4}):
        found = pooled(model, prompts, sink, **options)
        np.testing.assert_allclose(found.values, expected, rtol=2e-5, atol=2e-5, err_msg=str(options))
    assert found.dims == ("prompt", "depth", "pooling", "dimension")
    assert found.pooling.values.tolist() == list(POOLINGS)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_all_but_the_last_depth_are_hugging_faces_hidden_states(
    family_folder: Callable[[str], Path], family: str
) -> None:
    folder, prompts = family_folder(family), ragged()
    found = pooled(mcr.load_model(folder), prompts).sel(pooling="last").values
    reference = eager(folder)
    for prompt, tokens in enumerate(prompts.tokens):
        with torch.no_grad():
            hidden = reference(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        expected = np.stack([state[0, -1].numpy() for state in hidden])
        np.testing.assert_allclose(found[prompt, :-1], expected[:-1], rtol=2e-5, atol=2e-5)
        # Hugging Face's last one has been through the final norm, ours has not.
        assert np.abs(found[prompt, -1] - expected[-1]).max() > 1e-2


def test_the_order_of_the_prompts_changes_nothing(llama: Any) -> None:
    prompts = ragged()
    backwards = mcr.Prompts.from_tokens(prompts.tokens[::-1])
    there, back = pooled(llama, prompts, batch_size=2), pooled(llama, backwards, batch_size=2)
    np.testing.assert_allclose(there.values, back.values[::-1], rtol=2e-5, atol=2e-5)


def test_chosen_depths_and_poolings_are_those_of_all(llama: Any) -> None:
    everything = pooled(llama, ragged())
    observer = PooledStates(llama, ["mean_without_sink", "mean"], depths=[-1, 1])
    some = mcr.measure(llama, ragged(), [observer], progress=False).pooled_state
    assert some.depth.values.tolist() == [1, 3]
    assert some.pooling.values.tolist() == ["mean_without_sink", "mean"]
    xr.testing.assert_equal(some, everything.sel(depth=[1, 3], pooling=["mean_without_sink", "mean"]))


def test_the_mean_without_the_sink_of_one_token_is_nan(llama: Any) -> None:
    observer = PooledStates(llama)
    tokens = torch.tensor([[1, 5, 9], [1, 0, 0]])
    with running(BatchContext(lengths=torch.tensor([3, 1]))), torch.no_grad():
        llama.run_with_hooks(tokens, fwd_hooks=observer.hooks())
    found = observer.result().pooled_state
    assert np.isnan(found.sel(prompt=1, pooling="mean_without_sink")).all()
    assert np.isfinite(found.sel(prompt=0)).all()
    np.testing.assert_array_equal(found.sel(prompt=1, pooling="mean"), found.sel(prompt=1, pooling="last"))


def test_padding_that_is_not_finite_changes_nothing() -> None:
    class Point:
        name = "blocks.0.hook_resid_pre"

    observer = PooledStates(mcr.load_model("tiny"), depths=[0])
    [(_, hook)] = observer.hooks()
    block = torch.ones(1, 3, 4)
    block[0, 2] = torch.inf
    with running(BatchContext(lengths=torch.tensor([2]))):
        hook(block, Point())
    assert (observer.result().pooled_state == 1).all()


def test_a_massive_sink_leaves_the_other_tokens_mean_exact() -> None:
    class Point:
        name = "blocks.0.hook_resid_pre"

    observer = PooledStates(mcr.load_model("tiny"), "mean_without_sink", depths=[0])
    [(_, hook)] = observer.hooks()
    block = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    block[0, 0] = 1e9
    for start in (0, 2, 4):
        with running(BatchContext(offset=start, lengths=torch.tensor([5]))):
            hook(block[:, start : start + 2], Point())
    found = observer.result().pooled_state.values[0, 0, 0]
    np.testing.assert_allclose(found, block[0, 1:].double().mean(0), rtol=1e-6)


def test_an_intervention_is_seen_and_the_passes_leave_nothing_behind(llama: Any) -> None:
    prompts, observer = ragged(), PooledStates(llama, "mean", depths=[1, 2])
    before = mcr.measure(llama, prompts, [observer], progress=False).pooled_state
    doubled = [("blocks.1.hook_resid_pre", lambda state, hook: 2 * state)]
    edited = mcr.measure(llama, prompts, [observer], interventions=doubled, progress=False).pooled_state
    np.testing.assert_allclose(edited.sel(depth=1), 2 * before.sel(depth=1), rtol=1e-6)
    assert np.abs(edited.sel(depth=2) - before.sel(depth=2)).max() > 1e-3
    again = mcr.measure(llama, prompts, [observer], progress=False).pooled_state
    xr.testing.assert_equal(again, before)


def test_shares_a_pass_with_a_profile(llama: Any) -> None:
    prompts = ragged()
    both = mcr.profile(llama, prompts, observers=[PooledStates(llama, "last", depths=[2])], progress=False)
    alone = pooled(llama, prompts).sel(depth=2, pooling="last")
    np.testing.assert_array_equal(both["pooled_state"].sel(depth=2, pooling="last"), alone)
    assert np.isnan(both["pooled_state"].sel(depth=1)).all()


def test_compatibility_mode_gives_the_same_states(llama_folder: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(llama_folder), device="cpu")
    bridge.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    found = pooled(bridge, ragged(), chunk=7)
    np.testing.assert_allclose(found, oracle(llama_folder, ragged()), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling 'max'"),
        ({"pooling": []}, "pooling"),
        ({"pooling": ["mean", "first"]}, "mean_without_sink"),
        ({"depths": [4]}, r"0\.\.3"),
        ({"depths": []}, r"0\.\.3"),
        ({"depths": [True]}, r"0\.\.3"),
        ({"depths": [0.5]}, r"0\.\.3"),
    ],
)
def test_what_does_not_exist_is_refused(llama: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PooledStates(llama, **options)


def test_a_sink_outside_the_shortest_prompt_is_refused(llama: Any) -> None:
    with pytest.raises(InputError, match="sink position 2"):
        pooled(llama, ragged(), sink=2)
