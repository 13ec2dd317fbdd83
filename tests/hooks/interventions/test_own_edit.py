"""A user's own edit against plain Hugging Face runs under the same edit, however the model is fed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from backends import needs_hooked_transformer
from families import eager
from hugging_face_oracle import LAYERS as HF_LAYERS

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.hooks import current_context
from mcr_lens.models.backend import backend_of, new_cache

# Gemma 2 has sliding windows of 8 in two of three layers, GPT-2 learned positions.
CASES = [
    *[pytest.param((family, "bridge"), id=f"{family}-bridge") for family in ("llama", "gpt2", "gemma2")],
    *[
        pytest.param((family, "hooked_transformer"), id=f"{family}-hooked", marks=needs_hooked_transformer)
        for family in ("llama", "qwen2")
    ],
]
PROMPTS = [[1, 5, 6, 7, 9, 11, 2, 3, 8, 30, 31], [1, 9, 4, 44, 3], [1, 3, 8, 2, 19, 20, 21]]
POST = "blocks.2.hook_resid_post"
LAYERS = [1, 2]
Positions = Sequence[int]


def turned(rows: torch.Tensor) -> torch.Tensor:
    """An edit that is not linear, nor its own inverse: done twice it shows."""
    return rows.flip(-1) * 2 + 1


class Oracle:
    """A plain Hugging Face model whose decoder layers get edited rows."""

    def __init__(self, folder: Path) -> None:
        self.model = eager(folder)

    def logits(self, tokens: Sequence[int], positions: Positions) -> torch.Tensor:
        """Of one whole prompt, without a cache."""
        at = [position % len(tokens) for position in positions]

        def edit(_module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
            state = (inputs[0] if inputs else named["hidden_states"]).clone()
            state[0, at] = turned(state[0, at])
            return ((state, *inputs[1:]), named) if inputs else (inputs, {**named, "hidden_states": state})

        layers = self.model.get_submodule(HF_LAYERS.get(self.model.config.model_type, "model.layers"))
        handles = [layers[i].register_forward_pre_hook(edit, with_kwargs=True) for i in LAYERS]
        try:
            with torch.no_grad():
                return self.model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()

    def generate(self, tokens: Sequence[int], positions: Positions, new: int) -> list[int]:
        """Greedily, every token from a whole pass."""
        sequence = list(tokens)
        for _ in range(new):
            sequence.append(int(self.logits(sequence, positions)[-1].argmax()))
        return sequence[len(tokens) :]


class Logits:
    """What the model predicts at each real token, by prompt: an observer as a user writes one."""

    def __init__(self, model: Any) -> None:
        self.model, self.rows = model, {}

    def hooks(self) -> list[Any]:
        return [(POST, self.keep)]

    def keep(self, state: torch.Tensor, hook: Any) -> None:
        context = current_context()
        assert context.prompts is not None and context.lengths is not None
        read_out = self.model.unembed(self.model.ln_final(state)).detach()
        cap = getattr(self.model.cfg, "output_logits_soft_cap", None) or 0
        read_out = torch.tanh(read_out / cap) * cap if cap > 0 else read_out
        for row, prompt in enumerate(context.prompts):
            n = max(0, int(context.lengths[row]) - context.offset)
            self.rows.setdefault(prompt, []).append(read_out[row, :n])

    def result(self) -> xr.Dataset:
        return xr.Dataset()


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, load: Any, family_folder: Callable[[str], Path]) -> Any:
    return load(*request.param), Oracle(family_folder(request.param[0]))


def assert_equal(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4, msg=lambda text: f"{what}: {text}")


def edit(positions: Any) -> list[Any]:
    return mcr.intervention("hook_resid_pre", turned, positions, LAYERS)


# What is asked for, and what that is for each of the three prompts.
WHERE: dict[str, tuple[Any, list[Positions]]] = {
    "the first": (0, [[0]] * 3),
    "the last": (-1, [[-1]] * 3),
    "several": ([0, 3], [[0, 3]] * 3),
    "each its own": ([[9, 2], [], [-2]], [[9, 2], [], [-2]]),
    "all": (None, [range(11), range(5), range(7)]),
}


@pytest.mark.parametrize("where", WHERE)
def test_ragged_batches_and_chunks_edit_each_position_once(pair: Any, where: str) -> None:
    model, oracle = pair
    asked, own = WHERE[where]
    expected = [oracle.logits(tokens, places) for tokens, places in zip(PROMPTS, own, strict=True)]
    for options in ({}, {"chunk": 1}, {"chunk": 3, "batch_size": 2}, {"chunk": 4}):
        seen = Logits(model)
        mcr.measure(
            model,
            mcr.Prompts.from_tokens(PROMPTS),
            [seen],
            interventions=edit(asked),
            progress=False,
            **options,
        )
        for prompt, logits in enumerate(expected):
            assert_equal(torch.cat(seen.rows[prompt]), logits, f"{options}, prompt {prompt}")


@pytest.mark.parametrize("where", WHERE)
def test_a_left_padded_batch_edits_each_position_once(pair: Any, where: str) -> None:
    model, oracle = pair
    asked, own = WHERE[where]
    longest = max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (longest - len(tokens)) + tokens for tokens in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in PROMPTS])
    with torch.no_grad():
        found = model.run_with_hooks(padded, fwd_hooks=edit(asked), attention_mask=mask)
    for row, (tokens, places) in enumerate(zip(PROMPTS, own, strict=True)):
        assert_equal(found[row, longest - len(tokens) :], oracle.logits(tokens, places), f"prompt {row}")


@pytest.mark.parametrize("positions", [[0], [0, 12], [3, 10, 11]], ids=str)
def test_a_continuation_of_several_rows_is_placed(pair: Any, positions: list[int]) -> None:
    model, oracle = pair
    tokens = PROMPTS[0] + PROMPTS[2][1:]
    expected = oracle.logits(tokens, positions)
    named = "past_key_values" if backend_of(model) == "bridge" else "past_kv_cache"
    for sizes in ([11, 6], [4, 4, 9], [1, 15, 1]):
        options: dict[str, Any] = {named: new_cache(model, 1)}
        options |= {"use_cache": True} if named == "past_key_values" else {}
        chunks, before = [], 0
        with torch.no_grad(), mcr.generating(model):
            for size in sizes:
                chunk = torch.tensor([tokens[before : before + size]])
                if named == "past_kv_cache":
                    options["attention_mask"] = torch.ones_like(chunk)
                chunks.append(model.run_with_hooks(chunk, fwd_hooks=edit(positions), **options))
                before += size
        assert_equal(torch.cat(chunks, 1)[0], expected, str(sizes))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("positions", [[0], [0, 3], [2, 13]], ids=str)
def test_generation_is_that_of_whole_passes(pair: Any, positions: list[int], cached: bool) -> None:
    model, oracle = pair
    options = {"max_new_tokens": 8, "do_sample": False, "verbose": False, "stop_at_eos": False}
    for tokens in PROMPTS[:2]:
        with mcr.generating(model), model.hooks(fwd_hooks=edit(positions)):
            out = model.generate(torch.tensor([tokens]), use_past_kv_cache=cached, **options)
        # What the oracle has no token for yet it leaves out.
        sequence = list(tokens)
        for _ in range(8):
            there = [position for position in positions if position < len(sequence)]
            sequence += oracle.generate(sequence, there, 1)
        assert out[0].tolist() == sequence


def test_a_plain_hook_is_told_of_chunks(load: Any) -> None:
    model, prompts = load("llama"), mcr.Prompts.from_tokens(PROMPTS)
    own = [("blocks.1.hook_mlp_out", lambda write, hook: write * 2)]
    with pytest.warns(UserWarning, match=r"your hook at blocks\.1\.hook_mlp_out.*mcr_lens\.intervention"):
        mcr.measure(model, prompts, [], interventions=own, chunk=3, progress=False)
    mcr.measure(model, prompts, [], interventions=own, chunk=11, progress=False)
    mcr.measure(model, prompts, [], interventions=edit(0), chunk=3, progress=False)


def test_a_hook_that_cannot_work_is_refused_by_name(load: Any) -> None:
    model, prompts = load("llama"), mcr.Prompts.from_tokens(PROMPTS)
    name = "blocks.1.hook_mlp_out"
    plain: list[tuple[Any, str]] = [
        (lambda write, hook: write[:, :1], rf"{name} returned \(3, 1, 32\) for \(3, 11, 32\)"),
        (lambda write, hook: 3.0, rf"{name} returned float"),
        (lambda write: write, rf"{name}' does not take \(tensor, hook\)"),
        (lambda write, h: write, rf"{name}' does not take \(tensor, hook\)"),
    ]
    lists = [([(name, function)], message) for function, message in plain]
    lists += [
        (
            mcr.intervention(name, lambda rows: rows[:1]),
            r"returned \(1, 32\) for rows of \(23, 32\): return as many",
        ),
        (mcr.intervention(name, lambda rows: None), "returned NoneType"),  # type: ignore[arg-type,return-value]
        (mcr.intervention("hook_mlp_out", torch.relu, layers=[3]), r"no hook 'blocks\.3\.hook_mlp_out'"),
        (mcr.intervention(name, torch.relu, 5), "shortest prompt has 5 tokens"),
        (mcr.intervention(name, torch.relu, [[0], [1]]), "positions for 2 prompts, 3 are run"),
    ]
    for hooks, message in lists:
        with pytest.raises(InputError, match=message) as caught:
            mcr.measure(model, prompts, [], interventions=hooks, progress=False)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mcr.intervention(3, torch.relu), "at 3: use a hook point"),  # type: ignore[arg-type]
        (lambda: mcr.intervention("blocks.1.hook_mlp_out", torch.relu, layers=[1]), r"follows 'blocks\.N\.'"),
        (lambda: mcr.intervention("hook_mlp_out", None, layers=[1]), "function None"),  # type: ignore[arg-type]
        (lambda: mcr.intervention("hook_mlp_out", torch.relu, "last"), "positions 'last'"),  # type: ignore[arg-type]
        (lambda: mcr.intervention("hook_mlp_out", torch.relu, layers=[-1]), "whole numbers from 0"),
    ],
)
def test_bad_input_is_refused_when_the_list_is_built(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_rows_of_patterns_are_queries(load: Any, see: Any) -> None:
    model, name = load("llama"), "blocks.1.attn.hook_pattern"
    tokens = torch.tensor([PROMPTS[0]])
    before = see(model, [], [name], tokens)[name]
    hooks = mcr.intervention("attn.hook_pattern", lambda rows: rows.flip(1), [2, -1], layers=1)
    after = see(model, hooks, [name], tokens)[name]
    expected = before.clone()
    expected[:, :, [2, 10]] = before[:, :, [2, 10]].flip(1)
    assert torch.equal(after, expected)


def test_what_has_no_row_for_each_token_is_refused(load: Any) -> None:
    model = load("llama")
    name = "blocks.1.hook_flat"
    function = mcr.intervention(name, torch.relu, 0)[0][1]
    hooks = [("blocks.1.hook_resid_pre", lambda state, hook: function(state.flatten(0, 1), hook=hook))]
    with pytest.raises(InputError, match=r"hook_flat has shape \(11, 32\).*1 prompts of 11 rows"):
        model.run_with_hooks(torch.tensor([PROMPTS[0]]), fwd_hooks=hooks)


def test_what_was_done_is_recorded(load: Any) -> None:
    hooks = edit([0, 3]) + mcr.intervention("blocks.0.hook_mlp_out", torch.relu)
    profile = mcr.profile(
        load("llama"), mcr.Prompts.from_tokens(PROMPTS), interventions=hooks, progress=False
    )
    assert profile.data.attrs["interventions"] == [
        "intervention(at=hook_resid_pre, layers=[1, 2], function=turned, positions=[0, 3])",
        "intervention(at=blocks.0.hook_mlp_out, function=relu, positions=all)",
    ]
