"""A model whose hooks do not mean what they say is found out, and calls that need them refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from backends import BACKENDS
from families import FAMILIES, tiny_folder
from transformer_lens.model_bridge import TransformerBridge

import mcr_lens as mcr
from mcr_lens.hooks import AttentionObserver, WriteObserver
from mcr_lens.models import info, model_facts, require
from mcr_lens.models.self_check import self_check
from mcr_lens.models.user_hooks import attached_hooks
from mcr_lens.results import caveats

PROMPTS = mcr.Prompts.from_tokens([[1, 5, 6, 7, 8], [1, 9, 10]])


@pytest.fixture
def fresh(llama_folder: Path) -> Any:
    """A bridge that nobody has looked at yet, to be broken."""
    return TransformerBridge.boot_transformers(str(llama_folder), device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_good_models_pass(family: str, family_folder: Callable[[str], Path]) -> None:
    checked = self_check(mcr.load_model(family_folder(family)))
    assert checked.failed == {}
    assert not checked.learned_sink


def break_hook(model: Any, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let a hook point show something else than it stands for, and discard what hooks return."""
    point = model.hook_dict[name]
    add_hook = point.add_hook

    def add_lying_hook(read: Callable[..., Any], *args: Any, **options: Any) -> Any:
        def lying(tensor: torch.Tensor, hook: Any) -> None:
            read(change(tensor), hook=hook)

        return add_hook(lying, *args, **options)

    point.add_hook = add_lying_hook


@pytest.mark.parametrize(
    ("name", "change", "check", "words"),
    [
        ("blocks.1.hook_mlp_out", lambda x: 1.5 * x, "residual_sum", "differs from resid_post"),
        ("blocks.0.hook_attn_out", lambda x: x + 1, "residual_sum", "differs from resid_post"),
        ("blocks.2.attn.hook_pattern", lambda x: 0.9 * x, "pattern_rows", "sum to 1 only within"),
    ],
)
def test_a_broken_hook_is_found(name: str, change: Any, check: str, words: str, fresh: Any) -> None:
    break_hook(fresh, name, change)
    failed = self_check(fresh).failed
    # What the heads give is compared with the pattern.
    assert set(failed) == {check} | ({"value_rows"} if check == "pattern_rows" else set())
    assert words in failed[check]


def test_a_readout_that_is_not_the_logits(fresh: Any) -> None:
    """The unembedding is the model's own, the last depth is not what it reads."""
    break_hook(fresh, "blocks.2.hook_resid_post", lambda x: x + torch.randn_like(x))
    failed = self_check(fresh).failed
    assert "differs from the logits" in failed["final_readout"]


def test_discarded_pattern_edits_are_found(fresh: Any) -> None:
    break_hook(fresh, "blocks.0.attn.hook_pattern", lambda x: x)
    assert self_check(fresh).failed == {
        "pattern_edits": "edits of attention patterns are discarded by this architecture"
    }


def test_calls_refuse_what_the_check_found_broken(fresh: Any) -> None:
    break_hook(fresh, "blocks.1.hook_mlp_out", lambda x: 1.5 * x)
    assert set(model_facts(fresh).failed_checks) == {"residual_sum"}
    with pytest.raises(mcr.InputError, match=r"reading the writes .* cannot be trusted on .*bridge.*differs"):
        WriteObserver(fresh)
    with pytest.raises(mcr.InputError, match="this call cannot be trusted"):
        require(fresh, "residual_sum", "this call")
    AttentionObserver(fresh)  # what is not concerned goes on
    require(fresh, "pattern_rows", "this call")


def test_a_profile_leaves_out_what_is_broken(fresh: Any) -> None:
    break_hook(fresh, "blocks.1.hook_mlp_out", lambda x: 1.5 * x)
    profile = mcr.profile(fresh, PROMPTS, progress=False)
    assert "mlp_write_along" not in profile.data
    assert "sink_score" in profile.data
    assert list(profile.data.attrs["failed_checks"]) == ["residual_sum"]


def test_a_profile_without_patterns(fresh: Any, tmp_path: Path) -> None:
    break_hook(fresh, "blocks.2.attn.hook_pattern", lambda x: 0.9 * x)
    profile = mcr.profile(fresh, PROMPTS, progress=False)
    assert "sink_score" not in profile.data
    assert "mlp_write_along" in profile.data
    assert "layers" in repr(mcr.Profile.load(profile.save(tmp_path / "run.nc")))
    with pytest.raises(mcr.InputError, match="no variable 'sink_score'"):
        profile.sink_rate()


