"""A position is one of the sequence under ``generate`` and in chunks that a user feeds by hand."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from backends import BACKENDS, needs_hooked_transformer
from transformer_lens.model_bridge import TransformerBridge

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.models import model_facts
from mcr_lens.models.backend import HookedTransformer, new_cache, run
from mcr_lens.models.user_hooks import attached_hooks

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


@pytest.fixture(scope="module", params=BACKENDS)
def llama(request: pytest.FixtureRequest, load: Callable[..., Any]) -> Any:
    return load("llama", request.param)


def prompt(length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + length)
    return torch.cat([torch.tensor([[1]]), torch.randint(3, 64, (1, length - 1), generator=generator)], 1)


def generated(model: Any, hooks: list[Any], tokens: torch.Tensor, new: int = 12, cached: bool = True) -> Any:
    """The tokens, and the final states that each pass gave."""
    seen: list[torch.Tensor] = []
    options = {"do_sample": False, "verbose": False, "stop_at_eos": False, "return_type": "tokens"}
    watched = [*hooks, (LAST, lambda state, hook: seen.append(state.detach().clone()))]
    with mcr.generating(model), model.hooks(fwd_hooks=watched):
        out = model.generate(tokens, max_new_tokens=new, use_past_kv_cache=cached, **options)
    return out, seen


def states(model: Any, hooks: list[Any], chunks: list[torch.Tensor], cache: Any = None) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    watched = [*hooks, (LAST, lambda state, hook: seen.append(state.detach().clone()))]
    for chunk in chunks:
        run(model, chunk, watched, cache=cache)
    return torch.cat(seen, 1)


def lists(model: Any, position: int, n_tokens: int) -> dict[str, list[Any]]:
    """Interventions of every kind."""
    kinds = {
        "write": mcr.ablate_mlp_write(LAYERS, position),
        "attention": mcr.ablate_attention_write([0, 2], position, dose=0.5),
        "norm": mcr.clamp_norm([0, 1], position, rest_norm=[1.0] * 4),
        "dimensions": mcr.zero_dimensions([0], range(16), position),
        "z": mcr.patch_activation("blocks.1.attn.hook_z", torch.ones(1, n_tokens, 4, 8), position, heads=[2]),
        "embedding": mcr.patch_activation("blocks.0.hook_resid_pre", torch.ones(1, n_tokens, 32), position),
        "own": mcr.intervention("hook_resid_pre", lambda rows: rows.flip(-1) * 3, position, layers=[1]),
        "twice": mcr.ablate_mlp_write(LAYERS, position, dose=0.5) * 2,
    }
    if "pattern_edits" not in model_facts(model).failed_checks:
        kinds["block"] = mcr.block_attention_to(position, LAYERS, heads=[0, 3])
        kinds["block twice"] = mcr.block_attention_to(position, LAYERS, dose=0.5) * 2
    return kinds


def assert_generation_is_one_pass(model: Any, length: int, position: int) -> None:
    for name, hooks in lists(model, position, length).items():
        out, seen = generated(model, hooks, prompt(length))
        assert [state.shape[1] for state in seen] == [length] + [1] * 11
        whole, plain = states(model, hooks, [out[:, :-1]]), states(model, [], [out[:, :-1]])
        torch.testing.assert_close(torch.cat(seen, 1), whole, rtol=1e-4, atol=1e-4, msg=name)
        assert torch.allclose(whole[:, :position], plain[:, :position]), name
        assert not torch.allclose(whole[:, position:], plain[:, position:], atol=1e-2), name


@pytest.mark.parametrize(("length", "position"), [(2, 0), (5, 4), (12, 0), (1, 0)])
def test_generation_with_a_cache_has_the_states_of_one_pass(model: Any, length: int, position: int) -> None:
    assert_generation_is_one_pass(model, length, position)


@pytest.mark.parametrize("family", OTHERS)
def test_generation_on_other_families(load: Callable[..., Any], family: str) -> None:
    assert_generation_is_one_pass(load(family), 9, 0)


@pytest.mark.parametrize("sizes", [[3, 9, 1, 7], [1, 1, 1, 1, 1, 1, 1, 1, 1, 11]])
def test_chunks_fed_by_hand_are_one_sequence(model: Any, sizes: list[int]) -> None:
    tokens = prompt(20, seed=3).repeat(2, 1)
    for position in (0, 12):
        for name, hooks in lists(model, position, 20).items():
            whole, cache = states(model, hooks, [tokens]), new_cache(model, 2)
            # A position that is yet to come is waited for.
            with mcr.generating(model):
                chunks = states(model, hooks, list(tokens.split(sizes, 1)), cache)
            torch.testing.assert_close(chunks, whole, rtol=1e-4, atol=1e-4, msg=f"{name} at {position}")


def test_a_position_that_generation_will_reach(llama: Any) -> None:
    hooks, tokens = mcr.ablate_mlp_write(LAYERS, positions=10), prompt(8)
    options = {"max_new_tokens": 10, "do_sample": False, "verbose": False, "stop_at_eos": False}
    with (
        pytest.raises(InputError, match=r"position 10 in a prompt of 8 tokens: .*mcr\.generating\(model\)"),
        llama.hooks(fwd_hooks=hooks),
    ):
        llama.generate(tokens, **options)
    cached, seen = generated(llama, hooks, tokens)
    assert torch.equal(cached, generated(llama, hooks, tokens, cached=False)[0])
    torch.testing.assert_close(
        torch.cat(seen, 1), states(llama, hooks, [cached[:, :-1]]), rtol=1e-4, atol=1e-4
    )


def test_a_source_that_generation_outgrows(llama: Any) -> None:
    everywhere = mcr.patch_activation("blocks.1.hook_mlp_out", torch.ones(1, 5, 32))
    out, seen = generated(llama, everywhere, prompt(5))
    with pytest.raises(InputError, match=r"position 5 is beyond the source.*mcr\.generating\(model\)"):
        states(llama, everywhere, [out])
    with mcr.generating(llama):
        whole = states(llama, everywhere, [out[:, :-1]])
    torch.testing.assert_close(torch.cat(seen, 1), whole, rtol=1e-4, atol=1e-4)


def test_the_engine_decides_for_itself_inside_generating(llama: Any) -> None:
    prompts, hooks = mcr.Prompts.from_tokens([[1, *range(3, 20)], [1, 9, 8]]), mcr.ablate_mlp_write([0], 1)
    with mcr.generating(llama):
        inside = mcr.profile(llama, prompts, interventions=hooks, chunk=4, progress=False)
        with pytest.raises(InputError, match="shortest prompt has 3 tokens"):
            mcr.profile(llama, prompts, interventions=mcr.ablate_mlp_write([0], 5), progress=False)
    outside = mcr.profile(llama, prompts, interventions=hooks, progress=False)
    torch.testing.assert_close(*(torch.tensor(p.data.sink_norm.values) for p in (inside, outside)))


PADDED = torch.tensor([[1, 5, 6, 7, 9], [0, 0, 1, 9, 4], [0, 1, 3, 8, 2]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])


ABSOLUTE = pytest.param(("gpt2", "bridge"), id="gpt2-bridge")  # learned positions


@pytest.mark.parametrize("case", [ON_BACKENDS[0], ABSOLUTE, *ON_BACKENDS[-2:]])
def test_left_padding_moves_no_position(load: Callable[..., Any], case: tuple[str, str]) -> None:
    model = load(*case)
    kinds = lists(model, 1, 9) | {
        "each": mcr.ablate_mlp_write([1], [[4], [0, 2], []]),
        "last": mcr.ablate_mlp_write([1], -1),
        "clamped": mcr.clamp_norm([1], 0, max_ratio=0.1),
        "everywhere": mcr.patch_activation("blocks.1.hook_resid_pre", torch.randn(1, 9, 32)),
        "all rows": mcr.intervention("hook_mlp_out", torch.relu, layers=[1]),
    }
    for name, hooks in kinds.items():
        logits = model.run_with_hooks(PADDED, fwd_hooks=hooks, attention_mask=MASK)
        for row in range(3):
            own = hooks
            if name == "each":
                own = mcr.ablate_mlp_write([1], [[[4], [0, 2], [0]][row]], dose=float(row < 2))
            alone = model.run_with_hooks(PADDED[row : row + 1, MASK[row] == 1], fwd_hooks=own)
            torch.testing.assert_close(
                logits[row, MASK[row] == 1], alone[0], rtol=1e-4, atol=1e-4, msg=f"{name}: {row}"
            )
        # Right padding that a mask names is no last token either.
        flipped = model.run_with_hooks(
            torch.stack([row.roll(-int((mask == 0).sum())) for row, mask in zip(PADDED, MASK, strict=True)]),
            fwd_hooks=hooks,
            attention_mask=MASK.flip(1),
        )
        for row, length in enumerate(MASK.sum(1).tolist()):
            torch.testing.assert_close(
                flipped[row, :length], logits[row, 5 - length :], rtol=1e-4, atol=1e-4, msg=f"{name}: {row}"
            )


def test_patterns_of_a_padded_batch_are_not_patched(llama: Any) -> None:
    hooks = mcr.patch_activation("blocks.1.attn.hook_pattern", torch.rand(1, 4, 5, 5))
    with pytest.raises(InputError, match="patterns of a padded batch"):
        llama.run_with_hooks(PADDED, fwd_hooks=hooks, attention_mask=MASK)


def test_a_mask_that_forgets_the_cache_is_refused(load: Callable[..., Any]) -> None:
    model, cache = load("llama"), new_cache(load("llama"), 3)
    model.run_with_hooks(PADDED, attention_mask=MASK, past_key_values=cache, use_cache=True)
    with pytest.raises(InputError, match="mask has 5 columns for 10 tokens: give one of the whole sequence"):
        model.run_with_hooks(
            PADDED,
            fwd_hooks=mcr.ablate_mlp_write([1]),
            attention_mask=MASK,
            past_key_values=cache,
            use_cache=True,
        )


@pytest.mark.parametrize("cached", [True, False])
def test_texts_of_unequal_length_are_generated_together(llama: Any, cached: bool) -> None:
    texts = ["w1 w2 w3 w4 w5", "w7 w8"]
    options = {"max_new_tokens": 5, "do_sample": False, "verbose": False, "stop_at_eos": False}
    rows: list[torch.Tensor] = []
    hooks = mcr.intervention("hook_resid_pre", lambda seen: rows.append(seen) or seen * -2, 1, layers=[1])
    with mcr.generating(llama), llama.hooks(fwd_hooks=hooks):
        together = llama.generate(texts, use_past_kv_cache=cached, prepend_bos=True, **options)
        assert [len(seen) for seen in rows] == ([2] if cached else [2] * 5)
        alone = [llama.generate(t, use_past_kv_cache=cached, prepend_bos=True, **options) for t in texts]
    assert [text.split()[-5:] for text in together] == [text.split()[-5:] for text in alone]


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_cache_knows_what_its_window_has_forgotten(load: Callable[..., Any], family: str) -> None:
    model, tokens = load(family), prompt(30)
    hooks, cache = mcr.ablate_mlp_write([1], positions=23), new_cache(model, 1)
    run(model, tokens[:, :12], [], cache=cache)
    with mcr.generating(model):
        rest = states(model, hooks, list(tokens[:, 12:].split([5, 13], 1)), cache)
    torch.testing.assert_close(rest, states(model, hooks, [tokens])[:, 12:], rtol=1e-4, atol=1e-4)


def unknown(backend: str, folder: Any) -> Any:
    """A model that mcr_lens has not seen."""
    if backend == "bridge":
        return TransformerBridge.boot_transformers(str(folder))
    options = {"n_layers": 2, "d_model": 32, "n_ctx": 64, "d_head": 8, "n_heads": 4, "d_vocab": 64}
    return HookedTransformer(options | {"act_fn": "relu", "seed": 0})  # type: ignore[misc,operator]


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_model_that_is_not_known_nothing_is_guessed(backend: str, llama_folder: Any) -> None:
    model, hooks, tokens = unknown(backend, llama_folder), mcr.ablate_mlp_write([1]), prompt(6)
    for block in (tokens, tokens[:, :1]):
        with pytest.raises(InputError, match=r"`with mcr\.generating\(model\):`, or give model=") as caught:
            model.run_with_hooks(block, fwd_hooks=hooks)
        assert "\n" not in str(caught.value)
    with mcr.generating(model):
        inside = model.run_with_hooks(tokens, fwd_hooks=hooks)
    with pytest.raises(InputError, match="nothing says"):
        model.run_with_hooks(tokens, fwd_hooks=hooks)
    by_hand = [("blocks.1.hook_mlp_out", lambda write, hook: torch.cat([write[:, :1] * 0, write[:, 1:]], 1))]
    expected = model.run_with_hooks(tokens, fwd_hooks=by_hand)
    assert torch.equal(inside, expected)
    assert torch.equal(
        model.run_with_hooks(tokens, fwd_hooks=mcr.ablate_mlp_write([1], model=model)), expected
    )
    # From now on it is known.
    assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks), expected)
    with pytest.raises(InputError), mcr.generating("tiny"):
        pass


def test_what_follows_a_model_is_no_hook_of_the_user_and_outlasts_a_copy(llama_folder: Any) -> None:
    model: Any = mcr.load_model(llama_folder)
    hooks, tokens = mcr.ablate_mlp_write([1]), prompt(6)
    expected = model.run_with_hooks(tokens, fwd_hooks=hooks)
    assert attached_hooks(model) == []
    model.reset_hooks(including_permanent=True)
    assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks), expected)
    mcr.load_model(model)
    assert len(model.original_model._forward_pre_hooks) == 1


@needs_hooked_transformer
def test_copies_of_a_model_are_followed(llama_folder: Any) -> None:
    model = mcr.load_model(llama_folder, backend="hooked_transformer")
    hooks, tokens = mcr.ablate_mlp_write([1], 1), prompt(6)
    expected = model.run_with_hooks(tokens, fwd_hooks=hooks)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        cache = new_cache(twin, 1)
        chunks = [
            twin.run_with_hooks(chunk, fwd_hooks=hooks, past_kv_cache=cache)
            for chunk in tokens.split([2, 4], 1)
        ]
        torch.testing.assert_close(torch.cat(chunks, 1), expected, rtol=1e-4, atol=1e-4)


@needs_hooked_transformer
def test_outside_the_blocks_hooked_transformer_refuses(load: Callable[..., Any]) -> None:
    model = load("llama", "hooked_transformer")
    hooks = mcr.patch_activation("hook_embed", torch.ones(1, 6, 32), 0)
    with pytest.raises(InputError, match=r"hook_embed is outside the blocks.*blocks\.0\.hook_resid_pre"):
        model.run_with_hooks(prompt(6), fwd_hooks=hooks)
    mcr.profile(model, mcr.Prompts.from_tokens([[1, 2, 3]]), interventions=hooks, progress=False)
