"""A folder may ask for any size: what no memory holds is refused before it is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, eager
from transformers import AutoConfig

import mcr_lens as mcr
from mcr_lens.models import load_checks
from mcr_lens.planning import model_shape


def changed(folder: Path, into: Path, **sizes: Any) -> Path:
    shutil.copytree(folder, into)
    config = json.loads((into / "config.json").read_text())
    (into / "config.json").write_text(json.dumps(config | sizes))
    return into


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"hidden_size": 10**9}, r"3 layers that need at least 3\.42 TB in float32"),
        ({"intermediate_size": 10**13}, r"at least \d{4,} TB in float32"),
        ({"vocab_size": 10**13}, r"at least \d{4,} TB in float32"),
        ({"num_hidden_layers": 10**9}, r"1,000,000,000 layers that need at least \d+(\.\d+)? TB"),
        ({"num_hidden_layers": 10**12, "hidden_size": 64}, r"1,000,000,000,000 layers"),
    ],
    ids=str,
)
def test_what_no_memory_holds_is_refused_in_one_line(
    llama_folder: Path, tmp_path: Path, sizes: dict[str, int], told: str
) -> None:
    folder = changed(llama_folder, tmp_path / "model", **sizes)
    with pytest.raises(mcr.InputError, match=told) as error:
        mcr.load_model(folder)
    assert "free here" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_is_that_of_the_model(family: str, family_folder: Any) -> None:
    config = AutoConfig.from_pretrained(family_folder(family))
    whole = eager(family_folder(family))
    parts = (*whole.parameters(), *whole.buffers())
    expected = sum(part.nbytes for part in parts)
    assert load_checks._bytes(config, config.num_hidden_layers, 4) == expected


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_many_layers_are_told_from_two(family: str, family_folder: Any) -> None:
    many = load_checks._with_layers(AutoConfig.from_pretrained(family_folder(family)), 300)
    assert load_checks._bytes(many, 300, 2) == load_checks._counted(many, 2)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2"])
def test_a_configuration_that_lists_its_layers_is_not_even_made(
    family: str, family_folder: Any, tmp_path: Path
) -> None:
    name = "n_layer" if family == "gpt2" else "num_hidden_layers"
    folder = changed(family_folder(family), tmp_path / "model", **{name: 10**10})
    for read in (mcr.load_model, model_shape):
        with pytest.raises(mcr.InputError, match="10,000,000,000 layers that need at least 500 TB"):
            read(folder)


def test_layers_that_are_written_as_kinds_of_attention_are_counted(
    family_folder: Any, tmp_path: Path
) -> None:
    listed = [[["global", "local"], 3 * 10**9]]
    folder = changed(family_folder("gpt_neo"), tmp_path / "model", attention_types=listed)
    for read in (mcr.load_model, model_shape):
        with pytest.raises(mcr.InputError, match="3,000,000,000 layers"):
            read(folder)


def test_a_plan_is_not_made_block_by_block_without_end(llama_folder: Path, tmp_path: Path) -> None:
    folder = changed(llama_folder, tmp_path / "model", num_hidden_layers=50_000)
    with pytest.raises(mcr.InputError, match="a configuration of 50000 layers; a plan is for 1 to 2,000"):
        model_shape(folder)


def test_what_is_free_decides(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(load_checks, "swap_space", lambda: 0)
    config = AutoConfig.from_pretrained(llama_folder)
    layers = config.num_hidden_layers
    needed = layers * load_checks._BYTES_OF_A_BLOCK + int(load_checks._counted(config, 4) or 0)
    monkeypatch.setattr(load_checks, "host_memory", lambda: needed)
    assert mcr.load_model(llama_folder) is not None
    monkeypatch.setattr(load_checks, "host_memory", lambda: needed - 1)
    with pytest.raises(mcr.InputError, match="asks for"):
        mcr.load_model(llama_folder)
    assert mcr.load_model(llama_folder, dtype="bfloat16") is not None
    assert mcr.load_model(llama_folder, device_map="cpu") is not None