@pytest.mark.usefixtures("hooked_transformer")
def test_attention_only_models() -> None:
    """No MLP: no writes to tell apart, everything else is measured."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # type: ignore[attr-defined]

    config = HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=64, d_head=8, n_heads=2, d_vocab=50, attn_only=True,
        normalization_type="LN", device="cpu", seed=0,
    )  # fmt: skip
    model = HookedTransformer(config)
    assert set(model_facts(model).failed_checks) == {"residual_sum"}
    assert "lacks one of" in model_facts(model).failed_checks["residual_sum"]
    profile = mcr.profile(model, PROMPTS, progress=False)
    assert profile.data.sizes["layer"] == 2
    assert profile.phases().compress is None


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_in_training_mode(family: str, tmp_path: Path) -> None:
    """Dropout would make a good model look broken. The mode comes back."""
    folder = tiny_folder(family, tmp_path)
    model = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    model.original_model.train()
    modes = [module.training for module in model.original_model.modules()]
    assert any(modes)
    for _ in range(5):
        assert self_check(model).failed == {}
    assert [module.training for module in model.original_model.modules()] == modes


def test_the_check_leaves_the_model_as_it_was(fresh: Any) -> None:
    weights = {name: value.clone() for name, value in fresh.original_model.state_dict().items()}
    calls = []
    fresh.hook_dict["blocks.1.hook_resid_post"].add_hook(lambda tensor, hook: calls.append(1))
    hooks = sum(len(point.fwd_hooks) for point in set(fresh.hook_dict.values()))
    self_check(fresh)
    assert sum(len(point.fwd_hooks) for point in set(fresh.hook_dict.values())) == hooks
    assert not calls  # the check is of the model alone
    mcr.profile(fresh, PROMPTS, progress=False)
    assert calls  # and the user's own hook is there as before
    for name, value in fresh.original_model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert all(parameter.grad is None for parameter in fresh.original_model.parameters())


def test_the_check_does_not_need_gradients_off(fresh: Any) -> None:
    with torch.enable_grad():
        assert self_check(fresh).failed == {}
    with torch.inference_mode():
        assert self_check(fresh).failed == {}


def test_a_model_that_makes_nan_does_not_pass(fresh: Any) -> None:
    with torch.no_grad():
        next(p for name, p in fresh.original_model.named_parameters() if "down_proj" in name).fill_(torch.nan)
    found = self_check(fresh)
    assert {"residual_sum", "final_readout", "pattern_rows"} <= set(found.failed)
    assert not found.learned_sink


def test_patterns_of_zeros_are_no_learned_sink(fresh: Any) -> None:
    for layer in range(3):
        break_hook(fresh, f"blocks.{layer}.attn.hook_pattern", torch.zeros_like)
    found = self_check(fresh)
    assert "pattern_rows" in found.failed
    assert not found.learned_sink


def test_facts_follow_the_weights(fresh: Any) -> None:
    assert model_facts(fresh).dtype == "float32"
    fresh.to(torch.bfloat16)
    assert model_facts(fresh).dtype == "bfloat16"


_LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("deepseek_v3", _LATENT, "have the shape (1, 4, 6, 8)"),
        ("gemma4_text", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}, "differ from what"),
    ],
)
def test_value_vectors_that_attention_does_not_add_up(
    family: str, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Heads before positions, or a norm after the hook point: none is told as if it were right."""
    model = mcr.load_model(tiny_folder(family, tmp_path, **_SMALL, **options))
    assert words in model_facts(model).failed_checks["value_rows"]
    for tokens in ([1, 5, 6, 7], [1, 5, 6], [1, *range(3, 40)]):
        data = mcr.profile(model, mcr.Prompts.from_tokens([tokens]), progress=False).data
        assert "sink_value_ratio" not in data and data.sink_score.notnull().all()


def test_blocks_without_attention_between_others(tmp_path: Path) -> None:
    kinds = ["conv", "full_attention", "conv"]
    options = {"num_key_value_heads": 2, "layer_types": kinds, "block_auto_adjust_ff_dim": False}
    model = mcr.load_model(tiny_folder("lfm2", tmp_path, **_SMALL, **options))
    assert "2 of 3 blocks have no attention" in model_facts(model).failed_checks["pattern_rows"]
    profile = mcr.profile(model, PROMPTS, progress=False)
    assert profile.data.norm_ratio.notnull().all() and "sink_score" not in profile.data
    assert any("2 of 3 blocks" in told for told in caveats(profile))


