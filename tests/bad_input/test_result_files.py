"""Result files from elsewhere, and places that cannot be written: refused whole, nothing half-written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
import xarray as xr
from shell import ENVIRONMENT

import mcr_lens as mcr
from mcr_lens.result_files import netcdf


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(mcr.InputError) as raised:
        mcr.Profile.load(path)
    message = str(raised.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message


def sealed(path: Path, content: bytes) -> Path:
    """A file whose last line is right, whatever is in it."""
    path.write_bytes(content + netcdf._seal(content))
    return path


def hdf5(fill: object) -> bytes:
    """An HDF5 file with our attribute, filled by a function."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["mcr_lens"] = json.dumps({"schema": 1})
        fill(file)  # type: ignore[operator]
    return content.getvalue()


def test_one_changed_byte_anywhere_is_found(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    """Before HDF5 sees it, which may read a damaged file for ever."""
    content = llama_profile.save(tmp_path / "run.nc").read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, len(content) // 2, len(content) - 1, *rng.integers(len(content), size=50)]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "run.nc").write_bytes(changed)
        refused(tmp_path / "run.nc", "not a file saved by mcr_lens, or cut short")
    (tmp_path / "run.nc").write_bytes(content + b"\n")
    refused(tmp_path / "run.nc", "not a file saved by mcr_lens")


def test_other_programs_read_what_we_write(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    path = llama_profile.save(tmp_path / "run.nc")
    with xr.open_dataset(path, engine="h5netcdf") as found:
        np.testing.assert_array_equal(found.norm_ratio.values, llama_profile.data.norm_ratio.values)
    with h5py.File(path) as file:
        assert "norm_ratio" in file


def test_a_link_to_another_file_is_not_followed(tmp_path: Path) -> None:
    """Its content would be shown as the result's."""
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(3.0)

    def fill(file: h5py.File) -> None:
        file["norm_ratio"] = h5py.ExternalLink(str(other), "/secret")

    refused(sealed(tmp_path / "run.nc", hdf5(fill)), "not a file saved by mcr_lens")


def test_raw_data_of_another_file_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret!!" * 4)
    path = tmp_path / "made.h5"
    with h5py.File(path, "w") as file:
        file.attrs["mcr_lens"] = json.dumps({"schema": 1})
        file.create_dataset("norm_ratio", (4,), "f8", external=[(str(secret), 0, 32)])
    refused(sealed(tmp_path / "run.nc", path.read_bytes()), "not a file saved by mcr_lens")


def test_values_that_were_never_written_take_no_memory(tmp_path: Path) -> None:
    """Eight terabytes in a kilobyte."""

    def fill(file: h5py.File) -> None:
        file.create_dataset("norm_ratio", (2**20, 2**20), "f8", chunks=(1024, 1024))

    refused(sealed(tmp_path / "run.nc", hdf5(fill)), "not a file saved by mcr_lens")


def test_nothing_compresses_better_than_the_limit_allows(tmp_path: Path) -> None:
    """Millions of equal values are a result like any other."""
    data = xr.Dataset({"x": (("prompt", "depth"), np.zeros((2000, 5000)))})
    path = netcdf.write_dataset(data, tmp_path / "run.nc")
    assert netcdf.read_dataset(path).x.shape == (2000, 5000)


def test_another_result_is_no_profile(tmp_path: Path) -> None:
    lens = xr.Dataset({"lens_loss": (("prompt", "depth"), np.ones((2, 3)))})
    netcdf.write_dataset(lens, tmp_path / "lens.nc")
    refused(tmp_path / "lens.nc", "not a profile", "n_tokens, norm_ratio", "read_dataset")


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("sink_score", ("prompt", "layer")),
        ("mixing_score", ("prompt", "head")),
        ("learned_sink_mass", ("prompt", "layer", "depth")),
        ("norm_ratio", ("prompt", "depth", "head")),
        ("anisotropy", ("prompt",)),
        ("n_tokens", ("prompt", "depth")),
    ],
)
def test_what_a_profile_shows_has_its_shape(
    name: str, dims: tuple[str, ...], llama_profile: mcr.Profile, tmp_path: Path
) -> None:
    sizes = dict(llama_profile.data.sizes)
    values = np.ones([sizes[dim] for dim in dims], dtype=np.int64)
    netcdf.write_dataset(
        llama_profile.data.drop_vars(name).assign({name: (dims, values)}), tmp_path / "run.nc"
    )
    refused(tmp_path / "run.nc", "not a profile: no numbers of the shape", name)


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("not_finite_depth", ("prompt", ["a", "b"]), "holds no whole numbers"),
        ("not_finite_position", ("prompt", [0.5, 1.0]), "holds no whole numbers"),
        ("not_finite_position", (("prompt", "step"), [[1], [1]]), "has other dimensions"),
        ("depth", ("depth", ["a", "b", "c"]), "holds no numbers"),
        ("sink_score", (("prompt", "layer"), [["x"], ["y"]]), "holds no numbers"),
        ("n_tokens", ("prompt", [np.nan, 4.0]), "holds no whole numbers"),
        ("not_finite_logits", (("prompt", "depth"), [[-1.0, np.inf, -1.0]] * 2), "holds Inf"),
        ("not_finite_logits", (("prompt", "depth"), [[-1, -1, -1]] * 2), "has no depths beside it"),
    ],
)
def test_variables_that_no_result_has(name: str, values: tuple[Any, Any], why: str, tmp_path: Path) -> None:
    data = xr.Dataset(
        {"norm_ratio": (("prompt", "depth"), np.ones((2, 3)))},
        {"not_finite_depth": ("prompt", [-1, 1]), "not_finite_position": ("prompt", [-1, 1])},
    ).assign_coords({name: values})
    path, told = tmp_path / "run.nc", f"run.nc: variable '{name}' {why}"
    with pytest.raises(mcr.InputError, match=told):
        netcdf.write_dataset(data, path)
    assert list(tmp_path.iterdir()) == []
    with mock.patch.object(netcdf, "check_variables"):
        netcdf.write_dataset(data, path)
    with pytest.raises(mcr.InputError, match=told):
        netcdf.read_dataset(path)


