"""Grids as TOML: what they expand to, and that everything else is refused in one line."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest

import mcr_lens as mcr
from mcr_lens.sweeps import Grid, SweepArm, SweepModel, SweepPrompts, cells, read_grid

MODELS = '[[models]]\nsource = "tiny"\n'
PROMPTS = '[[prompts]]\nsource = "made-up"\n'


def read(text: str, folder: Path) -> Grid:
    path = folder / "grid.toml"
    path.write_text(text)
    return read_grid(path)


def test_a_grid_is_every_model_by_prompts_by_arm_baselines_first(tmp_path: Path) -> None:
    grid = read(
        'arms = [{intervention = "clamp_norm", layers = [1], dose = [0.5, 1]}, "baseline"]\n'
        '[[models]]\nsource = "tiny"\nrevisions = ["step0", "step512"]\n[[models]]\nsource = "gpt2"\n'
        '[[prompts]]\nsource = "made-up"\n[[prompts]]\nsource = "hf:openai/gsm8k"\nfield = "question"\n',
        tmp_path,
    )
    found = [
        (cell.model.label, cell.revision, cell.prompts.label, cell.arm.intervention, cell.arm.dose)
        for cell in cells(grid)
    ]
    models = [("tiny", "step0"), ("tiny", "step512"), ("gpt2", None)]
    arms = [("baseline", None), ("clamp_norm", 0.5), ("clamp_norm", 1)]
    expected = itertools.product(models, ["made-up", "gsm8k"], arms)
    assert found == [(*model, prompts, *arm) for model, prompts, arm in expected]
    assert len({cell.name for cell in cells(grid)}) == 18


def test_a_chunk_may_be_left_to_the_memory(tmp_path: Path) -> None:
    grid = read(f'[estimator]\ncenter = true\n{MODELS}chunk = "auto"\n{PROMPTS}', tmp_path)
    assert grid.models[0].chunk == "auto"


def test_every_setting_reaches_the_cells(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "p.jsonl").write_text('{"q": "w1 w2"}')
    grid = read(
        "sink_position = 1\n[estimator]\nunit_rows = true\n"
        '[[models]]\nsource = "./folder"\nname = "mine"\nbackend = "bridge"\ndtype = "bfloat16"\n'
        'device_map = "auto"\nbatch_size = 3\nchunk = 64\noptions = {low_cpu_mem_usage = true}\n'
        '[[prompts]]\nsource = "data/p.jsonl"\nfield = "q"\nn = 5\nseed = 2\nmax_tokens = 9\n'
        "prepend_bos = false\n",
        tmp_path,
    )
    (cell,) = cells(grid)
    assert cell.model == SweepModel(
        str(tmp_path / "folder"),
        backend="bridge",
        dtype="bfloat16",
        device_map="auto",
        batch_size=3,
        chunk=64,
        options={"low_cpu_mem_usage": True},
        name="mine",
    )
    # Beside the grid, wherever the command is run.
    assert cell.prompts == SweepPrompts(
        str(tmp_path / "data" / "p.jsonl"), field="q", n=5, seed=2, max_tokens=9, prepend_bos=False
    )
    assert cell.arm == SweepArm()
    assert (cell.sink_position, cell.estimator) == (1, mcr.metrics.Estimator(unit_rows=True))
    assert cell.name.startswith("mine--p--baseline--")


def test_a_baseline_that_arms_need_is_a_cell_though_not_named(tmp_path: Path) -> None:
    needed = read(
        f'arms = [{{intervention = "ablate_mlp_write", layers = "emergence"}}]\n{MODELS}{PROMPTS}', tmp_path
    )
    assert [cell.arm.is_baseline for cell in cells(needed)] == [True, False]
    plain = read(f'arms = [{{intervention = "ablate_mlp_write", layers = [1]}}]\n{MODELS}{PROMPTS}', tmp_path)
    assert [cell.arm.is_baseline for cell in cells(plain)] == [False]


ABLATE = 'intervention = "ablate_mlp_write"'
REFUSED = {
    "": "models is missing",
    MODELS: "prompts is missing",
    f"models = []\n{PROMPTS}": "models = []: use a list of one or more",
    f'models = "tiny"\n{PROMPTS}': "models = 'tiny': use a list of one or more",
    f'models = ["tiny"]\n{PROMPTS}': "models[0] = 'tiny': use a table",
    f"arms = []\n{MODELS}{PROMPTS}": "arms = []",
    f"arm = 1\n{MODELS}{PROMPTS}": "grid.toml: unknown key 'arm'; use some of models, prompts, arms",
    f"{MODELS}dtyp = 1\n{PROMPTS}": "models[0]: unknown key 'dtyp'; use some of source, revisions",
    f"{MODELS}dtype = 16\n{PROMPTS}": "models[0]: dtype = 16: use 'float32', 'bfloat16' or",
    f'{MODELS}dtype = "int8"\n{PROMPTS}': "dtype = 'int8': use 'float32'",
    f"{MODELS}revisions = []\n{PROMPTS}": "revisions = []: use a list of one or more",
    f"{MODELS}revisions = [1]\n{PROMPTS}": "revisions[0] = 1: use a valid string",
    f'{MODELS}revisions = ["a", "a"]\n{PROMPTS}': "revision 'a' stands there twice",
    f"{MODELS}batch_size = 0\n{PROMPTS}": "batch_size = 0: use a number from 1 or 'auto'",
    f"{MODELS}batch_size = true\n{PROMPTS}": "batch_size = True: use a valid integer or 'auto'",
    f"{MODELS}chunk = 1.5\n{PROMPTS}": "chunk = 1.5: use a valid integer or 'auto'",
    f'{MODELS}chunk = "all"\n{PROMPTS}': "chunk = 'all': use a valid integer or 'auto'",
    f'{MODELS}backend = "hooked_transformer"\ndevice_map = "auto"\n{PROMPTS}': "device_map works through",
    f'[[models]]\nname = "x"\n{PROMPTS}': "models[0]: source is missing",
    f'[[models]]\nsource = ""\n{PROMPTS}': "source = '': use a name or a path (it is empty)",
    f"{MODELS}{MODELS}{PROMPTS}": "models: two are called 'tiny'",
    f'{MODELS}{MODELS}name = "other"\n{PROMPTS}': "models: 'tiny' and 'other' are the same",
    f"{MODELS}{PROMPTS}{PROMPTS}": "prompts: two are called 'made-up'",
    f"{MODELS}{PROMPTS}n = 0\n": "prompts[0]: n = 0: use a number from 1",
    f'{MODELS}{PROMPTS}n = "4"\n': "prompts[0]: n = '4': use a valid integer",
    f'{MODELS}{PROMPTS}field = "q"\n': "field is for files and data sets only",
    f'arms = ["ablate"]\n{MODELS}{PROMPTS}': "intervention = 'ablate': use 'baseline', 'ablate_mlp_write'",
    f'arms = ["baseline", "baseline"]\n{MODELS}{PROMPTS}': "arms: two are called 'baseline'",
    f"arms = [{{layers = [1]}}]\n{MODELS}{PROMPTS}": "arms[0]: intervention is missing",
    f"arms = [{{{ABLATE}}}]\n{MODELS}{PROMPTS}": "missing 1 required positional argument: 'layers'; it takes",
    f"arms = [3]\n{MODELS}{PROMPTS}": "arms[0] = 3: use a table",
    f"arms = [{{{ABLATE}, layers = []}}]\n{MODELS}{PROMPTS}": "layers = []",
    f"arms = [{{{ABLATE}, layers = [1, 1]}}]\n{MODELS}{PROMPTS}": "layers (1, 1): use one or several",
    f"arms = [{{{ABLATE}, layers = [-1]}}]\n{MODELS}{PROMPTS}": "layers (-1,): use one or several",
    f'arms = [{{{ABLATE}, layers = "all"}}]\n{MODELS}{PROMPTS}': "layers = 'all': use a list",
    f"arms = [{{{ABLATE}, layers = [1], dose = 2}}]\n{MODELS}{PROMPTS}": "dose 2.0: use 0",
    f"arms = [{{{ABLATE}, layers = [1], dose = []}}]\n{MODELS}{PROMPTS}": "dose = []",
    f"arms = [{{{ABLATE}, layers = [1], dose = [1, 1]}}]\n{MODELS}{PROMPTS}": "two are called",
    f"arms = [{{intervention = 'baseline', name = 'x'}}]\n{MODELS}{PROMPTS}": "no name; leave them out",
    f"arms = [{{{ABLATE}, layers = [1], heads = [1]}}]\n{MODELS}{PROMPTS}": "'heads'; it takes layers,",
    f'arms = [{{intervention = "baseline", dose = 1}}]\n{MODELS}{PROMPTS}': "it takes no arguments",
    f'arms = [{{intervention = "zero_dimensions", layers = 1}}]\n{MODELS}{PROMPTS}': "argument: 'dimensions'",
    f"sink_position = -1\n{MODELS}{PROMPTS}": "sink_position = -1",
    f"[estimator]\nalpha = 0\n{MODELS}{PROMPTS}": "estimator: Renyi order",
    f"[estimator]\ncenter = 1\n{MODELS}{PROMPTS}": "center = 1: use a valid boolean",
    f"[estimator]\ncenter = true\n{MODELS}chunk = 4\n{PROMPTS}": "chunk excludes an estimator",
    "[[models]\n": "not valid TOML",
    f"{MODELS}source = 'x'\n": "not valid TOML",
}


@pytest.mark.parametrize("text", REFUSED, ids=list(map(str, range(len(REFUSED)))))
def test_bad_grids_are_refused_in_one_line_that_names_file_and_key(text: str, tmp_path: Path) -> None:
    with pytest.raises(mcr.InputError, match=re.escape(REFUSED[text])) as raised:
        read(text, tmp_path)
    assert str(raised.value).startswith(str(tmp_path / "grid.toml"))
    assert "\n" not in str(raised.value)


def test_files_that_are_no_grids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(mcr.InputError, match="cannot be read"):
        read_grid(tmp_path / "none.toml")
    with pytest.raises(mcr.InputError, match="cannot be read"):
        read_grid(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(mcr.InputError, match="not UTF-8"):
        read_grid(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("models", "prompts", "arms"),
    [
        ([], [SweepPrompts("made-up")], [SweepArm()]),
        (["tiny"], [SweepPrompts("made-up")], [SweepArm()]),
        ([SweepModel("tiny")], None, [SweepArm()]),
        ([SweepModel("tiny")], [SweepPrompts("made-up")], "baseline"),
    ],
)
def test_grids_made_in_python_are_checked_alike(models: Any, prompts: Any, arms: Any) -> None:
    with pytest.raises(mcr.InputError, match=r"use (a list of one or more|a table)"):
        Grid(models, prompts, arms)


def test_every_setting_changes_the_name_of_a_cell() -> None:
    def name(model: dict[str, Any], prompts: dict[str, Any], arm: dict[str, Any], **rest: Any) -> str:
        grid = Grid(
            [SweepModel("tiny", **model)],
            [SweepPrompts("made-up", **prompts)],
            [SweepArm("zero_dimensions", **{"layers": (1,), "dimensions": (2,), "name": "a"} | arm)],
            **rest,
        )
        return cells(grid)[-1].name

    names = [
        name({}, {}, {}),
        *(
            name({key: value}, {}, {})
            for key, value in {"batch_size": 2, "chunk": 8, "device": "cpu"}.items()
        ),
        name({"dtype": "bfloat16"}, {}, {}),
        name({"backend": "bridge"}, {}, {}),
        name({"revisions": ["step0"]}, {}, {}),
        name({"options": {"a": 1}}, {}, {}),
        name({}, {"n": 2}, {}),
        name({}, {"seed": 2}, {}),
        name({}, {"max_tokens": 8}, {}),
        name({}, {}, {"dose": 0.5}),
        name({}, {}, {"layers": (2,)}),
        name({}, {}, {"dimensions": (3,)}),
        name({}, {}, {}, sink_position=1),
        name({}, {}, {}, estimator=mcr.metrics.Estimator(alpha=2.0)),
    ]
    assert len(set(names)) == len(names)
    assert name({}, {}, {}) == names[0]
    assert all(re.fullmatch(r"[A-Za-z0-9._=,@-]+", each) for each in names)


def test_names_are_safe_and_not_too_long() -> None:
    model = SweepModel('a/b c:*?"<>|\\\n' + "x" * 300, revisions=["../../etc"])
    grid = Grid([model], [SweepPrompts("hf:someone/set", name="..")], [SweepArm()])
    (cell,) = cells(grid)
    assert re.fullmatch(r"[A-Za-z0-9._=,@-]+", cell.name)
    assert not cell.name.startswith((".", "-"))
    assert len(cell.name) < 220


def test_the_name_follows_the_content_of_files_and_not_their_place(tmp_path: Path) -> None:
    def name(folder: str, text: str) -> str:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        (place / "p.txt").write_text(text)
        return cells(Grid([SweepModel("tiny")], [SweepPrompts(str(place / "p.txt"))]))[0].name

    assert name("a", "one two") == name("b", "one two") != name("a", "one three")
    missing = cells(Grid([SweepModel("tiny")], [SweepPrompts(str(tmp_path / "none.txt"))]))[0]
    with pytest.raises(mcr.InputError, match="cannot be read"):
        _ = missing.name


def test_the_name_follows_the_files_of_a_model_folder(llama_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)

    def name() -> str:
        return cells(Grid([SweepModel(str(folder))], [SweepPrompts("made-up")]))[0].name

    before = name()
    assert before.startswith("model--made-up--baseline--")
    assert name() == before
    os.utime(folder / "config.json", ns=(0, 0))
    assert name() != before


def test_other_models_and_prompts_take_the_place_of_the_grids(tmp_path: Path) -> None:
    grid = read(
        '[[models]]\nsource = "gpt2"\n[[prompts]]\nsource = "hf:a/b"\nconfig = "c"\nsplit = "d"\n'
        'field = "e"\nn = 3\nmax_tokens = 7\n',
        tmp_path,
    )
    other = grid.with_models(["tiny@step0", "gpt2", "tiny@step512"]).with_prompts("p.jsonl")
    assert other.models == (SweepModel("tiny", revisions=["step0", "step512"]), SweepModel("gpt2"))
    assert other.prompts == (SweepPrompts("p.jsonl", field="e", n=3, max_tokens=7),)
    assert grid.with_prompts("made-up").prompts == (SweepPrompts("made-up", n=3, max_tokens=7),)
    with pytest.raises(mcr.InputError, match="once with a revision and once without"):
        grid.with_models(["tiny", "tiny@step0"])
