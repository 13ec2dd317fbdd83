"""Model folders with damaged or odd files: loaded, or refused in one line."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fuzz.ugly import Draw, damaged
from hypothesis import given, settings
from hypothesis import strategies as st

import mcr_lens as mcr
from mcr_lens.models import model_facts

# No larger numbers: a model of a billion dimensions is made, if there is room for it.
VALUES = [None, True, 0, -1, 1, 3, 5_000, 1e308, float("nan"), "", "x", "../x", [], [1], {}, {"a": 1}, "bert"]
FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def change_a_setting(draw: Draw, folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[draw(st.sampled_from(sorted(config)))] = draw(st.sampled_from(VALUES))
    path.write_text(json.dumps(config))


def change_bytes(draw: Draw, folder: Path) -> None:
    path = folder / draw(st.sampled_from(FILES))
    path.write_bytes(damaged(draw, path.read_bytes()))


def load_or_refuse(data: st.DataObject, llama_folder: Path) -> None:
    told = ""
    with tempfile.TemporaryDirectory() as above:
        folder = Path(shutil.copytree(llama_folder, Path(above) / "model"))
        data.draw(st.sampled_from([change_a_setting, change_bytes]))(data.draw, folder)
        try:
            model: Any = mcr.load_model(folder)
        except mcr.InputError as error:
            told = str(error)
        else:
            assert model_facts(model).n_layers >= 1
    assert "\n" not in told


@given(data=st.data())
@settings(max_examples=60)
def test_no_folder_raises_anything_but_our_own_error(data: st.DataObject, llama_folder: Path) -> None:
    load_or_refuse(data, llama_folder)
