"""Model folders with damaged or odd files: loaded, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fuzz.counted import Fuzzed
from fuzz.ugly import Draw, damaged
from hypothesis import given, settings
from hypothesis import strategies as st

import mcr_lens as mcr
from mcr_lens.models import model_facts, plan

VALUES = [None, True, 0, -1, 1, 3, 5_000, 10**9, 2**63, 1e308, float("nan")]
VALUES += ["", "x", "../x", [], [1], {}, {"a": 1}, "bert"]
FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def change_a_setting(draw: Draw, folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[draw(st.sampled_from(sorted(config)))] = draw(st.sampled_from(VALUES))
    path.write_text(json.dumps(config))


def change_bytes(draw: Draw, folder: Path) -> None:
    path = folder / draw(st.sampled_from(FILES))
    path.write_bytes(damaged(draw, path.read_bytes()))


def model_folder(draw: Draw, folder: Path, llama_folder: Path) -> None:
    made = Path(shutil.copytree(llama_folder, folder / "model"))
    draw(st.sampled_from([change_a_setting, change_bytes]))(draw, made)
    model: Any = mcr.load_model(made)
    assert model_facts(model).n_layers >= 1


def planned_folder(draw: Draw, folder: Path, llama_folder: Path) -> None:
    made = Path(shutil.copytree(llama_folder, folder / "model"))
    draw(st.sampled_from([change_a_setting, change_bytes]))(draw, made)
    assert plan(made, [2]).sizes.parameters > 0


EACH = pytest.mark.parametrize("reader", [model_folder, planned_folder], ids=lambda reader: reader.__name__)


@EACH
@given(data=st.data())
@settings(max_examples=30)
def test_no_folder_raises_anything_but_our_own_error(
    reader: Any, data: st.DataObject, llama_folder: Path, fuzzed: Fuzzed
) -> None:
    fuzzed.read_or_refuse(reader, data.draw, llama_folder)


@pytest.mark.slow
@EACH
@given(data=st.data())
@settings(max_examples=400)
def test_hundreds_of_folders_raise_nothing_but_our_own_error(
    reader: Any, data: st.DataObject, llama_folder: Path, fuzzed: Fuzzed
) -> None:
    fuzzed.read_or_refuse(reader, data.draw, llama_folder)
