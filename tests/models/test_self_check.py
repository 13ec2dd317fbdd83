"""A model whose hooks do not mean what they say is found out, and calls that need them refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, tiny_folder
from transformer_lens.model_bridge import TransformerBridge

import mcr_lens as mcr
from mcr_lens.hooks.observe import AttentionObserver, WriteObserver
from mcr_lens.models import model_facts, require
from mcr_lens.models.self_check import self_check

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
    assert list(failed) == [check]
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
    assert calls  # the user's own hook still runs
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
