"""Eighteen families and some variants of them, on each model class: what holds, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backends import BACKENDS
from families import ALL_FAMILIES, DELEGATED, VARIANTS, tiny_folder
from family_checks import CHECKS

import mcr_lens as mcr
from mcr_lens.models import model_facts
from mcr_lens.models.backend import has_hooked_transformer
from mcr_lens.models.info import require_cache

NO_CONVERSION = ("gemma", "gemma2", "gemma3_text", "olmo2", "falcon", "falcon, ALiBi", "falcon, new decoder")
DISCARDED = "edits of attention patterns are discarded"
EVERYTHING = tuple(CHECKS)
# Where something is refused or left out: the beginning and a piece of the reason. All else must work.
REFUSED: dict[tuple[str, str], dict[str, str]] = {
    **{("bridge", family): {"pattern edit": DISCARDED} for family in DELEGATED},
    **{
        ("hooked_transformer", family): dict.fromkeys(EVERYTHING, "builds no HookedTransformer of")
        for family in NO_CONVERSION
    },
    ("bridge", "falcon, new decoder"): dict.fromkeys(EVERYTHING, "could not be loaded (RuntimeError: split"),
    ("bridge", "opt, norms after"): {
        "profile": "without the writes: resid_pre + attn_out + mlp_out differs from resid_post",
        "ablate": "ablate_mlp_write would not take a whole write",
        "pattern edit": DISCARDED,
        "lens": "the architecture has no final norm",
    },
    ("hooked_transformer", "opt, norms after"): dict.fromkeys(EVERYTHING, "cannot make a HookedTransformer"),
}
if has_hooked_transformer():  # TransformerLens 3
    REFUSED["bridge", "falcon, ALiBi"] = {"chunked": "chunk=5 cannot be trusted"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", [*ALL_FAMILIES, *VARIANTS])
def test_a_family_works_or_says_why_not(outcomes: Any, family: str, backend: str) -> None:
    """The oracle's profile, the exact ablation, pattern edits, the lens and chunks; see family_checks."""
    refused = REFUSED.get((backend, family), {})
    for check, found in outcomes(family, backend).items():
        if check in refused:
            assert refused[check] in str(found), check
            assert "\n" not in str(found), check
        else:
            assert found is None, check


def test_there_are_eighteen_families() -> None:
    assert len(set(ALL_FAMILIES)) == 18


@pytest.mark.parametrize(
    ("family", "windows"),
    [
        ("gpt_neo", (None, 8, None)),
        ("phi3", (8, 8, 8)),
        ("gemma3_text", (8, None, 8)),
        ("gpt_oss", (8, None, 8)),
        ("mixtral", (None, None, None)),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_and_learned_sinks_are_known(
    family: str, windows: tuple[int | None, ...], backend: Any, family_folder: Callable[[str], Path]
) -> None:
    if backend == "hooked_transformer" and family in NO_CONVERSION:
        with pytest.raises(mcr.InputError, match="builds no HookedTransformer of"):
            mcr.load_model(family_folder(family), backend=backend)
        return
    facts = model_facts(mcr.load_model(family_folder(family), backend=backend))
    assert facts.windows == windows
    assert facts.learned_sink == (family == "gpt_oss")
    assert "pattern_rows" not in facts.failed_checks


FALCON_WITH_ITS_OWN_KEYS = {"new_decoder_architecture": True, "num_kv_heads": 4, "multi_query": False}
COHERE = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48,
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "options", "wrong"),
    [("falcon", FALCON_WITH_ITS_OWN_KEYS, True), ("cohere", COHERE, has_hooked_transformer())],
    ids=["falcon", "cohere"],
)
def test_an_attention_that_is_not_the_models_is_refused(
    family: str, options: dict[str, Any], wrong: bool, tmp_path: Path
) -> None:
    """Falcon's newer fused projection is split wrongly; TransformerLens 3 rotates Cohere's keys otherwise."""
    folder = tiny_folder(family, tmp_path, **options)
    if not wrong:
        failed = model_facts(mcr.load_model(folder)).failed_checks
        assert set(failed) == {"final_readout"}  # Cohere scales its logits
        return
    with pytest.raises(mcr.InputError, match="differs from the Hugging Face module's by") as caught:
        mcr.load_model(folder)
    assert "\n" not in str(caught.value)


