"""Inf and NaN are named by prompt and depth; they touch no other prompt and no mean."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS
from families import save_tokenizer
from planted import BOS, planted_llama
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.hooks import AttentionObserver, current_context
from mcr_lens.not_finite import not_finite_note
from mcr_lens.phases import locate_sink
from mcr_lens.results import caveats

PROMPTS = mcr.Prompts.from_tokens([[1, *range(3, 30)], [1, *range(20, 42)], [1, *range(30, 54)]])
LAYER, POSITION, BROKEN = 1, 7, 2


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, llama_folder: Path) -> Any:
    return mcr.load_model(llama_folder, backend=request.param)


def plant(value: float, point: str = "hook_mlp_out", position: int = POSITION) -> list[Any]:
    """Write a value into one component of one token of the broken prompt."""

    def edit(write: torch.Tensor, hook: Any) -> torch.Tensor:
        context = current_context()
        row, prompts = position - context.offset, context.prompts or ()
        if BROKEN not in prompts or not 0 <= row < write.shape[1]:
            return write
        edited = write.clone()
        edited[prompts.index(BROKEN), row, 5] = value
        return edited

    return [(f"blocks.{LAYER}.{point}", edit)]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("options", [{}, {"chunk": 4}, {"batch_size": 1}], ids=str)
def test_the_others_are_right_and_the_broken_one_is_named(
    model: Any, value: float, options: dict[str, Any]
) -> None:
    sound = mcr.profile(model, PROMPTS, progress=False).data
    with pytest.warns(RuntimeWarning, match="1 of 3 prompts, first in prompt 2 at depth 2 .which layer 1"):
        broken = mcr.profile(model, PROMPTS, interventions=plant(value), progress=False, **options).data
    assert broken.not_finite_depth.values.tolist() == [-1, -1, LAYER + 1]
    assert set(broken.data_vars) == set(sound.data_vars)
    for name in sound.data_vars:
        for prompt in (0, 1):
            np.testing.assert_allclose(
                broken[name].sel(prompt=prompt), sound[name].sel(prompt=prompt), 1e-5, 1e-6, err_msg=name
            )
        found, expected = broken[name].sel(prompt=BROKEN), sound[name].sel(prompt=BROKEN)
        # What is read before the plant is as it was, what rests on it is nothing.
        place = "depth" if "depth" in found.dims else "layer"
        clean = slice(None, LAYER if place == "depth" or "write" not in str(name) else LAYER - 1)
        np.testing.assert_allclose(found.sel({place: clean}), expected.sel({place: clean}), 1e-5, 1e-6)
        lost = found.sel({place: slice(LAYER + 1, None)})
        if np.issubdtype(lost.dtype, np.integer):
            assert (lost == -1).all(), name
        else:
            assert lost.isnull().all(), name


def test_means_leave_the_broken_prompt_out_and_say_so(model: Any) -> None:
    sound = mcr.profile(model, PROMPTS, progress=False)
    with pytest.warns(RuntimeWarning):
        broken = mcr.profile(model, PROMPTS, interventions=plant(float("inf")), progress=False)
    assert np.isfinite(broken.summary().drop(columns=["sink_rate", "mixing_score"]).to_numpy()).all()
    rest = sound.data.norm_ratio.isel(prompt=[0, 1]).mean("prompt")
    np.testing.assert_allclose(broken.summary().norm_ratio[LAYER + 1 :], rest[LAYER + 1 :], rtol=1e-5)
    (note,) = [sentence for sentence in caveats(broken) if "Inf or NaN" in sentence]
    assert "prompt 2 at depth 2 (which layer 1 leaves behind)" in note
    assert note in broken._repr_html_()
    broken.phases()
    assert (locate_sink(broken, 0.0, min_prompts=0.0).prompts <= 1).all()


def test_the_first_of_several_is_named(model: Any) -> None:
    later = [(f"blocks.2.{plant(0.0)[0][0].split('.')[-1]}", lambda write, hook: write * float("nan"))]
    with pytest.warns(RuntimeWarning, match="3 of 3 prompts, first in prompt 2 at depth 2 "):
        data = mcr.profile(model, PROMPTS, interventions=plant(float("inf")) + later, progress=False).data
    assert data.not_finite_depth.values.tolist() == [3, 3, 2]


def test_an_embedding_can_be_broken(model: Any) -> None:
    def edit(state: torch.Tensor, hook: Any) -> torch.Tensor:
        return state * float("nan")

    with pytest.warns(
        RuntimeWarning, match=r"3 of 3 prompts, first in prompt 0 at depth 0 \(the embedding\)"
    ):
        data = mcr.profile(
            model, PROMPTS, interventions=[("blocks.0.hook_resid_pre", edit)], progress=False
        ).data
    assert all(values.isnull().all() or (values == -1).all() for values in data.data_vars.values())


def test_a_sound_run_says_nothing(model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = mcr.profile(model, PROMPTS, progress=False).data
    assert (data.not_finite_depth == -1).all()
    assert not_finite_note(data) is None


def test_attention_alone_leaves_a_broken_prompt_out(model: Any) -> None:
    """Also where a model makes rows of NaN into rows of zeros, which look like padding."""
    edit = [("blocks.1.hook_resid_pre", plant(float("inf"))[0][1])]
    with pytest.warns(RuntimeWarning, match="1 of 3 prompts, first in prompt 2 at depth 1 "):
        data = mcr.measure(model, PROMPTS, [AttentionObserver(model)], interventions=edit, progress=False)
    assert data.sink_score.sel(prompt=BROKEN, layer=1).isnull().all()
    assert data.sink_score.sel(prompt=[0, 1]).notnull().all()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("options", [{}, {"chunk": 4}], ids=str)
def test_a_broken_attention_score_is_named_too(model: Any, value: float, options: dict[str, Any]) -> None:
    """A HookedTransformer makes its row into zeros, and goes on with a state that is finite and wrong."""

    def edit(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        context = current_context()
        row = POSITION - context.offset
        if not 0 <= row < scores.shape[2]:
            return scores
        edited = scores.clone()
        edited[(context.prompts or ()).index(BROKEN), 1, row, 2] = value
        return edited

    sound = mcr.profile(model, PROMPTS, progress=False).data
    hooks = [(f"blocks.{LAYER}.attn.hook_attn_scores", edit)]
    with pytest.warns(RuntimeWarning, match="1 of 3 prompts, first in prompt 2 at depth 2 .which layer 1"):
        broken = mcr.profile(model, PROMPTS, interventions=hooks, progress=False, **options).data
    assert broken.not_finite_depth.values.tolist() == [-1, -1, LAYER + 1]
    assert set(broken.data_vars) == set(sound.data_vars)
    for name in sound.data_vars:
        kept = {"prompt": [0, 1]}
        np.testing.assert_allclose(broken[name].sel(kept), sound[name].sel(kept), 1e-5, 1e-6)
    assert broken.norm_ratio.sel(prompt=BROKEN, depth=slice(LAYER + 1, None)).isnull().all()
    assert broken.norm_ratio.sel(prompt=BROKEN, depth=slice(None, LAYER)).notnull().all()
    assert broken.mlp_write_norm.sel(prompt=BROKEN, layer=slice(LAYER + 1, None)).isnull().all()
    assert broken.sink_score.sel(prompt=BROKEN, layer=slice(LAYER + 1, None)).isnull().all()


def test_a_bridge_in_compatibility_mode_hides_nothing_either(llama_folder: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    def edit(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        edited = scores.clone()
        edited[(current_context().prompts or ()).index(BROKEN), 1, POSITION, 2] = torch.nan
        return edited

    bridge = TransformerBridge.boot_transformers(str(llama_folder), device="cpu")
    bridge.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    hooks = [(f"blocks.{LAYER}.attn.hook_attn_scores", edit)]
    with pytest.warns(RuntimeWarning, match="1 of 3 prompts, first in prompt 2 at depth 2 "):
        data = mcr.measure(bridge, PROMPTS, [AttentionObserver(bridge)], interventions=hooks, progress=False)
    assert data.not_finite_depth.values.tolist() == [-1, -1, LAYER + 1]
    assert data.sink_score.sel(prompt=BROKEN, layer=LAYER).isnull().values.tolist() == [
        False,
        True,
        False,
        False,
    ]


@pytest.mark.filterwarnings("ignore:Inf or NaN:RuntimeWarning")
def test_no_lens_is_fitted_to_states_that_lost_attention(model: Any) -> None:
    def edit(queries: torch.Tensor, hook: Any) -> torch.Tensor:
        edited = queries.clone()
        edited[0, 2, 1] = float("nan")
        return edited

    before = mcr.experiments.fit_tuned_lens(model, PROMPTS, steps=2, progress=False)
    point = model.hook_dict[f"blocks.{LAYER}.attn.hook_q"]
    point.add_hook(edit)
    try:
        with pytest.raises(mcr.InputError, match="Inf or NaN in the model's own states: there is nothing"):
            mcr.experiments.fit_tuned_lens(model, PROMPTS, steps=2, progress=False)
        assert len(point.fwd_hooks) == 1
    finally:
        model.reset_hooks()
    after = mcr.experiments.fit_tuned_lens(model, PROMPTS, steps=2, progress=False)
    assert torch.equal(before.weights, after.weights)


@pytest.mark.parametrize("attached", [False, True])
def test_a_key_that_is_knocked_out_is_not_broken(model: Any, attached: bool) -> None:
    """Minus infinity as a score, also of the only key that the first token has."""

    def knock_out(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        edited = scores.clone()
        edited[..., 0] = -torch.inf
        return edited

    name = f"blocks.{LAYER}.attn.hook_attn_scores"
    hooks = [] if attached else [(name, knock_out)]
    if attached:
        model.hook_dict[name].add_hook(knock_out)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            data = mcr.profile(model, PROMPTS, interventions=hooks, progress=False).data
    finally:
        model.reset_hooks()
    assert (data.not_finite_depth == -1).all()
    assert data.norm_ratio.notnull().all()
    assert data.sink_score.sel(layer=slice(LAYER + 1, None)).notnull().all()
    assert float(data.sink_attention.sel(layer=LAYER).max()) == 0


def test_a_head_whose_pattern_an_edit_empties_is_not_broken(model: Any) -> None:
    def edit(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        edited = pattern.clone()
        edited[:, 1] = 0.0
        return edited

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        hooks = [(f"blocks.{LAYER}.attn.hook_pattern", edit)]
        data = mcr.profile(model, PROMPTS, interventions=hooks, progress=False).data
    assert (data.not_finite_depth == -1).all()
    assert data.norm_ratio.notnull().all()


def test_a_token_that_overflows_as_padding_breaks_no_prompt(tmp_path: Path) -> None:
    """The planted model overflows float16 at token 0, which no prompt holds, whatever fills a batch up."""
    planted = planted_llama(emergence=(1, 3), dissipation=(), ratio=100_000.0)
    embedding = planted.model.embed_tokens.weight.data
    embedding[[BOS, 0]] = embedding[[0, BOS]]
    planted.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model = mcr.load_model(tmp_path, dtype="float16")
    prompts = mcr.Prompts.from_tokens([[5, *range(10, 30)], [6, *range(9, 15)], [7, *range(15, 25)]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        together = mcr.profile(model, prompts, progress=False).data
        alone = mcr.profile(model, prompts, batch_size=1, progress=False).data
    assert (together.not_finite_depth == -1).all()
    for name in alone.data_vars:
        np.testing.assert_allclose(together[name], alone[name], rtol=0.01, atol=0.01, err_msg=str(name))


def test_padding_may_be_broken(model: Any) -> None:
    lengths = PROMPTS.lengths

    def edit(state: torch.Tensor, hook: Any) -> torch.Tensor:
        context = current_context()
        edited = state.clone()
        for row, prompt in enumerate(context.prompts or ()):
            edited[row, lengths[prompt] :] = float("inf")
        return edited

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        data = mcr.profile(
            model, PROMPTS, interventions=[("blocks.2.hook_resid_post", edit)], progress=False
        ).data
    sound = mcr.profile(model, PROMPTS, progress=False).data
    for name in sound.data_vars:
        np.testing.assert_allclose(data[name], sound[name], 1e-5, 1e-6, err_msg=str(name))


@pytest.mark.parametrize(("dtype", "overflows"), [("float16", True), ("bfloat16", False), ("float32", False)])
def test_a_real_overflow_of_float16(tmp_path: Path, dtype: str, overflows: bool) -> None:
    """Two stages write 50,000 each at the token that the planted model marks: one prompt of three has it."""
    marked = 40  # not one of the few tokens that a model is checked on when it is loaded
    planted = planted_llama(emergence=(1, 3), dissipation=(), ratio=100_000.0)
    embedding = planted.model.embed_tokens.weight.data
    embedding[[BOS, marked]] = embedding[[marked, BOS]]
    planted.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model = mcr.load_model(tmp_path, dtype=dtype)
    tokens = [[5, *range(10, 30)], [6, 7, 8, marked, *range(9, 25)], [7, *range(15, 35)]]
    prompts = mcr.Prompts.from_tokens(tokens)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        profile = mcr.profile(model, prompts, progress=False)
    said = [str(each.message) for each in caught if issubclass(each.category, RuntimeWarning)]
    if not overflows:
        assert said == []
        assert float(profile["top_activation"].max()) == pytest.approx(1e5, rel=0.02)
        return
    assert len(said) == 1
    assert "1 of 3 prompts, first in prompt 1 at depth 4 (which layer 3 leaves behind)" in said[0]
    assert "float16 ends at 65,504: load the model in bfloat16 or float32" in said[0]
    assert profile.data.not_finite_depth.values.tolist() == [-1, 4, -1]
    assert float(profile["top_activation"].sel(depth=3).max()) == pytest.approx(5e4, rel=0.02)
    alone = mcr.profile(model, mcr.Prompts.from_tokens(list(prompts.tokens[::2])), progress=False)
    for name in alone.data.data_vars:
        found = profile[str(name)].isel(prompt=[0, 2])
        np.testing.assert_allclose(found, alone[str(name)], rtol=1e-6, atol=1e-6, err_msg=str(name))


def test_broken_prompts_survive_a_file_and_a_concatenation(model: Any, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning):
        broken = mcr.profile(model, PROMPTS, interventions=plant(float("inf")), progress=False)
    loaded = mcr.Profile.load(broken.save(tmp_path / "run.nc"))
    assert caveats(loaded) == caveats(broken)
    both = mcr.Profile.concat([loaded, broken], "prompt")
    assert both.data.not_finite_depth.values.tolist() == [-1, -1, 2, -1, -1, 2]


def test_a_profile_without_the_coordinates_says_nothing() -> None:
    assert not_finite_note(made_profile([1, 2, 3]).data) is None
