"""A position is one of the sequence under ``generate`` and in chunks that a user feeds by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from backends import BACKENDS, needs_hooked_transformer

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.hooks import BatchContext, growing, running
from mcr_lens.models import model_facts
from mcr_lens.models.backend import new_cache, run

# Mistral forgets in every layer, Gemma 2 in two of three (window 8); GPT-Neo's attention writes before
# its pattern shows.
BRIDGES = ["llama", "mistral", "gemma2", "gpt_neo"]
ON_BACKENDS = [pytest.param((family, "bridge"), id=f"{family}-bridge") for family in BRIDGES] + [
    pytest.param((family, "hooked_transformer"), id=f"{family}-hooked", marks=needs_hooked_transformer)
    for family in ("llama", "qwen2")
]
OTHERS = ["qwen2", "gpt2", "gpt_neox", "bloom", "opt", "gptj"]
LAYERS = range(3)
LAST = "blocks.2.hook_resid_post"


@pytest.fixture(scope="module", params=ON_BACKENDS)
def model(request: pytest.FixtureRequest, load: Callable[..., Any]) -> Any:
    return load(*request.param)


@pytest.fixture(scope="module", params=BRIDGES[:3])
def bridge(request: pytest.FixtureRequest, load: Callable[..., Any]) -> Any:
    return load(request.param)


@pytest.fixture
def llama(load: Callable[..., Any]) -> Any:
    return load("llama")


def prompt(length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + length)
    return torch.cat([torch.tensor([[1]]), torch.randint(3, 64, (1, length - 1), generator=generator)], 1)


def generated(model: Any, hooks: list[Any], tokens: torch.Tensor, new: int = 12, cached: bool = True) -> Any:
    """The tokens, and the final states that each pass gave."""
    seen: list[torch.Tensor] = []
    options = {"do_sample": False, "verbose": False, "stop_at_eos": False, "return_type": "tokens"}
    with model.hooks(fwd_hooks=[*hooks, (LAST, lambda state, hook: seen.append(state.detach().clone()))]):
        out = model.generate(tokens, max_new_tokens=new, use_past_kv_cache=cached, **options)
    return out, seen


def one_pass(model: Any, hooks: list[Any], tokens: torch.Tensor) -> torch.Tensor:
    return generated_states(model, hooks, [tokens], cache=None)


def generated_states(model: Any, hooks: list[Any], chunks: list[torch.Tensor], cache: Any) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    watched = [*hooks, (LAST, lambda state, hook: seen.append(state.detach().clone()))]
    for chunk in chunks:
        run(model, chunk, watched, cache=cache)
    return torch.cat(seen, 1)


def by_hand(model: Any, hooks: list[Any], tokens: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Chunks through the model's own cache, with nobody to say where they stand."""
    return generated_states(model, hooks, list(tokens.split(sizes, 1)), new_cache(model, len(tokens)))


def lists(model: Any, position: int, n_tokens: int, early: bool = True) -> dict[str, list[Any]]:
    """Interventions of every kind; the early ones edit before block 0's attention."""
    made = {
        "write": mcr.ablate_mlp_write(LAYERS, position),
        "attention": mcr.ablate_attention_write([1, 2], position, dose=0.5),
        "norm": mcr.clamp_norm([0, 1], position, rest_norm=[1.0] * 4),
        "dimensions": mcr.zero_dimensions([0], range(16), position),
        "z": mcr.patch_activation("blocks.1.attn.hook_z", torch.ones(1, n_tokens, 4, 8), position, heads=[2]),
        "two": mcr.ablate_mlp_write([0], position) + mcr.ablate_attention_write([1], position),
        "twice": mcr.ablate_mlp_write(LAYERS, position, dose=0.5) * 2,
    }
    if "pattern_edits" not in model_facts(model).failed_checks:
        made["block"] = mcr.block_attention_to(position, LAYERS, heads=[0, 3])
        made["block twice"] = mcr.block_attention_to(position, LAYERS, dose=0.5) * 2
    if early:
        source = torch.ones(1, n_tokens, 32)
        made["embedding"] = mcr.patch_activation("blocks.0.hook_resid_pre", source, position)
    if early or "block" in made:
        made["first attention"] = mcr.ablate_attention_write([0], position, dose=0.5)
    return made


