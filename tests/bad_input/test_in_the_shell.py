"""What ``mcr-lens profile`` says to bad input of every kind: one line, an exit code, and nothing is left."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import VOCABULARY
from shell import ENVIRONMENT, assert_refused, run
from transformers import BertConfig, T5Config

import mcr_lens as mcr

LONG = " ".join(f"w{i % 50}" for i in range(400))
ROW = '{"text": "w1 w2 w3", "answer": "w4"}'

# Name and content of a file of prompts, options, and what the line must say.
PROMPTS: dict[str, tuple[str, bytes | None, list[str], list[str]]] = {
    "missing": ("p.jsonl", None, [], ["no such file"]),
    "of an unknown kind": ("p.docx", b"x", [], ["unknown file type", ".jsonl", "hf:NAME"]),
    "empty": ("p.txt", b"", [], ["no text", "nothing to measure"]),
    "blank": ("p.txt", b"\n \r\n\n", [], ["no text"]),
    "an empty list": ("p.json", b"[]", [], ["no text"]),
    "binary": ("p.txt", bytes(range(256)), [], ["not UTF-8", "byte 128", "convert"]),
    "UTF-16": ("p.txt", "w1 w2".encode("utf-16-le"), [], ["NUL", "convert"]),
    "a false parquet": ("p.parquet", b"PAR1" * 9, [], ["not a readable .parquet"]),
    "without a field chosen": ("p.jsonl", ROW.encode(), [], ["choose a field", "text, answer"]),
    "of a wrong field": ("p.jsonl", ROW.encode(), ["--field", "q"], ["no field 'q'", "text, answer"]),
    "invalid on line 3": ("p.jsonl", b"\n".join([ROW.encode()] * 2 + [b'{"text']), [], ["line 3"]),
    "invalid with Windows ends": ("p.jsonl", b"\r\n".join([ROW.encode()] * 4 + [b"{"]), [], ["line 5"]),
    "no texts": ("p.jsonl", b"3\n4\n", [], ["row 1 is a int"]),
    "longer than the context": ("p.txt", LONG.encode(), [], ["401 tokens", "256", "--max-tokens 256"]),
    "too short to tokenise": ("p.txt", b"w1\n", ["--max-tokens", "1"], ["--max-tokens = 1", "from 2"]),
    "of no number": ("p.txt", b"w1 w2\n", ["--n", "0"], ["n = 0"]),
}


def everything(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts(case: str, llama_folder: Path, tmp_path: Path) -> None:
    name, content, options, parts = PROMPTS[case]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    before = everything(tmp_path)
    result = run("profile", llama_folder, path, "--out", tmp_path / "new" / "run.nc", *options)
    assert_refused(result, 2, *parts)
    assert everything(tmp_path) == before


def bert(folder: Path) -> None:
    BertConfig(architectures=["BertForMaskedLM"], num_hidden_layers=1).save_pretrained(folder)


def t5(folder: Path) -> None:
    T5Config(architectures=["T5ForConditionalGeneration"], num_layers=1).save_pretrained(folder)


def no_config(folder: Path) -> None:
    (folder / "weights.bin").touch()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def pickles(folder: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


MODELS: list[tuple[Callable[[Path], None], list[str]]] = [
    (bert, ["BertForMaskedLM is not a decoder", "ForCausalLM"]),
    (t5, ["T5ForConditionalGeneration is not a decoder", "ForCausalLM"]),
    (no_config, ["no config.json"]),
    (broken_config, ["could not be loaded"]),
    (pickles, ["pickled", "pytorch_model.bin", "model.safetensors"]),
]


@pytest.mark.parametrize(("make", "parts"), MODELS, ids=[make.__name__ for make, _ in MODELS])
def test_models(make: Callable[[Path], None], parts: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make(folder)
    path = tmp_path / "p.txt"
    path.write_text("w1 w2 w3\n")
    before = everything(tmp_path)
    assert_refused(run("profile", folder, path, "--out", tmp_path / "run.nc"), 2, str(folder), *parts)
    assert everything(tmp_path) == before


def test_a_long_prompt_is_cut_only_when_asked_and_counted(llama_folder: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "p.txt", tmp_path / "run.nc"
    path.write_text(f"{LONG}\nw1 w2 w3\n")
    result = run("profile", llama_folder, path, "--out", out, "--max-tokens", 32)
    assert result.exit_code == 0, result.output
    made = mcr.Profile.load(out).data
    assert made.n_tokens.values.tolist() == [32, 4]
    assert made.attrs["prompts"]["truncated"] == 1


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfw1 w2\r\nw3 w4\r\n", b"w1 w2\nw3 w4\n"])
def test_marks_and_line_ends_of_windows_change_nothing(
    content: bytes, llama_folder: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "p.txt", tmp_path / "run.nc"
    path.write_bytes(content)
    assert run("profile", llama_folder, path, "--out", out).exit_code == 0
    made = mcr.Profile.load(out).data.attrs["prompts"]
    assert made["digest"] == mcr.Prompts.from_tokens([[1, 4, 5], [1, 6, 7]]).digest


@pytest.mark.parametrize("command", ["profile", "lens"])
def test_the_prompts_are_not_replaced_by_the_result(command: str, llama_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("w1 w2 w3\n")
    result = run(command, llama_folder, path, "--out", path)
    assert_refused(result, 2, str(path), "no result", "choose another place")
    assert path.read_text() == "w1 w2 w3\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_cannot_be_written(
    number: int, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    path, out = tmp_path / "p.txt", tmp_path / "run.nc"
    path.write_text("w1 w2 w3\n")
    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    result = run("profile", llama_folder, path, "--out", out)
    assert_refused(result, 2, str(out), os.strerror(number), "choose another place")
    assert everything(tmp_path) == ["p.txt"]


WHILE_SAVING = """
import os, sys, time
from pathlib import Path
def slow(path, content):
    path.write_text("half")
    print("saving", flush=True)
    time.sleep(60)
Path.write_bytes = slow
from mcr_lens.cli import app
app()
"""


def test_ctrl_c_while_the_result_is_saved(llama_folder: Path, tmp_path: Path) -> None:
    """A real signal, when half of the file is on the disk: no file, no part of one, one line."""
    path, out = tmp_path / "p.txt", tmp_path / "run.nc"
    path.write_text("w1 w2 w3\n")
    process = subprocess.Popen(
        [sys.executable, "-c", WHILE_SAVING, "profile", str(llama_folder), str(path), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    assert len(everything(tmp_path)) == 2  # the half is there
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "mcr-lens: interrupted, nothing was saved\n")
    assert everything(tmp_path) == ["p.txt"]