@pytest.mark.parametrize("schema", ["true", "-5", "0", "1.0", '"1"', "null"])
def test_schemas_that_there_never_were(schema: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["mcr_lens"] = f'{{"schema": {schema}}}'
    refused(sealed(tmp_path / "run.nc", content.getvalue()), "schema", "this version reads up to 1")


@pytest.mark.parametrize("path", [None, 3, b"run.nc", "a\0b.nc"])
def test_what_is_no_path(path: object, llama_profile: mcr.Profile) -> None:
    for call in (llama_profile.save, mcr.Profile.load, netcdf.check_place):
        if isinstance(path, bytes):
            continue
        with pytest.raises(mcr.InputError, match="not a path"):
            call(path)  # type: ignore[arg-type]


def test_names_too_long_for_the_disk(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    refused(path, "no such file")
    for call in (llama_profile.save, netcdf.check_place):
        with pytest.raises(mcr.InputError, match="cannot be written"):
            call(path)
    assert os.listdir(tmp_path) == []


def test_a_pipe_is_not_replaced_by_a_result(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    """Nor is a device: as root, a rename would put a file in the place of /dev/null."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for call in (llama_profile.save, netcdf.check_place):
        with pytest.raises(mcr.InputError, match="no file"):
            call(path)
    assert path.is_fifo()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that root cannot write to")
def test_a_place_that_not_even_root_can_write_is_known_before_the_run() -> None:
    with pytest.raises(mcr.InputError, match="cannot be written"):
        netcdf.check_place("/proc/run.nc")


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
from mcr_lens.result_files import write_dataset
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = sys.argv[1]
rng = np.random.default_rng(0)
data = xr.Dataset({name: (("prompt", "depth"), rng.normal(size=(50, 50))) for name in "abc"})
size = os.path.getsize(write_dataset(data, folder + "/whole.nc"))
for limit in (0, 100, 3000, size // 2, size - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_dataset(data, folder + "/run.nc")
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


def sealed_as(path: Path, change: Callable[[h5py.File], None]) -> Path:
    """A result that somebody who knows the format has changed."""
    content = path.read_bytes()[: -netcdf._SEAL_LENGTH]
    path.write_bytes(content)
    with h5py.File(path, "a") as file:
        change(file)
    content = path.read_bytes()
    path.write_bytes(content + netcdf._seal(content))
    return path


def test_a_thousand_texts_that_are_one_and_the_same(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    """Every element points to the same long text: it would be read a thousand times."""
    path, places = llama_profile.save(tmp_path / "run.nc"), []

    def add(file: h5py.File) -> None:
        texts = file.create_dataset("extra", shape=(1000,), dtype=h5py.string_dtype())
        texts[0] = "x" * 100_000
        texts.make_scale("extra")
        file.flush()
        places.append(texts.id.get_offset())

    sealed_as(path, add)
    content = bytearray(path.read_bytes()[: -netcdf._SEAL_LENGTH])
    (place,) = places
    content[place : place + 16_000] = bytes(content[place : place + 16]) * 1000
    path.write_bytes(bytes(content) + netcdf._seal(bytes(content)))
    refused(path, "not a file saved by mcr_lens")


def test_a_text_a_thousand_times_as_attribute(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    def add(file: h5py.File) -> None:
        file.attrs["extra"] = ["x" * 100] * 1000

    refused(sealed_as(llama_profile.save(tmp_path / "run.nc"), add), "not a file saved by mcr_lens")


@pytest.mark.parametrize(
    "layout",
    [
        {"shape": (1,), "maxshape": (None,), "chunks": (1_000_000,), "compression": "gzip"},
        {"shape": (10,), "chunks": (10,), "compression": "gzip", "fletcher32": True},
        {"shape": (10,), "chunks": (10,), "compression": "lzf"},
    ],
    ids=["pieces larger than the whole", "two filters", "another filter"],
)
def test_layouts_that_no_result_has(
    layout: dict[str, Any], llama_profile: mcr.Profile, tmp_path: Path
) -> None:
    def add(file: h5py.File) -> None:
        file.create_dataset("extra", dtype="f8", **layout)[:] = 1.0

    refused(sealed_as(llama_profile.save(tmp_path / "run.nc"), add), "not a file saved by mcr_lens")


def test_what_observers_of_users_return_is_read_again(tmp_path: Path) -> None:
    """Texts, lists of texts beside a variable, dimensions of no length or without an end."""
    data = xr.Dataset({"said": ("arm", ["a" * 50, "", "ü"])}, {"arm": ["x", "y", "z"]}, {"note": "n" * 500})
    data["said_twice"] = ("arm", "pair"), [["p", "q"]] * 3
    data["event"] = ("event", np.zeros(0))
    data["kind"] = ("arm", [0, 1, 0], {"flag_meanings": ["rise", "fall"], "units": "nats"})
    data.encoding["unlimited_dims"] = {"arm"}
    netcdf.write_dataset(data, tmp_path / "run.nc")
    xr.testing.assert_identical(netcdf.read_dataset(tmp_path / "run.nc"), data)


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