def test_a_changed_attention_is_found_and_told(llama_folder: Path) -> None:
    """A bridge of the user's own is theirs: it is measured, and what was found is recorded."""
    model = mcr.load_model(llama_folder)
    attention = model.blocks[1].attn
    forward = attention.forward

    def other(*args: Any, **named: Any) -> Any:
        write, *rest = forward(*args, **named)
        return (1.5 * write, *rest)

    attention.forward = other
    model.to(torch.float64)  # so that it is checked again
    facts = model_facts(mcr.load_model(model))
    assert set(facts.failed_checks) == {"own_attention"}
    assert "in block 1 differs from the Hugging Face module's by 0.33" in facts.failed_checks["own_attention"]


def test_an_attention_that_cannot_be_asked_is_told(llama_folder: Path) -> None:
    model = mcr.load_model(llama_folder)
    original = model.blocks[0].attn.original_component

    def broken(*args: Any, **named: Any) -> Any:
        raise TypeError("takes no such thing")

    original.forward = broken
    model.to(torch.float64)
    failed = model_facts(model).failed_checks
    assert set(failed) == {"asked_attention"}
    assert "block 0 could not be compared (TypeError: takes no such thing)" in failed["asked_attention"]


def test_a_model_that_cannot_run_is_refused(tmp_path: Path) -> None:
    """TransformerLens gives it a final norm that the model does not have."""
    folder = tiny_folder("opt", tmp_path, do_layer_norm_before=False)
    with pytest.raises(mcr.InputError, match="cannot run this model") as caught:
        mcr.load_model(folder)
    assert "\n" not in str(caught.value)


def test_a_cache_that_is_not_used_is_found(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = mcr.Prompts.from_tokens([[1, *range(3, 20)]])
    forgetful = mcr.load_model(llama_folder)
    with monkeypatch.context() as patched:
        patched.setattr("mcr_lens.models.backend.DynamicCache", lambda config: None)
        with pytest.raises(mcr.InputError, match=r"chunk=4 cannot .* the logits differ by") as caught:
            mcr.profile(forgetful, prompts, chunk=4, progress=False)
    assert "\n" not in str(caught.value)
    mcr.profile(forgetful, prompts, progress=False)  # whole prompts go on
    require_cache(mcr.load_model(llama_folder), "chunks")


def test_a_folder_may_be_named_after_another_family(
    family_folder: Callable[[str], Path], tmp_path: Path, hooked_transformer: type
) -> None:
    """TransformerLens takes an architecture from the words in a path."""
    folder = tiny_folder("gpt_neox", tmp_path / "llama-gemma-2-")
    model = mcr.load_model(folder, backend="hooked_transformer")
    assert isinstance(model, hooked_transformer)
    assert model.cfg.original_architecture == "GPTNeoXForCausalLM"
    assert model_facts(model).failed_checks == {}


@pytest.mark.usefixtures("hooked_transformer")
@pytest.mark.parametrize(
    ("family", "changed", "reason"),
    [
        ("gpt2", {"n_inner": 48}, "cannot make a HookedTransformer of it .*size mismatch"),
        ("llama", {"attention_bias": True}, "another function of it"),
        ("phi3", {"partial_rotary_factor": 0.5}, "another function of it"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "another function of it"),
    ],
    ids=str,
)
def test_what_a_conversion_does_not_know_is_refused(
    family: str, changed: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = tiny_folder(family, tmp_path, **changed)
    with pytest.raises(mcr.InputError, match=f"{reason}.*backend='bridge'") as caught:
        mcr.load_model(folder, backend="hooked_transformer")
    assert "\n" not in str(caught.value)
    assert mcr.load_model(folder) is not None


def test_interventions_on_writes_need_the_writes(tmp_path: Path) -> None:
    family, changed = VARIANTS["opt, norms after"]
    model = mcr.load_model(tiny_folder(family, tmp_path, **changed))
    for make in (mcr.ablate_mlp_write, mcr.ablate_attention_write):
        with pytest.raises(mcr.InputError, match=f"{make.__name__} would not take a whole write"):
            make([1], model=model)
    assert mcr.clamp_norm([1], model=model)  # a state is a state
