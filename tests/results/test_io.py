"""One file a dataset: what is read is what was written, xarray may change it, nothing is half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import mcr_lens as mcr
from mcr_lens.results import atomic_write, io, load_dataset, save_dataset

HERE = Path(__file__).parent
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
            "scalar": ((), 0.25),
            "nothing": ("event", np.zeros(0)),
            "twice": (("prompt", "pair"), [["p", "q"], ["", "ü"]]),
        },
        coords={
            "prompt": [0, 1],
            "depth": [0, 1],
            "first_token": ("prompt", [151643, 0]),
            "arm": ("prompt", ["clamp", "a" * 50]),
        },
        attrs=ATTRIBUTES,
    )


def test_what_is_read_is_what_was_written(data: xr.Dataset, tmp_path: Path) -> None:
    path = save_dataset(data, tmp_path / "a" / "b" / "run.nc")
    before = data.copy(deep=True)
    loaded = load_dataset(str(path))
    xr.testing.assert_identical(loaded, data)
    xr.testing.assert_identical(before, data)  # writing changes nothing in memory
    assert loaded.attrs == ATTRIBUTES
    for name in data.variables:
        assert loaded[name].dtype.kind in (data[name].dtype.kind, "O"), name
    assert os.listdir(path.parent) == ["run.nc"]


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
    assert load_dataset(save_dataset(dataset, tmp_path / "run.nc")).attrs == attributes


def test_numbers_of_numpy_may_be_attributes_and_objects_may_not(tmp_path: Path) -> None:
    dataset = xr.Dataset({"x": ("prompt", [1.0])}, attrs={"n": np.int64(3), "many": np.arange(2)})
    assert load_dataset(save_dataset(dataset, tmp_path / "run.nc")).attrs == {"n": 3, "many": [0, 1]}
    with pytest.raises(mcr.InputError, match="a object cannot be saved"):
        save_dataset(dataset.assign_attrs(n=object()), tmp_path / "other.nc")


# Open files


def test_xarray_may_add_a_variable(llama_profile: mcr.Profile, tmp_path: Path) -> None:
    path = llama_profile.save(tmp_path / "run.nc")
    edited = xr.load_dataset(path)
    edited["log_ratio"] = np.log(edited.norm_ratio)
    edited["label"] = "prompt", ["text"] * edited.sizes["prompt"]
    edited.attrs["note"] = "mine"
    edited.to_netcdf(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = mcr.load(path)
    assert isinstance(loaded, mcr.Profile)
    xr.testing.assert_identical(
        loaded.data.drop_vars(["log_ratio", "label"]).drop_attrs(), llama_profile.data.drop_attrs()
    )
    assert loaded.data.attrs == llama_profile.data.attrs | {"note": "mine"}
    np.testing.assert_array_equal(loaded["log_ratio"], np.log(llama_profile["norm_ratio"]))
    xr.testing.assert_identical(mcr.load(loaded.save(path)).data, loaded.data)


def test_xarray_may_change_numbers_and_a_warning_says_so(data: xr.Dataset, tmp_path: Path) -> None:
    path = save_dataset(data, tmp_path / "run.nc")
    edited = xr.load_dataset(path).isel(prompt=[0])
    edited["double"][0, 0] = 7.0
    edited.to_netcdf(path)
    with pytest.warns(UserWarning, match="run.nc: edited or damaged since it was saved .*double"):
        loaded = load_dataset(path)
    assert float(loaded.double[0, 0]) == 7.0 and loaded.attrs == ATTRIBUTES


@pytest.mark.parametrize("name", ["profile", "study"])
def test_files_of_the_schema_before_open(name: str, tmp_path: Path) -> None:
    content = (HERE / f"{name}_schema_1.nc").read_bytes()
    old, damaged = tmp_path / "old.nc", bytearray(content)
    old.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = mcr.load(old)
    assert type(loaded).__name__ == {"profile": "Profile", "study": "AblationStudy"}[name]
    assert loaded.headline in repr(loaded)
    again = mcr.load(loaded.save(tmp_path / "new.nc"))
    xr.testing.assert_identical(again.data, loaded.data)
    damaged[len(content) // 2] ^= 1
    old.write_bytes(damaged)
    refused(old, "damaged or cut short")


def test_what_the_schema_before_held(tmp_path: Path) -> None:
    """Numbers that are known: the file was written by the version before."""
    profile = mcr.Profile.load(HERE / "profile_schema_1.nc")
    assert profile.headline == "Profile of tiny, 3 prompts of up to 26 tokens, 10 layers x 4 heads"
    assert profile["n_tokens"].values.tolist() == [26, 23, 9]
    assert profile.phases(confidence=None).compress == (2, 10)
    assert profile.data.attrs["revision"] is None


LIGHT = """
import sys
import mcr_lens as mcr
profile = mcr.load(sys.argv[1])
print(profile, *profile.caveats(), *mcr.results.findings(profile), profile._repr_html_()[:10])
heavy = {"torch", "transformer_lens", "transformers", "plotly"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_profile_opens_and_shows_itself_without_torch() -> None:
    command = [sys.executable, "-c", LIGHT, str(HERE / "profile_schema_1.nc")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Profile of tiny" in done.stdout


# Writing


def test_a_second_save_replaces_the_first(data: xr.Dataset, tmp_path: Path) -> None:
    path = save_dataset(data, tmp_path / "run.nc")
    loaded = load_dataset(path)
    save_dataset(loaded.assign(double=loaded.double * 2), path)
    assert float(load_dataset(path).double[1, 0]) == 4.0
    assert float(loaded.double[1, 0]) == 2.0
    assert os.listdir(tmp_path) == ["run.nc"]


def test_files_are_as_readable_as_others(data: xr.Dataset, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.touch()
    path = save_dataset(data, tmp_path / "run.nc")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_what_was_there_stays_when_writing_fails(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")

    def write(name: str, is_folder: bool) -> None:
        with atomic_write(tmp_path / name, is_folder=is_folder) as partial:
            if is_folder:
                partial.mkdir()
            (partial / "a" if is_folder else partial).write_text("half")
            raise error

    for name in ("table.csv", "folder"):
        with pytest.raises(mcr.InputError if isinstance(error, OSError) else KeyboardInterrupt):
            write(name, is_folder=name == "folder")
    assert sorted(os.listdir(tmp_path)) == ["folder", "table.csv"]
    assert (tmp_path / "table.csv").read_text() == (tmp_path / "folder" / "a").read_text() == "old"


@pytest.mark.parametrize("step", ["mkdir", "replace"])
def test_a_disk_that_cannot_be_written(
    step: str, data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_dataset(data, tmp_path / "run.nc")
    old = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path if step == "mkdir" else os, step, fail)
    with pytest.raises(mcr.InputError, match=f"run.nc: cannot be written .{os.strerror(errno.ENOSPC)}"):
        save_dataset(data, path)
    assert os.listdir(tmp_path) == ["run.nc"] and path.read_bytes() == old


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_write(tmp_path / "lens", is_folder=True) as partial:
            partial.mkdir()
            (partial / text).touch()
    assert os.listdir(tmp_path) == ["lens"] and os.listdir(tmp_path / "lens") == ["second"]


def test_places_that_are_no_files(data: xr.Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "file" / "run.nc"):
        with pytest.raises(mcr.InputError, match="cannot be written"):
            save_dataset(data, path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


# What cannot be read


def refused(path: Path, match: str) -> str:
    with pytest.raises(mcr.InputError, match=match) as raised:
        mcr.load(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    return str(raised.value)


def test_missing_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.nc", "the file does not exist")
    refused(tmp_path, "a folder")


@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files(part: float, data: xr.Dataset, tmp_path: Path) -> None:
    path = save_dataset(data, tmp_path / "run.nc")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(path, "damaged or cut short")


def test_foreign_files_are_not_called_damaged(data: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    path.touch()
    refused(path, "the file is empty")
    for content in (b"not netCDF", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        refused(path, "not a result of mcr_lens")
    path.write_bytes(b"CDF\x01" + bytes(100))
    refused(path, "netCDF 3")
    xr.Dataset({"temperature": ("time", [1.0])}).to_netcdf(path, engine="h5netcdf")
    refused(path, "not a result of mcr_lens; xarray.open_dataset")


@pytest.mark.parametrize("text", ["no JSON", "[]", "3", "{}", "null"])
def test_attributes_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    xr.Dataset(attrs={"mcr_lens": text}).to_netcdf(path, engine="h5netcdf")
    refused(path, "damaged or cut short")


@pytest.mark.parametrize("schema", [3, 99, "2", None])
def test_a_newer_schema(
    schema: Any, data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "SCHEMA", schema)
    path = save_dataset(data, tmp_path / "run.nc")
    monkeypatch.undo()
    refused(path, "upgrade mcr-lens")


def test_a_locked_file_says_so(data: xr.Dataset, tmp_path: Path) -> None:
    path = save_dataset(data, tmp_path / "run.nc")
    reader = f"import mcr_lens as mcr; mcr.results.load_dataset({str(path)!r})"
    with h5py.File(path, "a"):
        done = subprocess.run([sys.executable, "-c", reader], capture_output=True, text=True)
    assert "InputError" in done.stderr.splitlines()[-1]
    assert "locked" in done.stderr and "HDF5_USE_FILE_LOCKING=FALSE" in done.stderr
    assert "damaged" not in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "I/O")]
)
def test_an_unreadable_file_is_not_called_damaged(
    error: OSError, data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_dataset(data, tmp_path / "run.nc")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "open", fail)
    assert "damaged" not in refused(path, f"cannot be read .{error.strerror}")


def test_one_changed_byte_is_never_silent(data: xr.Dataset, tmp_path: Path) -> None:
    """An error in numbers, a warning elsewhere; what is the same where it says neither."""
    path = save_dataset(data, tmp_path / "run.nc")
    content, silent = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=120):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with warnings.catch_warnings(record=True) as caught, contextlib.suppress(mcr.InputError):
            warnings.simplefilter("always")
            loaded = load_dataset(path)
            if not caught:
                silent += 1
                xr.testing.assert_equal(loaded.drop_vars("nothing"), data.drop_vars("nothing"))
                assert loaded.attrs == data.attrs
    assert silent < 120


@pytest.mark.parametrize(
    ("change", "warns"),
    [
        (lambda file: file["arm"].__setitem__(0, "clamq"), r"since it was saved \(arm\)"),
        (lambda file: file.attrs.__setitem__("mcr_lens", '{"schema": 2}'), "attributes"),
        (lambda file: file.attrs.__delitem__("mcr_lens_crc32"), "edited or damaged"),
        (lambda file: file["double"].__setitem__((0, 0), 2.0), "double"),
    ],
)  # fmt: skip
def test_a_changed_text_is_a_warning(
    change: Callable[[h5py.File], None], warns: str, data: xr.Dataset, tmp_path: Path
) -> None:
    path = save_dataset(data, tmp_path / "run.nc")
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.warns(UserWarning, match=warns):
        load_dataset(path)


def test_a_flipped_byte_among_numbers_is_an_error(data: xr.Dataset, tmp_path: Path) -> None:
    path = save_dataset(data, tmp_path / "run.nc")
    with h5py.File(path) as file:
        place = file["double"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 5] ^= 4
    path.write_bytes(content)
    refused(path, "damaged or cut short")


# h5netcdf's own clean-up stumbles over a file that it could not open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*edited or damaged:UserWarning")
@given(data=st.data())
@settings(max_examples=60)
def test_no_damaged_file_raises_anything_else(data: st.DataObject, tmp_path: Path) -> None:
    whole = tmp_path / "whole.nc"
    if not whole.exists():
        dataset = xr.Dataset({"x": (("prompt", "depth"), np.ones((2, 3)))}, attrs={"a": 1})
        save_dataset(dataset, whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.nc"
    damaged.write_bytes(bytes(content))
    with contextlib.suppress(mcr.InputError):
        load_dataset(damaged)


# What a file may not do


def made(path: Path, fill: Callable[[h5py.File], Any]) -> Path:
    """An HDF5 file with our attribute, filled by a function."""
    with h5py.File(path, "w") as file:
        file.attrs["mcr_lens"] = json.dumps({"schema": 2})
        fill(file)
    return path


def test_a_link_to_another_file_is_not_followed(tmp_path: Path) -> None:
    """Its content would be shown as the result's."""
    other = made(tmp_path / "other.h5", lambda file: file.__setitem__("secret", np.arange(3.0)))
    link = h5py.ExternalLink(str(other), "/secret")
    refused(made(tmp_path / "run.nc", lambda file: file.__setitem__("norm_ratio", link)), "stand elsewhere")
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "secret", (3,))
    refused(made(tmp_path / "v.nc", lambda file: file.create_virtual_dataset("x", layout)), "another file")
    (tmp_path / "secret").write_bytes(b"secret!!" * 4)
    raw = [(str(tmp_path / "secret"), 0, 32)]
    refused(
        made(tmp_path / "e.nc", lambda file: file.create_dataset("x", (4,), "f8", external=raw)),
        "another file",
    )


@pytest.mark.parametrize(
    "layout",
    [
        {"shape": (2**20, 2**20), "chunks": (1024, 1024), "dtype": "f8"},
        {"shape": (1,), "maxshape": (None,), "chunks": (2**28,), "dtype": "f8"},
        {"shape": (2**40,), "dtype": h5py.string_dtype()},
    ],
    ids=["terabytes that were never written", "a chunk larger than memory", "texts without end"],
)
def test_more_than_memory_holds_is_refused(
    layout: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "host_memory", lambda: 10**9)
    path = made(tmp_path / "run.nc", lambda file: file.create_dataset("x", **layout))
    refused(path, "of memory, 1 GB are free")


def test_a_thousand_texts_that_are_one_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every element points to the same long text: it would be read a thousand times."""
    places: list[int] = []

    def fill(file: h5py.File) -> None:
        texts = file.create_dataset("extra", shape=(1000,), dtype=h5py.string_dtype())
        texts[0] = "x" * 100_000
        file.flush()
        places.append(texts.id.get_offset())

    path = made(tmp_path / "run.nc", fill)
    content = bytearray(path.read_bytes())
    content[places[0] : places[0] + 16_000] = bytes(content[places[0] : places[0] + 16]) * 1000
    path.write_bytes(bytes(content))
    monkeypatch.setattr(io, "host_memory", lambda: 50_000_000)
    refused(path, "100 MB of memory, 50 MB are free")
