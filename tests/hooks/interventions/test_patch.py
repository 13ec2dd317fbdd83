"""Patches against hand-written hooks: states, heads, patterns, means and draws."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.hooks import Activations

TOKENS = torch.tensor([[1, 7, 9, 23, 5, 40, 11, 8]])
OTHER = torch.tensor([[1, 12, 33, 4, 60, 40, 19, 25]])
PATTERN, V, Z = (f"blocks.1.attn.hook_{point}" for point in ("pattern", "v", "z"))
SHAPES = {V: (2, 8), "blocks.1.attn.hook_k": (2, 8), "blocks.1.attn.hook_q": (4, 8), Z: (4, 8)}
POST = "blocks.2.hook_resid_post"


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, load: Callable[..., Any]) -> Any:
    return load("llama", request.param)


def ragged() -> mcr.Prompts:
    rng = np.random.default_rng(3)
    return mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, n).tolist()] for n in (11, 5, 19, 8)])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("positions", [None, 3, [0, -1]])
def test_a_patch_of_heads_is_what_a_plain_hook_does(model: Any, see: Any, name: str, positions: Any) -> None:
    source = torch.randn(1, 8, *SHAPES[name], generator=torch.Generator().manual_seed(1))
    where = range(8) if positions is None else positions if isinstance(positions, list) else [positions]

    def by_hand(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        edited = activation.clone()
        for position in where:
            edited[:, position, 1] = source[:, position, 1]
        return edited

    found = see(
        model, mcr.patch_activation(name, source, positions, heads=1, model=model), [name, POST], TOKENS
    )
    expected = see(model, [(name, by_hand)], [name, POST], TOKENS)
    assert torch.equal(found[name], expected[name])
    assert torch.equal(found[POST], expected[POST])
    assert not torch.allclose(found[POST], see(model, [], [POST], TOKENS)[POST])


def test_keys_and_values_have_heads_of_their_own(model: Any) -> None:
    source = torch.ones(1, 8, 2, 8)
    with pytest.raises(InputError, match=r"head 2: blocks\.1\.attn\.hook_v has heads 0\.\.1"):
        mcr.patch_activation(V, source, heads=[0, 2])
    with pytest.raises(InputError, match=r"shape \(1, 8, 4, 8\), the activation \(1, 8, 2, 8\)"):
        model.run_with_hooks(TOKENS, fwd_hooks=mcr.patch_activation(V, torch.ones(1, 8, 4, 8), heads=[3]))
    with pytest.raises(InputError, match=r"heads 0\.\.3"):
        mcr.patch_activation(Z, torch.ones(1, 8, 6, 8), heads=[5], model=model)
    with pytest.raises(InputError, match="has no heads"):
        mcr.patch_activation("blocks.1.hook_mlp_out", torch.ones(1, 8, 32), heads=0)


@pytest.mark.parametrize(("positions", "heads"), [(None, None), ([2, -1], [0, 3]), (5, 1)])
def test_a_patched_pattern_is_the_other_runs(model: Any, see: Any, positions: Any, heads: Any) -> None:
    donor = see(model, [], [PATTERN, V], OTHER)
    mine = see(model, [], [PATTERN, V], TOKENS)
    found = see(model, mcr.patch_activation(PATTERN, donor, positions, heads), [PATTERN, Z], TOKENS)
    expected = mine[PATTERN].clone()
    for position in range(8) if positions is None else np.atleast_1d(positions):
        for head in range(4) if heads is None else np.atleast_1d(heads):
            expected[:, head, position] = donor[PATTERN][:, head, position]
    assert torch.equal(found[PATTERN], expected)
    z = torch.einsum("bhqk,bkhd->bqhd", expected, mine[V].repeat_interleave(2, dim=2))
    torch.testing.assert_close(found[Z], z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_patterns_and_states_are_patched_alike_in_chunks(load: Callable[..., Any], family: str) -> None:
    model, prompts = load(family), ragged()
    others = mcr.Prompts.from_tokens([[2, *tokens[:0:-1]] for tokens in prompts.tokens])
    names = [PATTERN, V, "blocks.2.hook_resid_pre"]
    source = mcr.record(model, others, names)
    hooks = [
        *mcr.patch_activation(PATTERN, source, [1, -1], heads=[0, 2]),
        *mcr.patch_activation(V, source, heads=0),
        *mcr.patch_activation(names[2], source, [3, -2]),
    ]
    whole = mcr.profile(model, prompts, interventions=hooks, batch_size=1, progress=False).data
    for options in ({}, {"chunk": 3}, {"chunk": 6, "batch_size": 2}):
        again = mcr.profile(model, prompts, interventions=hooks, progress=False, **options).data  # type: ignore[arg-type]
        for name in whole.data_vars:
            np.testing.assert_allclose(again[name], whole[name], rtol=1e-4, atol=1e-5, err_msg=str(name))


@pytest.mark.parametrize("recorded", [True, False])
def test_scores_of_a_shorter_prompt_leave_the_future_masked(model: Any, see: Any, recorded: bool) -> None:
    name, short = "blocks.1.attn.hook_attn_scores", OTHER[:, :4]
    prompts = mcr.Prompts.from_tokens([short[0].tolist(), OTHER[0].tolist()])
    source = mcr.record(model, prompts, [name]) if recorded else see(model, [], [name], short)
    tokens = TOKENS.repeat(2, 1) if recorded else TOKENS
    found = see(model, mcr.patch_activation(name, source, positions=[1, 3]), [PATTERN], tokens)[PATTERN][0]
    expected = see(model, [], [PATTERN], TOKENS)[PATTERN][0].clone()
    for query in (1, 3):
        expected[:, query, :4] = see(model, [], [PATTERN], short)[PATTERN][0, :, query]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_sources_of_every_kind_give_the_same(model: Any, see: Any) -> None:
    name = "blocks.1.hook_resid_post"
    by_hand = see(model, [], [name], OTHER)[name]
    off = mcr.ablate_mlp_write([0])
    _, cache = model.run_with_cache(OTHER)
    recorded = mcr.record(model, mcr.Prompts.from_tokens(OTHER), [name])
    expected = see(model, [(name, lambda state, hook: by_hand)], [POST], TOKENS)[POST]
    for source in (by_hand, {name: by_hand}, cache, recorded):
        found = see(model, mcr.patch_activation(name, source), [POST], TOKENS)[POST]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # From a run under interventions too, and one row serves a batch.
    ablated = mcr.record(model, mcr.Prompts.from_tokens(OTHER), [name], interventions=off)
    torch.testing.assert_close(ablated[name], see(model, off, [name], OTHER)[name])
    pair = see(model, mcr.patch_activation(name, recorded), [POST], TOKENS.repeat(2, 1))[POST]
    torch.testing.assert_close(pair, expected.repeat(2, 1, 1), rtol=1e-5, atol=1e-5)


def test_the_mean_is_over_the_prompts_that_have_the_position(model: Any, see: Any) -> None:
    name, prompts = "blocks.1.hook_mlp_out", ragged()
    writes = [see(model, [], [name], torch.tensor([tokens]))[name][0].double() for tokens in prompts.tokens]
    reference = mcr.record(model, prompts, [name])
    found = see(model, mcr.hooks.mean_ablate(name, reference, [0, 7]), [name], TOKENS)[name][0]
    for position in (0, 7):
        mean = torch.stack([write[position] for write in writes if len(write) > position]).mean(0)
        torch.testing.assert_close(found[position].double(), mean, rtol=1e-5, atol=1e-6)
    tokens = see(model, mcr.hooks.mean_ablate(name, reference, over="tokens"), [name], TOKENS)[name][0]
    torch.testing.assert_close(tokens.double(), torch.cat(writes).mean(0).expand(8, 32), rtol=1e-5, atol=1e-6)
    pattern = mcr.hooks.mean_ablate(PATTERN, mcr.record(model, prompts, [PATTERN]), 4)
    rows = [
        see(model, [], [PATTERN], torch.tensor([tokens]))[PATTERN][0, :, 4, :5] for tokens in prompts.tokens
    ]
    found = see(model, pattern, [PATTERN], TOKENS)[PATTERN][0, :, 4]
    torch.testing.assert_close(found[:, :5], torch.stack(rows).mean(0), rtol=1e-5, atol=1e-6)
    assert (found[:, 5:] == 0).all()


def test_a_draw_belongs_to_its_prompt_whatever_the_batch(model: Any) -> None:
    name, prompts = "blocks.1.hook_resid_post", ragged()
    reference = mcr.record(model, ragged(), [name])
    hooks = mcr.hooks.resample_ablate(name, reference, 3, seed=1)
    recorded = [
        mcr.record(model, prompts, [name], interventions=hooks, batch_size=size)[name][:, 3]
        for size in ("auto", 1, 3)
    ]
    for other in recorded[1:]:
        torch.testing.assert_close(other, recorded[0], rtol=1e-5, atol=1e-5)
    rows = reference[name][:, 3]
    assert all(any(torch.allclose(row, drawn, atol=1e-5) for row in rows) for drawn in recorded[0])
    seeds = [
        mcr.record(
            model, prompts, [name], interventions=mcr.hooks.resample_ablate(name, reference, 3, seed=seed)
        )
        for seed in (1, 5)
    ]
    assert not torch.allclose(seeds[0][name], seeds[1][name])
    short = mcr.hooks.resample_ablate(name, mcr.record(model, ragged()[3:], [name]))
    with pytest.raises(InputError, match="no reference prompt has 20 tokens, the longest has 9"):
        mcr.profile(model, prompts, interventions=short, progress=False)


def test_what_a_source_lacks_is_told_in_a_line(model: Any) -> None:
    name = "blocks.1.hook_mlp_out"
    one = Activations({name: torch.ones(1, 5, 32)}, torch.tensor([5]))
    built: list[tuple[Callable[[], Any], str]] = [
        (lambda: mcr.patch_activation("blocks.0.hook_mlp_out", one), "was not recorded; there are"),
        (lambda: mcr.patch_activation("blocks.0.hook_mlp_out", {}), "the source has nothing under"),
        (lambda: mcr.patch_activation(name, None), "the source is a NoneType"),  # type: ignore[arg-type]
        (lambda: mcr.patch_activation(name, torch.ones(8, 32)), r"is \(8, 32\): give one of shape"),
        (lambda: mcr.patch_activation(PATTERN, torch.ones(1, 8, 8)), r"\(prompt, head, query, key\)"),
        (lambda: mcr.patch_activation(name, one, positions=[]), r"positions \[\]"),
        (lambda: mcr.patch_activation(name, one, positions=[0.5]), r"positions \[0.5\]"),  # type: ignore[list-item]
        (lambda: mcr.hooks.mean_ablate(name, one, over="all"), "use 'prompts' or 'tokens'"),  # type: ignore[arg-type]
        (lambda: mcr.patch_activation("blocks.9.hook_mlp_out", torch.ones(1, 5, 32), model=model), r"0\.\.2"),
    ]
    run: list[tuple[Any, str]] = [
        (mcr.patch_activation(name, one), "position 5 is beyond the source"),
        (mcr.patch_activation(name, one, 9), r"position 9 in a prompt of 8 tokens: use 0\.\.7"),
        (mcr.patch_activation(name, torch.ones(3, 8, 32)), "the source has 3 prompts, 1 are run"),
        (
            mcr.patch_activation(name, torch.ones(1, 8, 16)),
            r"shape \(1, 8, 16\), the activation \(1, 8, 32\)",
        ),
    ]
    for make, message in built:
        with pytest.raises(InputError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)
    for hooks, message in run:
        with pytest.raises(InputError, match=message) as caught:
            model.run_with_hooks(TOKENS, fwd_hooks=hooks)
        assert "\n" not in str(caught.value)
