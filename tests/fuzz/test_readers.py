"""Every reader of files on thousands of ugly ones: what it returns is sound, or it raises our own error."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from fuzz import result_files
from fuzz.counted import Fuzzed
from fuzz.ugly import CELLS, JSON, JSON_VALUES, TABLES, TOML, WIKITEXT, Draw, content_of, damaged, encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import mcr_lens as mcr
from mcr_lens.experiments.tasks import read_documents
from mcr_lens.hooks.lenses.translators import Translators
from mcr_lens.models import checkpoints
from mcr_lens.prompts import load_labelled, read_texts
from mcr_lens.sweeps import cells, read_grid, sweep_status
from mcr_lens.sweeps.store import ResultFolder


def prompts(draw: Draw, folder: Path, model: Any) -> None:
    kind = draw(st.sampled_from(["jsonl", "json", "csv", "txt"]))
    path = folder / f"p.{kind}"
    path.write_bytes(draw(content_of(CELLS if kind == "csv" else JSON)))
    field = draw(st.sampled_from([None, "text", "label", "", "\0"]))
    made = mcr.load_prompts(path, model, field=field, n=draw(st.none() | st.integers(1, 3)))
    assert all(len(tokens) >= 2 for tokens in made.tokens)


def prompts_in_parquet(draw: Draw, folder: Path, model: Any) -> None:
    columns = {"text": ["w1 w2", "zażółć", "🙂"], "label": [0, 1, 2]}
    pd.DataFrame(columns).to_parquet(folder / "whole.parquet")
    path = folder / "p.parquet"
    path.write_bytes(damaged(draw, (folder / "whole.parquet").read_bytes()))
    if draw(st.booleans()):
        assert all(isinstance(text, str) for text in read_texts(path, "text"))
    else:
        load_labelled(path, model)


ROW = '{"text": "w1 w2", "label": 1}\n'


def labelled(draw: Draw, folder: Path, model: Any) -> None:
    kind = draw(st.sampled_from(["tsv", "csv", "jsonl", "json"]))
    path = folder / f"p.{kind}"
    starts = {"tsv": "text\tlabel\nw1 w2\t1\n", "csv": "text,label\nw1 w2,1\n", "json": "", "jsonl": ROW}
    start = draw(st.sampled_from(["", starts[kind]]))
    path.write_bytes(start.encode() + draw(content_of(JSON if kind.startswith("json") else CELLS)))
    text, label = draw(st.sampled_from([("text", "label"), (0, 1), ("w1 w2", "1"), ("text", "text")]))
    made = load_labelled(path, model, text=text, label=label, n=draw(st.none() | st.integers(1, 3)))
    assert len(made.prompts) == len(made.labels)


def grids(draw: Draw, folder: Path, model: Any) -> None:
    path = folder / "grid.toml"
    path.write_bytes(draw(content_of(TOML) | TABLES.map(encoded)))
    out = ResultFolder(folder / "out")
    for cell in cells(read_grid(path)):
        assert out.result_path(cell).resolve().parent == out.place.resolve()


def records(draw: Draw, folder: Path, model: Any) -> None:
    (folder / "grid.toml").write_text('[[models]]\nsource = "tiny"\n[[prompts]]\nsource = "made-up"\n')
    grid = read_grid(folder / "grid.toml")
    (cell,) = cells(grid)
    out = ResultFolder(folder / "out")
    out.place.mkdir()
    out.error_path(cell).write_bytes(draw(content_of(JSON) | JSON_VALUES.map(json.dumps).map(str.encode)))
    assert sweep_status(grid, out.place).state.tolist() == ["failed"]
    out.prepare([cell])


KINDS = (("weight", (3, 3)), ("bias", (3,)))


def translators(draw: Draw, folder: Path, model: Any) -> None:
    place = Translators(torch.ones(2, 3, 3), torch.ones(2, 3), {"base_model": "x"}).save(folder / "lens")
    config, params = place / "config.json", place / "params.safetensors"
    if draw(st.booleans()):
        (place / "params.pt").touch()
        params.unlink()
        params = place / "params.pt"
        state = {f"{i}.{kind}": torch.ones(*shape) for i in range(2) for kind, shape in KINDS}
        torch.save(state, params)
    which = draw(st.sampled_from(["config", "values", "params", "both", "none"]))
    if which in ("config", "both"):
        config.write_bytes(
            draw(content_of(JSON)) if draw(st.booleans()) else damaged(draw, config.read_bytes())
        )
    if which == "values":
        known = json.loads(config.read_text())
        known[draw(st.sampled_from(sorted(known)))] = draw(JSON_VALUES)
        config.write_text(json.dumps(known))
    if which in ("params", "both"):
        params.write_bytes(damaged(draw, params.read_bytes()))
    found = Translators.load(place, allow_pickle=True)
    assert found.weights.shape == (2, 3, 3)


def folders_of_checkpoints(draw: Draw, folder: Path, model: Any) -> None:
    names = st.text(
        st.characters(exclude_characters="/", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
    ) | st.sampled_from(["step1", "step01", "checkpoint-10", "9" * 200, "step²", "step٣", "1e3"])
    for name in draw(st.lists(names, max_size=4)):
        if name not in (".", ".."):
            (folder / name).mkdir(exist_ok=True)
    for found in checkpoints(folder, draw(st.sampled_from(["all", "thinned"]) | st.just([1]))):
        assert isinstance(found.step, int)


def safetensors_of_a_lens(draw: Draw, folder: Path, model: Any) -> None:
    """Files that are sound, with other tensors in them."""
    place = Translators(torch.ones(2, 3, 3), torch.ones(2, 3)).save(folder / "lens")
    shapes = st.sampled_from([[2, 3, 3], [2, 3]]) | st.lists(st.integers(0, 4), max_size=3)
    kinds = st.sampled_from(
        [torch.float32, torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64]
    )
    named = st.sampled_from(["weights", "weights", "biases", "biases", "", "other", "0.weight"])
    right = {"weights": ([2, 3, 3], torch.float32), "biases": ([2, 3], torch.float32)}
    other = draw(st.dictionaries(named, st.tuples(shapes, kinds), max_size=2))
    tensors = right | other if draw(st.booleans()) else other
    save_file(
        {name: torch.ones(shape, dtype=kind) for name, (shape, kind) in tensors.items()},
        place / "params.safetensors",
    )
    found = Translators.load(place)
    assert found.weights.dtype.is_floating_point


def documents(draw: Draw, folder: Path, model: Any) -> None:
    kind = draw(st.sampled_from(["txt", "jsonl"]))
    path = folder / f"d.{kind}"
    path.write_bytes(draw(content_of(JSON if kind == "jsonl" else WIKITEXT)))
    texts = read_documents(str(path), field=draw(st.sampled_from([None, "text"])))
    assert all(isinstance(text, str) for text in texts)


READERS = [
    prompts,
    prompts_in_parquet,
    labelled,
    documents,
    grids,
    records,
    translators,
    safetensors_of_a_lens,
    folders_of_checkpoints,
    *result_files.READERS,
]


@pytest.fixture(scope="module")
def tokenised(llama: Any) -> Any:
    """All of a model that a reader of prompts looks at."""
    return SimpleNamespace(tokenizer=llama.tokenizer)


EACH = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)


@EACH
@given(data=st.data())
@settings(max_examples=100)
def test_no_file_raises_anything_but_our_own_error(
    reader: Any, data: st.DataObject, tokenised: Any, fuzzed: Fuzzed
) -> None:
    fuzzed.read_or_refuse(reader, data.draw, tokenised)


@pytest.mark.slow
@EACH
@given(data=st.data())
@settings(max_examples=800)
def test_ten_thousand_files_raise_nothing_but_our_own_error(
    reader: Any, data: st.DataObject, tokenised: Any, fuzzed: Fuzzed
) -> None:
    fuzzed.read_or_refuse(reader, data.draw, tokenised)
