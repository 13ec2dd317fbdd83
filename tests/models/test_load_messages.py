"""What cannot be loaded is refused in one line that names what it is and a way out that leads on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from families import VARIANTS, tiny_folder
from transformers import AutoTokenizer

import mcr_lens as mcr
from mcr_lens.errors import one_line
from mcr_lens.models import load_checks
from mcr_lens.models.backend import has_hooked_transformer
from mcr_lens.results import findings

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def message(source: Any, **options: Any) -> str:
    with pytest.raises(mcr.InputError) as raised:
        mcr.load_model(source, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("left", ["nothing", "settings"])
def test_a_folder_without_tokenizer(left: str, llama_folder: Path, tmp_path: Path) -> None:
    folder = tiny_folder("llama", tmp_path)
    for path in folder.glob("tokenizer.json" if left == "settings" else "*token*"):
        path.unlink()
    said = message(folder)
    assert "the folder has no tokenizer: pass load_model tokenizer=..." in said
    assert "sentencepiece" not in said
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    assert mcr.load_model(folder, tokenizer=tokenizer).to_tokens("w0").tolist() == [[1, 3]]
    if has_hooked_transformer():
        assert mcr.load_model(folder, backend="hooked_transformer").tokenizer is None
        model = mcr.load_model(folder, backend="hooked_transformer", tokenizer=tokenizer)
        assert model.to_tokens("w0").tolist() == [[1, 3]]


def test_an_unknown_architecture_is_named_by_every_way_in(tmp_path: Path) -> None:
    folder = tiny_folder("persimmon", tmp_path, **_SMALL)
    said = [message(folder)]
    if has_hooked_transformer():
        said.append(message(folder, backend="hooked_transformer"))
    with pytest.raises(mcr.InputError) as raised:
        mcr.models.plan(folder, [8, 8], devices=0)
    for each in (*said, str(raised.value)):
        assert "does not know PersimmonForCausalLM" in each
        assert "backend=" not in each and "AfmoeForCausalLM" not in each


def test_no_backend_advises_the_other_in_a_circle(tmp_path: Path) -> None:
    family, changed = VARIANTS["falcon, new decoder"]
    assert "hooked_transformer" not in message(tiny_folder(family, tmp_path, **changed))


def test_a_variant_without_attention_biases(tmp_path: Path) -> None:
    """TransformerLens stops at an assertion without words."""
    said = message(tiny_folder("gpt_neox", tmp_path, attention_bias=False))
    assert "does not take this variant" in said
    assert "mend the folder" not in said and ": )" not in said


def test_gpt_1_hides_its_last_depth(tmp_path: Path) -> None:
    """Its blocks return lists, so that the hook point behind the last one stays silent."""
    said = message(tiny_folder("openai-gpt", tmp_path, n_embd=32, n_layer=3, n_head=4, n_positions=64))
    assert "blocks.2.hook_resid_post does not fire" in said


def test_an_unknown_norm_is_no_number(llama: Any) -> None:
    data = mcr.profile(llama, [[1, 5, 6, 7], [1, 8, 9]], progress=False).data
    unknown = data.assign(norm_ratio=data.norm_ratio.where(data.depth < 3))
    words = " ".join(findings(mcr.Profile(unknown)))
    assert "at the last depth it is not known" in words and "nan times" not in words


def test_others_words_are_cut_between_words() -> None:
    error = ValueError("We couldn't connect to the hub to load the files")
    for limit in range(12, 60):
        short = one_line(error, limit)
        assert len(short) <= limit
        assert short == str(error) or (str(error).startswith(short.removesuffix("...")) and short[-4] == " ")


@pytest.mark.parametrize("name", ["gpt2", "EleutherAI/pythia-14m"])
def test_a_name_that_is_right_gets_no_guess(name: str) -> None:
    said = message(name)
    assert "did you mean" not in said and "https://)" not in said
    assert "from the local cache" in said and "unset HF_HUB_OFFLINE" in said


def test_row_4_an_adapter_on_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without peft its base model would be loaded in silence."""
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA"}))

    def cached(name: str, file: str, **options: Any) -> str | None:
        return str(config) if file == config.name else None

    monkeypatch.setattr(load_checks, "cached_file", cached)
    for backend in ("bridge", *(["hooked_transformer"] if has_hooked_transformer() else [])):
        said = message("gpt2", backend=backend)
        assert "gpt2: adapter_config.json: it holds an adapter" in said and "pip install peft" in said
