"""Models that cannot be measured are refused; those in an odd state are measured and left in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS, needs_hooked_transformer
from families import VOCABULARY, save_tokenizer
from transformer_lens.model_bridge import TransformerBridge
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

import mcr_lens as mcr
from mcr_lens.models.backend import as_module
from mcr_lens.models.user_hooks import attached_hooks
from mcr_lens.results import caveats

PROMPTS = mcr.Prompts.from_tokens([[1, *range(3, 15)], [1, *range(20, 26)]])


def refused(call: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(mcr.InputError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def bert(folder: Path) -> Path:
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def t5(folder: Path) -> Path:
    config = T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4
    )  # fmt: skip
    config.decoder_start_token_id = 0
    T5ForConditionalGeneration(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize(("make", "name"), [(bert, "BertForMaskedLM"), (t5, "T5ForConditionalGeneration")])
def test_encoders_are_refused_as_folders_and_in_memory(
    make: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    refused(lambda: mcr.load_model(folder), str(folder), f"{name} is not a decoder", "ForCausalLM")
    model = TransformerBridge.boot_transformers(str(folder))
    refused(lambda: mcr.load_model(model), f"{name} is not a decoder", "ForCausalLM")


@pytest.mark.parametrize(("make", "name"), [(bert, "BertForMaskedLM"), (t5, "T5ForConditionalGeneration")])
def test_encoders_are_refused_by_name_whatever_they_turn_out_to_be(
    make: Callable[[Path], Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TransformerBridge.boot_transformers
    folder = str(make(tmp_path))
    monkeypatch.setattr(TransformerBridge, "boot_transformers", lambda *given, **options: original(folder))
    refused(lambda: mcr.load_model("some-org/some-name", backend="bridge"), f"{name} is not a decoder")


@needs_hooked_transformer
def test_a_hooked_transformer_that_looks_both_ways_is_refused() -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # type: ignore[attr-defined]

    config = HookedTransformerConfig(
        n_layers=1, d_model=8, n_ctx=16, d_head=4, n_heads=2, d_vocab=16, act_fn="gelu", d_mlp=16,
        attention_dir="bidirectional",
    )  # fmt: skip
    refused(lambda: mcr.load_model(HookedTransformer(config)), "not a decoder")


def test_a_name_with_an_end_of_line_is_told_in_one_line() -> None:
    with pytest.raises(mcr.InputError) as error:
        mcr.load_model("no such\nmodel")
    assert "no such model" in str(error.value) and "\n" not in str(error.value)


def test_the_meta_device_holds_no_numbers() -> None:
    with pytest.raises(mcr.InputError, match="device 'meta' holds no numbers: use 'cpu'"):
        mcr.load_model("tiny", device="meta")


def test_weights_that_are_not_there_are_refused(llama_folder: Path) -> None:
    refused(lambda: mcr.load_model(llama_folder, device="meta"), "device 'meta'", "'cpu'")
    half = mcr.load_model(llama_folder)
    half.original_model.model.layers[1].to("meta")
    refused(lambda: mcr.load_model(half), "layers.1", "device 'meta'", "'cpu'")


@pytest.mark.parametrize(
    "source", ["", " ", "a" * 5000, "~nobody-of-this-name/model", "a\0b", "no such name"]
)
def test_names_that_nothing_can_have(source: str) -> None:
    refused(lambda: mcr.load_model(source), "'tiny'")


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_mode_and_gradients_change_nothing_and_stay(llama_folder: Path, backend: Any) -> None:
    model = mcr.load_model(llama_folder, backend=backend)
    expected = mcr.profile(model, PROMPTS, progress=False).data
    module = as_module(model)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    module.train()
    module.requires_grad_(True)
    modes = [part.training for part in module.modules()]
    with torch.enable_grad():
        found = mcr.profile(model, PROMPTS, progress=False).data
        assert torch.is_grad_enabled()
    for name in ("norm_ratio", "sink_score", "matrix_entropy"):
        np.testing.assert_array_equal(found[name].values, expected[name].values)
    assert [part.training for part in module.modules()] == modes
    assert all(each.requires_grad and each.grad is None for each in module.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_of_the_user_are_kept_run_and_told(llama_folder: Path, backend: Any) -> None:
    model = mcr.load_model(llama_folder, backend=backend)
    plain = mcr.profile(model, PROMPTS, progress=False).data
    assert attached_hooks(model) == []
    calls = []

    def silence(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        calls.append(tensor.shape)
        return torch.zeros_like(tensor)

    model.hook_dict["blocks.1.hook_mlp_out"].add_hook(silence)
    found = mcr.profile(model, PROMPTS, progress=False).data
    assert calls
    assert float(abs(found.mlp_write_norm.isel(layer=1)).max()) == 0
    assert float(plain.mlp_write_norm.isel(layer=1).min()) > 0
    (name,) = attached_hooks(model)
    assert found.attrs["attached_hooks"] == [name]
    assert plain.attrs["attached_hooks"] == []
    assert any(name in caution for caution in caveats(mcr.Profile(found)))
    assert model.hook_dict[name] is model.hook_dict["blocks.1.hook_mlp_out"]
    calls.clear()
    mcr.profile(model, PROMPTS, progress=False)
    assert calls, "the hook is gone after the first run"


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_of_the_user_outlast_a_failure_and_the_weights_too(llama_folder: Path, backend: Any) -> None:
    model = mcr.load_model(llama_folder, backend=backend)
    before = {name: value.clone() for name, value in as_module(model).state_dict().items()}

    def fail(tensor: torch.Tensor, hook: Any) -> None:
        raise KeyboardInterrupt

    model.hook_dict["blocks.2.hook_mlp_out"].add_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        mcr.profile(model, PROMPTS, progress=False)
    assert len(attached_hooks(model)) == 1
    model.reset_hooks()
    assert attached_hooks(model) == []
    after = as_module(model).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    mcr.profile(model, PROMPTS, progress=False)


@pytest.mark.parametrize("missing", ["bos_token", "pad_token", "both"])
def test_tokenizers_without_special_tokens(missing: str, llama_folder: Path, tmp_path: Path) -> None:
    """What the tokenizer lacks is not made up: the first token is the text's, and padding is ours."""
    from transformers import PreTrainedTokenizerFast

    folder = Path(shutil.copytree(llama_folder, tmp_path / "copy"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokens = {"bos_token": "<bos>", "eos_token": "<bos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    left_out = {"bos_token", "eos_token", "pad_token"} if missing == "both" else {missing}
    for path in folder.glob("*token*"):
        path.unlink()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        **{name: token for name, token in tokens.items() if name not in left_out},
    ).save_pretrained(folder)
    model = mcr.load_model(folder)
    prompts = mcr.Prompts.from_texts(["w1 w2 w3", "w4 w5 w6 w7"], model)
    if missing == "pad_token":
        assert prompts.bos == "prepended"
        assert prompts.tokens == ((1, 4, 5, 6), (1, 7, 8, 9, 10))
    else:
        assert prompts.bos == "none"
        assert prompts.tokens == ((4, 5, 6), (7, 8, 9, 10))
    alone = [mcr.profile(model, prompts[i : i + 1], progress=False).data for i in range(2)]
    together = mcr.profile(model, prompts, progress=False).data
    for i in range(2):
        np.testing.assert_allclose(
            together.norm_ratio.values[i], alone[i].norm_ratio.values[0], rtol=1e-5, equal_nan=True
        )


def test_a_tokenizer_that_adds_the_bos_itself_does_not_add_it_twice(llama: Any) -> None:
    """This one does; and a text may bring its own besides."""
    assert llama.tokenizer("w1")["input_ids"] == [1, 4]
    prompts = mcr.Prompts.from_texts(["w1 w2", "<bos> w1 w2"], llama)
    assert prompts.tokens == ((1, 4, 5), (1, 4, 5))