def assert_generation_is_one_pass(model: Any, length: int, position: int) -> None:
    for name, hooks in lists(model, position, length).items():
        out, seen = generated(model, hooks, prompt(length))
        assert [states.shape[1] for states in seen] == [length] + [1] * 11
        whole, plain = one_pass(model, hooks, out[:, :-1]), one_pass(model, [], out[:, :-1])
        torch.testing.assert_close(torch.cat(seen, 1), whole, rtol=1e-4, atol=1e-4, msg=name)
        assert torch.allclose(whole[:, :position], plain[:, :position]), name
        assert not torch.allclose(whole[:, position:], plain[:, position:], atol=1e-2), name


@pytest.mark.parametrize(("length", "position"), [(2, 0), (5, 4), (12, 0)])
def test_generation_with_a_cache_has_the_states_of_one_pass(model: Any, length: int, position: int) -> None:
    assert_generation_is_one_pass(model, length, position)


@pytest.mark.parametrize("family", OTHERS)
def test_generation_on_other_families(load: Callable[..., Any], family: str) -> None:
    assert_generation_is_one_pass(load(family), 9, 0)


@pytest.mark.parametrize("sizes", [[3, 9, 1, 7], [1, 1, 1, 1, 1, 1, 1, 1, 1, 11]])
def test_chunks_fed_by_hand_are_one_sequence(model: Any, sizes: list[int]) -> None:
    tokens = prompt(20, seed=3).repeat(2, 1)
    for position in (0, 12):
        # Chunks grow the sequence: a position that is yet to come is waited for.
        with growing():
            for name, hooks in lists(model, position, 20, early=False).items():
                whole = one_pass(model, hooks, tokens)
                chunks = by_hand(model, hooks, tokens, sizes)
                torch.testing.assert_close(chunks, whole, rtol=1e-4, atol=1e-4, msg=f"{name} at {position}")


def test_a_chunk_that_an_early_edit_would_misplace_is_refused(model: Any) -> None:
    tokens = prompt(12)
    name = "blocks.0.hook_resid_pre"
    hooks = mcr.patch_activation(name, torch.ones(1, 12, 32), positions=1)
    with pytest.raises(InputError, match=r"took its first row for position 0, it was 5.*BatchContext"):
        by_hand(model, hooks, tokens, [5, 7])
    # The way out that the message names is one.
    cache, states = new_cache(model, 1), []
    for offset, chunk in [(0, tokens[:, :5]), (5, tokens[:, 5:])]:
        with running(BatchContext(offset, torch.tensor([12]))):
            states.append(generated_states(model, hooks, [chunk], cache))
    whole = one_pass(model, hooks, tokens)
    torch.testing.assert_close(torch.cat(states, 1), whole, rtol=1e-4, atol=1e-4)


