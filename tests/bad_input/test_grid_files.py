"""Grids from elsewhere: no name in them leads out of the folder, and none is waited for."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

import mcr_lens as mcr
from mcr_lens.sweeps import cells, read_grid, sweep, sweep_status
from mcr_lens.sweeps.store import ResultFolder

WAYS_OUT = [
    "../../evil",
    "/etc/evil",
    "..",
    ".",
    "a/../../b",
    "..\\..\\evil",
    "C:\\evil",
    "~/evil",
    "a\\u0000b",
    "\\u202e/evil",
    "a\\nb",
    "%2e%2e%2fevil",
    "-rf",
    "con",
    "$(touch evil)",
]


def grid_file(folder: Path, name: str, where: str) -> Path:
    model, prompts, arm = 'source = "tiny"\n', 'source = "made-up"\nn = 2\nmax_tokens = 8\n', '"baseline"'
    if where == "revision":
        model += f'revisions = ["{name}"]\n'
    elif where == "model":
        model += f'name = "{name}"\n'
    elif where == "prompts":
        prompts += f'name = "{name}"\n'
    elif where == "arm":
        arm = f'{{intervention = "ablate_mlp_write", layers = [1], name = "{name}"}}'
    path = folder / "grid.toml"
    text = f"arms = [{arm}]\n[[models]]\n{model}[[prompts]]\n{prompts}"
    path.write_text(text.replace("\\..", "\\\\..").replace(":\\", ":\\\\").replace("\\evil", "\\\\evil"))
    return path


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("where", ["revision", "model", "prompts", "arm"])
@pytest.mark.parametrize("name", WAYS_OUT)
def test_results_and_records_stay_in_their_folder(name: str, where: str, tmp_path: Path) -> None:
    path = grid_file(tmp_path, name, where)
    out = ResultFolder(tmp_path / "out" / "inner")
    places = []
    with contextlib.suppress(mcr.InputError):  # some are refused outright
        found = cells(read_grid(path))
        places = [place for cell in found for place in (out.result_path(cell), out.error_path(cell))]
    for place in places:
        assert Path(os.path.normpath(place)).parent == out.place
        assert place.name.isascii() and place.name.isprintable()
        assert not place.name.startswith((".", "-"))
        assert len(place.name) < 255


def test_a_sweep_with_such_names_writes_nowhere_else(bundled_model: object, tmp_path: Path) -> None:
    """The revision fails and the arm runs: a record and a result."""
    (tmp_path / "work").mkdir()
    path = grid_file(tmp_path / "work", "../../evil", "arm")
    path.write_text(path.read_text().replace("[[prompts]]", 'revisions = ["../../x", "step0"]\n[[prompts]]'))
    table = sweep(read_grid(path), tmp_path / "work" / "out", progress=False)
    assert sorted(table.state) == ["done", "failed"]
    assert everything(tmp_path / "work")[:2] == ["grid.toml", "out"]
    assert {Path(name).parent.name for name in everything(tmp_path / "work")[2:]} == {"out"}
    assert os.listdir(tmp_path) == ["work"]


def test_a_link_in_the_folder_is_replaced_not_followed(bundled_model: object, tmp_path: Path) -> None:
    grid = read_grid(grid_file(tmp_path, "mine", "model"))
    (cell,) = cells(grid)
    out = ResultFolder(tmp_path / "out")
    out.place.mkdir()
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    out.error_path(cell).symlink_to(kept)
    out.record(cell, ValueError("no"))
    assert kept.read_text() == "mine"
    assert not out.error_path(cell).is_symlink()
    found = out.error(cell)
    assert found is not None and found["message"] == "no"


@pytest.mark.parametrize(
    "source", ["/dev/zero", "PIPE", "x" * 5000, "~nobody-of-this-name/p.txt", "a\\u0000b.txt"]
)
def test_prompts_that_are_no_files_are_refused_and_not_waited_for(source: str, tmp_path: Path) -> None:
    if source == "PIPE":
        source = str(tmp_path / "pipe.txt")
        os.mkfifo(source)
    path = tmp_path / "grid.toml"
    path.write_text(f'[[models]]\nsource = "tiny"\n[[prompts]]\nsource = "{source}"\n')
    with pytest.raises(mcr.InputError) as raised:
        sweep_status(read_grid(path), tmp_path / "out")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", ["PIPE", "x" * 300, "a\0b", "~nobody-of-this-name/grid.toml"])
def test_grids_that_are_no_files(path: str, tmp_path: Path) -> None:
    if path == "PIPE":
        path = str(tmp_path / "pipe.toml")
        os.mkfifo(path)
    with pytest.raises(mcr.InputError):
        read_grid(path)


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "1e999", "nan", "-0x1"])
@pytest.mark.parametrize("key", ["n", "seed", "max_tokens"])
def test_numbers_of_thousands_of_digits(number: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(f'[[models]]\nsource = "tiny"\n[[prompts]]\nsource = "made-up"\n{key} = {number}\n')
    with pytest.raises(mcr.InputError) as raised:
        [cell.name for cell in cells(read_grid(path))]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"3", b'{"error": 1}', b"[" * 100_000])
def test_a_damaged_record_of_a_failure_is_told(content: bytes, tmp_path: Path) -> None:
    grid = read_grid(grid_file(tmp_path, "mine", "model"))
    (cell,) = cells(grid)
    out = ResultFolder(tmp_path / "out")
    out.place.mkdir()
    out.error_path(cell).write_bytes(content)
    table = sweep_status(grid, out.place)
    assert table.state.tolist() == ["failed"]
    assert "delete it" in table.error[0]


def test_a_folder_that_is_no_path(tmp_path: Path) -> None:
    grid = read_grid(grid_file(tmp_path, "mine", "model"))
    for place in ("a\0b", None):
        with pytest.raises(mcr.InputError, match="not a path"):
            sweep_status(grid, place)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["dtype", "backend", "revision", "device_map"])
def test_an_option_is_not_said_twice(option: str, tmp_path: Path) -> None:
    with pytest.raises(mcr.InputError, match=rf"options.{option}: use the field of that name"):
        read_grid(grid_with_options(tmp_path, f'{option} = "x"'))


@pytest.mark.parametrize("value", ["true", "false"])
def test_a_file_asks_for_no_code_to_be_run(value: str, tmp_path: Path) -> None:
    with pytest.raises(
        mcr.InputError, match=r"models\[0\]: options.trust_remote_code: a file alone cannot ask"
    ):
        read_grid(grid_with_options(tmp_path, f"trust_remote_code = {value}"))
    grid = read_grid(grid_with_options(tmp_path, f"trust_remote_code = {value}"), trust_remote_code=True)
    assert grid.models[0].options == {"trust_remote_code": value == "true"}


def grid_with_options(folder: Path, options: str) -> Path:
    path = folder / "grid.toml"
    path.write_text(
        f'[[models]]\nsource = "tiny"\noptions = {{{options}}}\n[[prompts]]\nsource = "made-up"\n'
    )
    return path
