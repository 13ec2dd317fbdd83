"""One file a dataset: what is read is what was written, and nothing is ever half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import mcr_lens as mcr
from mcr_lens.result_files import netcdf

ATTRIBUTES = {
    "revision": None,
    "yes": True,
    "no": False,
    "number": 3,
    "share": 0.1,
    "odd": 'Zoë\n"quoted" \\ / 🙂 \u2028 \x00 名',
    "nested": {"a": [1, None, {"b": False}], "": "empty key"},
    "empty": {},
    "list": [],
    "a/b": "slash in a name",
}


@pytest.fixture
def data() -> xr.Dataset:
    return xr.Dataset(
        {
            "single": (("prompt", "depth"), np.array([[1.5, np.nan], [np.inf, -0.0]], dtype=np.float32)),
            "double": (("prompt", "depth"), np.array([[1e-300, 1 / 3], [2, np.nan]])),
            "position": (("prompt", "depth"), np.array([[-1, 5], [2**40, 0]])),
            "massive": (("prompt",), np.array([True, False])),
        },
        coords={"prompt": [0, 1], "depth": [0, 1], "first_token": ("prompt", [151643, 0])},
        attrs=ATTRIBUTES,
    )


def test_what_is_read_is_what_was_written(data: xr.Dataset, tmp_path: Path) -> None:
    path = netcdf.write_dataset(data, tmp_path / "a" / "b" / "run.nc")
    found = netcdf.read_dataset(str(path))
    xr.testing.assert_identical(found, data)
    assert found.attrs == ATTRIBUTES
    for name in data.variables:
        assert found[name].dtype == data[name].dtype, name
    assert os.listdir(path.parent) == ["run.nc"]


def test_writing_changes_nothing_in_memory(data: xr.Dataset, tmp_path: Path) -> None:
    before = data.copy(deep=True)
    netcdf.write_dataset(data, tmp_path / "run.nc")
    xr.testing.assert_identical(data, before)


@given(
    attributes=st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "schema"),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=5), inner)),
            max_leaves=5,
        ),
        max_size=4,
    )
)
@settings(max_examples=25)
def test_any_attributes_survive(attributes: dict[str, Any], tmp_path: Path) -> None:
    dataset = xr.Dataset({"x": ("prompt", [1.0])}, attrs=attributes)
    assert netcdf.read_dataset(netcdf.write_dataset(dataset, tmp_path / "run.nc")).attrs == attributes


def test_a_second_save_replaces_the_first(data: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    netcdf.write_dataset(data, path)
    netcdf.write_dataset(data * 2, path)
    assert float(netcdf.read_dataset(path).single[0, 0]) == 3.0
    assert os.listdir(tmp_path) == ["run.nc"]


def test_a_loaded_file_may_be_replaced_and_removed(data: xr.Dataset, tmp_path: Path) -> None:
    path = netcdf.write_dataset(data, tmp_path / "run.nc")
    loaded = netcdf.read_dataset(path)
    netcdf.write_dataset(loaded, path)
    path.unlink()
    assert float(loaded.single[0, 0]) == 1.5


def test_files_are_as_readable_as_others(data: xr.Dataset, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.touch()
    path = netcdf.write_dataset(data, tmp_path / "run.nc")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


@pytest.mark.parametrize("step", ["mkdir", "mkstemp", "fdopen", "chmod", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_cannot_be_written(
    step: str, number: int, data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.nc"
    netcdf.write_dataset(data, path)
    old = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> None:
        if step == "fdopen":  # half of the file is there already
            os.write(args[0], old[: len(old) // 2])
            os.close(args[0])
        raise OSError(number, os.strerror(number))

    places: dict[str, tuple[Any, str]] = {
        "mkdir": (Path, "mkdir"),
        "mkstemp": (netcdf.tempfile, "mkstemp"),
        "fdopen": (netcdf.os, "fdopen"),
        "chmod": (netcdf.os, "chmod"),
        "replace": (netcdf.os, "replace"),
    }
    holder, name = places[step]
    monkeypatch.setattr(holder, name, fail)
    with pytest.raises(mcr.InputError, match=os.strerror(number)) as raised:
        netcdf.write_dataset(data * 2, path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == ["run.nc"]
    assert path.read_bytes() == old


def test_ctrl_c_while_writing(data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        os.write(args[0], b"half")
        os.close(args[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(netcdf.os, "fdopen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        netcdf.write_dataset(data, tmp_path / "run.nc")
    assert os.listdir(tmp_path) == []


def test_places_that_are_no_files(data: xr.Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "file" / "run.nc"):
        with pytest.raises(mcr.InputError, match="cannot be written"):
            netcdf.write_dataset(data, path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == []


def refused(path: Path, match: str) -> None:
    with pytest.raises(mcr.InputError, match=match) as raised:
        netcdf.read_dataset(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.nc", "no such file")
    refused(tmp_path, "no such file")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files(part: float, data: xr.Dataset, tmp_path: Path) -> None:
    path = netcdf.write_dataset(data, tmp_path / "run.nc")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(path, "cut short")


def test_foreign_files(data: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    for content in (b"", b"not netCDF", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        refused(path, "not a file saved by mcr_lens")
    xr.Dataset({"temperature": ("time", [1.0])}).to_netcdf(path, engine="h5netcdf")
    refused(path, "not a file saved by mcr_lens")
    for text in ("no JSON", "[]", "3", "{}", "null"):
        xr.Dataset(attrs={"mcr_lens": text}).to_netcdf(path, engine="h5netcdf")
        refused(path, "not a file saved by mcr_lens")


@pytest.mark.parametrize("schema", [2, 99, "2", None])
def test_a_newer_schema(
    schema: Any, data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netcdf, "SCHEMA", schema)
    path = netcdf.write_dataset(data, tmp_path / "run.nc")
    monkeypatch.undo()
    refused(path, "upgrade mcr-lens")


def test_a_file_with_the_right_attribute_that_is_no_profile(tmp_path: Path) -> None:
    path = netcdf.write_dataset(xr.Dataset({"x": ("time", [1.0])}), tmp_path / "run.nc")
    with pytest.raises(mcr.InputError, match="dimension depth, prompt is missing"):
        mcr.Profile.load(path)


# h5netcdf's own clean-up stumbles over a file that it could not open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(data=st.data())
@settings(max_examples=60)
def test_no_damaged_file_raises_anything_else(data: st.DataObject, tmp_path: Path) -> None:
    whole = tmp_path / "whole.nc"
    if not whole.exists():
        dataset = xr.Dataset({"x": (("prompt", "depth"), np.ones((2, 3)))}, attrs={"a": 1})
        netcdf.write_dataset(dataset, whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.nc"
    damaged.write_bytes(bytes(content))
    with contextlib.suppress(mcr.InputError):
        netcdf.read_dataset(damaged)