def test_scores_before_the_first_pattern_are_met_at_their_position(bridge: Any) -> None:
    scores = torch.full((1, 4, 20, 20), -1e9).triu(1)
    for positions in (4, 7):
        hooks = mcr.patch_activation("blocks.0.attn.hook_attn_scores", scores, positions, heads=2)
        with growing():
            out, seen = generated(bridge, hooks, prompt(5))
            whole, plain = (one_pass(bridge, made, out[:, :-1]) for made in (hooks, []))
        torch.testing.assert_close(torch.cat(seen, 1), whole, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(whole[:, positions], plain[:, positions], atol=1e-2)


def test_one_list_serves_one_sequence_after_the_other(model: Any) -> None:
    for name in ("write", "two", "twice", "embedding", "first attention"):
        hooks, fresh = (lists(model, 1, 40)[name] for _ in range(2))
        for length, batch in [(12, 1), (20, 3), (4, 2)]:
            tokens = prompt(length).repeat(batch, 1)
            out, seen = generated(model, hooks, tokens, new=5)
            whole = one_pass(model, fresh, out[:, :-1])
            torch.testing.assert_close(torch.cat(seen, 1), whole, rtol=1e-4, atol=1e-4, msg=name)


def test_a_prompt_of_one_token_and_a_single_new_one(model: Any) -> None:
    for name, hooks in lists(model, 0, 1).items():
        out, seen = generated(model, hooks, prompt(1), new=6)
        whole = one_pass(model, lists(model, 0, 1)[name], out[:, :-1])
        torch.testing.assert_close(torch.cat(seen, 1), whole, rtol=1e-4, atol=1e-4, msg=name)
        out, seen = generated(model, lists(model, 0, 5)[name], prompt(5), new=1)
        assert out.shape == (1, 6)
        assert len(seen) == 1


def test_a_lone_token_after_another_sequence_is_never_misplaced(llama: Any) -> None:
    early = mcr.patch_activation("blocks.0.hook_resid_pre", torch.ones(1, 5, 32), 0)
    generated(llama, early, prompt(5), new=3)
    with pytest.raises(InputError, match=r"position 7, it was 0: build the list anew for every sequence"):
        generated(llama, early, prompt(1), new=3)
    # Once it is told, the next sequence is a new one.
    out, seen = generated(llama, early, prompt(1), new=3)
    whole = one_pass(llama, early, out[:, :-1])
    torch.testing.assert_close(torch.cat(seen, 1), whole, rtol=1e-4, atol=1e-4)


def test_the_engine_in_between_changes_nothing(bridge: Any) -> None:
    prompts = mcr.Prompts.from_tokens([[1, *range(3, 20)], [1, 9, 8]])
    early = mcr.patch_activation("blocks.0.hook_resid_pre", torch.ones(1, 40, 32), 1)
    for hooks in (early, mcr.ablate_mlp_write([0], 1)):
        before, _ = generated(bridge, hooks, prompt(9))
        profiles = [
            mcr.profile(bridge, prompts, interventions=hooks, chunk=c, progress=False) for c in (None, 4)
        ]
        torch.testing.assert_close(*(torch.tensor(p.data.sink_norm.values) for p in profiles))
        out, seen = generated(bridge, hooks, prompt(9))
        assert torch.equal(out, before)
        torch.testing.assert_close(
            torch.cat(seen, 1), one_pass(bridge, hooks, out[:, :-1]), rtol=1e-4, atol=1e-4
        )


def test_a_source_that_generation_outgrows(llama: Any) -> None:
    source = torch.ones(1, 5, 32)
    everywhere = mcr.patch_activation("blocks.1.hook_mlp_out", source)
    out, seen = generated(llama, everywhere, prompt(5))
    with pytest.raises(InputError, match=r"position 5 is beyond the source"):
        one_pass(llama, everywhere, out)
    with growing():
        whole = one_pass(llama, everywhere, out[:, :-1])
    torch.testing.assert_close(torch.cat(seen, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_left_padding_is_refused(load: Callable[..., Any], family: str, backend: str) -> None:
    model = load(family, backend)
    tokens, mask = torch.tensor([[1, 5, 6, 7], [0, 0, 1, 9]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    early = mcr.patch_activation("blocks.0.hook_resid_pre", torch.ones(1, 9, 32))
    for hooks in (mcr.ablate_mlp_write([1]), early, mcr.block_attention_to(0, [2])):
        with pytest.raises(InputError, match=r"prompt 1 of the batch .*left padding"):
            model.run_with_hooks(tokens, fwd_hooks=hooks, attention_mask=mask)
        model.run_with_hooks(tokens.flip(1), fwd_hooks=hooks, attention_mask=mask.flip(1))
    # An attention that somebody else has emptied is no padding.
    nothing = [("blocks.0.attn.hook_pattern", lambda pattern, hook: torch.zeros_like(pattern))]
    run(model, prompt(5), nothing + mcr.ablate_mlp_write([1]))


def test_texts_of_unequal_length_are_generated_one_at_a_time(bridge: Any) -> None:
    hooks, texts = mcr.ablate_mlp_write([1]), ["w1 w2 w3 w4 w5", "w7 w8"]
    options = {"max_new_tokens": 2, "do_sample": False, "verbose": False}
    with pytest.raises(InputError, match="left padding"), bridge.hooks(fwd_hooks=hooks):
        bridge.generate(texts, **options)
    for text in texts:
        with bridge.hooks(fwd_hooks=hooks):
            bridge.generate(text, **options)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_sequence_that_a_window_has_forgotten_is_not_guessed(load: Callable[..., Any], family: str) -> None:
    model, tokens = load(family), prompt(20)
    hooks = mcr.ablate_mlp_write([1], position=13)
    cache = new_cache(model, 1)
    run(model, tokens[:, :12], [], cache=cache)
    with pytest.raises(InputError, match=r"a window of 8 keeps.*from the first token on"):
        run(model, tokens[:, 12:], hooks, cache=cache)
    cache = new_cache(model, 1)
    run(model, tokens[:, :5], [], cache=cache)
    joined = generated_states(model, hooks, [tokens[:, 5:]], cache)
    torch.testing.assert_close(joined, one_pass(model, hooks, tokens)[:, 5:], rtol=1e-4, atol=1e-4)
