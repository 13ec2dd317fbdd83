"""Result files from elsewhere, and places that cannot be written: refused whole, nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from shell import ENVIRONMENT

import mcr_lens as mcr
from mcr_lens.results import check_place, save_dataset


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(mcr.InputError) as raised:
        mcr.Profile.load(path)
    message = str(raised.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message


def test_another_result_is_no_profile(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    lens = xr.Dataset({"lens_loss": (("prompt", "depth"), np.ones((2, 3)))})
    save_dataset(lens, tmp_path / "lens.nc")
    refused(tmp_path / "lens.nc", "not a profile but a result", "mcr_lens.load opens it")
    with pytest.raises(mcr.InputError, match="not an ablation study but a profile"):
        mcr.AblationStudy.load(llama_profile.save(tmp_path / "run.nc"))


@pytest.mark.parametrize("path", [None, 3, b"run.nc", "a\0b.nc"])
def test_what_is_no_path(path: object, llama_profile: mcr.Profile) -> None:
    for call in (llama_profile.save, mcr.Profile.load, check_place):
        if isinstance(path, bytes):
            continue
        with pytest.raises(mcr.InputError, match="not a path"):
            call(path)  # type: ignore[arg-type]


def test_names_too_long_for_the_disk(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    refused(path, "cannot be read (File name too long)")
    for call in (llama_profile.save, check_place):
        with pytest.raises(mcr.InputError, match="cannot be written"):
            call(path)
    assert os.listdir(tmp_path) == []


def test_a_pipe_is_not_replaced_by_a_result(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    """Nor is a device: as root, a rename would put a file in the place of /dev/null."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for call in (llama_profile.save, check_place):
        with pytest.raises(mcr.InputError, match="no file"):
            call(path)
    assert path.is_fifo()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that root cannot write to")
def test_a_place_that_not_even_root_can_write_is_known_before_the_run() -> None:
    with pytest.raises(mcr.InputError, match="cannot be written"):
        check_place("/proc/run.nc")


def test_a_link_is_replaced_not_written_through(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    (tmp_path / "run.nc").symlink_to(kept)
    llama_profile.save(tmp_path / "run.nc")
    assert kept.read_text() == "mine"
    assert not (tmp_path / "run.nc").is_symlink()


FULL = """
import os, resource, signal, sys
import numpy as np, xarray as xr
import mcr_lens as mcr
from mcr_lens.results import save_dataset
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = sys.argv[1]
rng = np.random.default_rng(0)
data = xr.Dataset({name: (("prompt", "depth"), rng.normal(size=(50, 50))) for name in "abc"})
size = os.path.getsize(save_dataset(data, folder + "/whole.nc"))
for limit in (0, 100, 3000, size // 2, size - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save_dataset(data, folder + "/run.nc")
    except mcr.InputError as error:
        assert str(error).startswith(folder + "/run.nc: cannot be written"), error
        assert "\\n" not in str(error)
    else:
        raise AssertionError("it was written")
    assert os.listdir(folder) == ["whole.nc"], os.listdir(folder)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_disk_that_fills_up_while_it_is_written(tmp_path: Path) -> None:
    """A real failure of the writes, at several moments: no traceback of HDF5's, no crash, nothing left."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("content", [b"question\nw1 w2\n", b"\x89PNG", b"{}"])
def test_a_file_that_is_no_result_is_not_replaced(
    content: bytes, llama_profile: mcr.Profile, tmp_path: Path
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(content)
    with pytest.raises(mcr.InputError, match="a file stands there that is no result"):
        llama_profile.save(path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]
    path.write_bytes(b"")
    llama_profile.save(path)
    llama_profile.save(path)
    assert mcr.Profile.load(path).data.sizes == llama_profile.data.sizes