def test_attention_in_chunks_is_measured_up_to_one_chunk(tmp_path: Path) -> None:
    options = {
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2,
        "attention_chunk_size": 8, "no_rope_layers": [1, 1, 0], "moe_layers": [1],
    }  # fmt: skip
    model = mcr.load_model(tiny_folder("llama4_text", tmp_path, **_SMALL, **options))
    assert model_facts(model).attention_chunk == 8
    short, long = (mcr.Prompts.from_tokens([[1, *range(4, 3 + n)]]) for n in (8, 9))
    assert mcr.profile(model, short, progress=False).data.visible_queries.isel(layer=0).item() == 7
    with pytest.raises(mcr.InputError, match=r"chunks of 8 tokens, a prompt has 9: .* max_tokens=8"):
        mcr.profile(model, long, progress=False)
    data = mcr.measure(model, long, [mcr.hooks.ResidualObserver(model)], progress=False)
    assert data.norm_ratio.notnull().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_of_the_user_are_no_fault_of_the_model(backend: Any, llama_folder: Path) -> None:
    """Neither while they are attached nor when they have gone is anything left out because of them."""
    model = load_unchecked(llama_folder, backend)
    model.hook_dict["blocks.1.hook_resid_post"].add_hook(lambda state, hook: state + 3.0)
    model.hook_dict["blocks.0.attn.hook_pattern"].add_hook(lambda pattern, hook: pattern / 2)
    handle = model.blocks[2].mlp.register_forward_hook(lambda module, given, made: made * 0)
    steered = mcr.profile(model, PROMPTS, progress=False).data
    # What PyTorch's own hook does on a bridge comes after the hook point of the module.
    assert not set(steered.attrs["failed_checks"]) - {"residual_sum"}
    assert len(steered.attrs["attached_hooks"]) == 3
    assert steered.attrs["attached_hooks"][-1].startswith("torch: ")
    assert "mlp" in steered.attrs["attached_hooks"][-1]
    model.reset_hooks()
    handle.remove()
    plain = mcr.profile(model, PROMPTS, progress=False).data
    assert plain.attrs["failed_checks"] == {} and plain.attrs["attached_hooks"] == []
    expected = mcr.profile(mcr.load_model(llama_folder, backend=backend), PROMPTS, progress=False).data
    xr.testing.assert_allclose(plain, expected)
    assert not np.allclose(steered.sink_norm[:, -1], plain.sink_norm[:, -1])


def load_unchecked(folder: Path, backend: Any) -> Any:
    """A model that nobody has looked at yet, which ``load_model`` would do."""
    model = mcr.load_model(folder, backend=backend)
    info._KNOWN.pop(model)
    return model


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_of_modules_stay_where_they_are(backend: Any, llama_folder: Path) -> None:
    """They may make a module work, and the bridge adds its own in the first pass, which the check is."""
    model = load_unchecked(llama_folder, backend)
    handle = model.unembed.register_forward_hook(lambda module, given, made: 0.2 * made)
    other = model.blocks[1].ln2.register_forward_pre_hook(lambda module, given: None)
    assert len(mcr.profile(model, PROMPTS, progress=False).data.attrs["attached_hooks"]) == 2
    lens = mcr.logit_lens(model, PROMPTS, progress=False).data
    tokens = torch.tensor([PROMPTS.tokens[0]])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:])
    assert abs(float(lens.lens_loss[0, -1]) - float(loss)) < 1e-5
    for each in (handle, other):
        each.remove()
    assert attached_hooks(model) == []
    if backend == "bridge":
        zero = ("blocks.1.hook_mlp_in", lambda state, hook: torch.zeros_like(state))
        model.set_use_hook_mlp_in(True)
        edited = model.run_with_hooks(tokens, fwd_hooks=[zero])
        assert not torch.allclose(edited, model(tokens))


def test_a_layer_without_values_is_right(llama_folder: Path) -> None:
    model = mcr.load_model(llama_folder)
    with torch.no_grad():
        model.original_model.model.layers[1].self_attn.v_proj.original_component.weight.zero_()
    info._KNOWN.pop(model)
    data = mcr.profile(model, PROMPTS, progress=False).data
    assert data.attrs["failed_checks"] == {}
    assert data.sink_value_ratio.isnull().all(("prompt", "head")).values.tolist() == [False, True, False]
