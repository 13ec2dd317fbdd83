"""A folder may ask for any size: what no memory holds is refused before it is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import eager

import mcr_lens as mcr
from mcr_lens.models import load_checks


def changed(folder: Path, into: Path, **sizes: Any) -> Path:
    shutil.copytree(folder, into)
    config = json.loads((into / "config.json").read_text())
    (into / "config.json").write_text(json.dumps(config | sizes))
    return into


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"hidden_size": 10**9}, r"at least 3\.42 TB in float32"),
        ({"intermediate_size": 10**13}, r"at least \d{4,} TB in float32"),
        ({"vocab_size": 10**13}, r"at least \d{4,} TB in float32"),
        ({"num_hidden_layers": 10**9}, r"1,000,000,000 layers, more than 2,000"),
    ],
    ids=str,
)
def test_what_no_memory_holds_is_refused_in_one_line(
    llama_folder: Path, tmp_path: Path, sizes: dict[str, int], reason: str
) -> None:
    folder = changed(llama_folder, tmp_path / "model", **sizes)
    with pytest.raises(mcr.InputError, match=reason) as error:
        mcr.load_model(folder)
    assert "\n" not in str(error.value)


def test_what_is_free_decides(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = eager(llama_folder)
    needed = sum(part.nbytes for part in (*model.parameters(), *model.buffers()))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(load_checks.psutil, "swap_memory", lambda: SimpleNamespace(free=0))
    monkeypatch.setattr(load_checks, "host_memory", lambda: needed)
    assert mcr.load_model(llama_folder) is not None
    monkeypatch.setattr(load_checks, "host_memory", lambda: needed - 1)
    with pytest.raises(mcr.InputError, match="asks for weights of at least"):
        mcr.load_model(llama_folder)
    assert mcr.load_model(llama_folder, dtype="bfloat16") is not None
    assert mcr.load_model(llama_folder, device_map="cpu") is not None


@pytest.mark.parametrize("beside_weights", [False, True])
def test_an_adapter_is_refused(beside_weights: bool, llama_folder: Path, tmp_path: Path) -> None:
    """Without peft its base model would be loaded, with peft nobody knows what."""
    folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
    (folder / "adapter_config.json").write_text("{}")
    if not beside_weights:
        (folder / "config.json").unlink()
    with pytest.raises(mcr.InputError, match=r"adapter.*merge_and_unload"):
        mcr.load_model(folder)


@pytest.mark.usefixtures("hooked_transformer")
@pytest.mark.parametrize(("name", "guess"), [("tyni", "'tiny'"), ("gpt-2", "'gpt2'")])
def test_a_misspelt_name_gets_a_guess(name: str, guess: str) -> None:
    with pytest.raises(mcr.InputError, match=f"did you mean {guess}"):
        mcr.load_model(name)
