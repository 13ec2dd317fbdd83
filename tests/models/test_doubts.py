"""What the self-check doubts stands in the same words wherever a result is shown; so do processed weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from backends import BACKENDS
from families import tiny_folder
from transformer_lens.model_bridge import TransformerBridge

import mcr_lens as mcr
from mcr_lens.doubts import DoubtWarning
from mcr_lens.prompts import word_problems

PROMPTS = mcr.Prompts.from_tokens([[1, 5, 6, 7, 8], [1, 9, 10]])


def said_everywhere(result: Any, sentence: str) -> None:
    assert sentence in result.caveats()
    assert f"Beware: {sentence}" in repr(result) and f"Beware: {sentence}" in str(result)
    assert sentence in result._repr_html_().replace("&#39;", "'")


def test_a_failed_check_is_said_everywhere(tmp_path: Path) -> None:
    folder = tiny_folder("opt", tmp_path, do_layer_norm_before=False, word_embed_proj_dim=16)
    with pytest.warns(DoubtWarning) as caught:
        model = mcr.load_model(folder)
    warned = [str(each.message) for each in caught if each.category is DoubtWarning]
    profile = mcr.profile(model, PROMPTS, progress=False)
    assert len(warned) == len(profile.data.attrs["failed_checks"]) == 3
    for sentence in warned:
        said_everywhere(profile, sentence)
        assert sentence.startswith("The model failed a check (")
    page = mcr.viz.report(profile, tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(sentence in page for sentence in warned)


def test_a_failed_check_is_said_of_a_lens(tmp_path: Path) -> None:
    lens = mcr.logit_lens(mcr.load_model(tiny_folder("opt", tmp_path)), PROMPTS, progress=False)
    (sentence,) = lens.caveats()
    said_everywhere(lens, sentence)
    assert "(pattern_edits)" in sentence


@pytest.mark.usefixtures("hooked_transformer")
def test_row_5_processed_weights_are_said_everywhere() -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # type: ignore[attr-defined]

    config = HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=64, d_head=8, n_heads=2, d_mlp=32, d_vocab=50, act_fn="gelu",
        normalization_type="LN", device="cpu", seed=0,
    )  # fmt: skip
    model = HookedTransformer(config)
    assert not mcr.logit_lens(model, PROMPTS, progress=False).caveats()
    model.process_weights_(fold_ln=True, center_writing_weights=True)
    with pytest.warns(DoubtWarning, match="processed before"):
        profile = mcr.profile(model, PROMPTS, progress=False)
    (sentence,) = (each for each in profile.caveats() if "processed" in each)
    assert "(folded norms, centred writes)" in sentence and "load_model" in sentence
    said_everywhere(profile, sentence)
    said_everywhere(mcr.logit_lens(model, PROMPTS, progress=False), sentence)


def test_row_5_compatibility_mode_is_said(llama_folder: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(llama_folder), device="cpu")
    bridge.enable_compatibility_mode()
    profile = mcr.profile(bridge, PROMPTS, progress=False)
    said_everywhere(profile, next(each for each in profile.caveats() if "(compatibility mode)" in each))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("revision", [None, "step512"])
def test_row_7_the_bundled_model_puts_its_bos_first(backend: Any, revision: str | None) -> None:
    """Used the plain way it reads what profiles read."""
    model = mcr.load_model("tiny", backend=backend, revision=revision)
    text = word_problems(1)[0]
    prompts = mcr.Prompts.from_texts([text], model)
    assert model.to_tokens(text).tolist() == [list(prompts.tokens[0])]
    assert prompts.tokens[0][0] == model.tokenizer.bos_token_id
    loss = mcr.logit_lens(model, prompts, progress=False)["lens_loss"][0, -1]
    with torch.no_grad():
        assert abs(float(model(text, return_type="loss")) - float(loss)) < 1e-4
    rows: list[int] = []
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: rows.append(x.shape[1]))]):
        said = model.generate(text, max_new_tokens=2, do_sample=False, verbose=False)
    assert rows[0] == len(prompts.tokens[0]) and said.startswith(text)
