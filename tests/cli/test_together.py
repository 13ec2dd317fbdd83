"""Files that appear together or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import mcr_lens as mcr
from mcr_lens.cli import together

NAMES = ["a.txt", "b.txt"]


def write(folder: Path, text: str) -> None:
    with together.appearing_together(folder, NAMES) as partial:
        for path in partial:
            path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "out"
    write(folder, "1")
    assert content(folder) == {"a.txt": "1", "b.txt": "1"}
    assert os.listdir(folder.parent) == ["out"]


def test_other_files_of_a_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    write(tmp_path, "1")
    write(tmp_path, "2")
    assert content(tmp_path) == {"notes": "mine", "a.txt": "2", "b.txt": "2"}


def write_half(folder: Path, error: BaseException) -> None:
    with together.appearing_together(folder, NAMES) as (first, _):
        first.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), mcr.InputError("no")])
def test_what_fails_inside_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised:
        write_half(tmp_path, error)
    assert raised.value is error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_the_folder_as_it_was(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "old")

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise failure

    monkeypatch.setattr(Path, "write_text", fail)
    expected = mcr.InputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        write(tmp_path, "new")
    if isinstance(failure, OSError):
        assert "cannot be written (No space left on device)" in str(raised.value)
    assert content(tmp_path) == {"a.txt": "old", "b.txt": "old"}


def test_places_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    together.check_folder(tmp_path / "new" / "deep", NAMES, overwrite=False)
    (tmp_path / "notes").touch()
    together.check_folder(tmp_path, NAMES, overwrite=False)
    with pytest.raises(mcr.InputError, match="not a folder"):
        together.check_folder(tmp_path / "notes", NAMES, overwrite=True)
    (tmp_path / "b.txt").touch()
    with pytest.raises(mcr.InputError, match=r": b\.txt already there; .* --overwrite$"):
        together.check_folder(tmp_path, NAMES, overwrite=False)
    together.check_folder(tmp_path, NAMES, overwrite=True)
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(mcr.InputError, match="a folder stands there"):
        together.check_folder(tmp_path, NAMES, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt", "notes"]
