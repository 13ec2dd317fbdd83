"""Files of prompts that cannot be used: one line each, with the place and the way out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import mcr_lens as mcr
from mcr_lens.prompts import load_labelled, read_texts


def refused(call: Any, *parts: str) -> None:
    with pytest.raises(mcr.InputError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv"])
def test_text_with_nul_is_told_apart_from_text(kind: str, tmp_path: Path) -> None:
    """UTF-16 without a mark, and most binary files that happen to be UTF-8."""
    path = tmp_path / f"p.{kind}"
    path.write_bytes("one two\n".encode("utf-16-le"))
    refused(lambda: read_texts(path), str(path), "NUL", "convert")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_utf_16_is_refused_by_its_first_bytes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"p.{kind}"
    path.write_bytes("one two\n".encode("utf-16"))
    refused(lambda: read_texts(path), str(path))


def test_a_pipe_or_a_device_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    os.mkfifo(path)
    refused(lambda: read_texts(path), "no such file")
    refused(lambda: mcr.results.load_dataset(path), "no file")


@pytest.mark.parametrize("line", [1, 2, 7])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_of_invalid_json_is_named_by_both_readers(
    line: int, end: str, llama: Any, tmp_path: Path
) -> None:
    rows = ['{"text": "w1 w2", "label": 1}'] * 9
    rows[line - 1] = '{"text": "w1'
    path = tmp_path / "p.jsonl"
    path.write_bytes(end.join(rows).encode())
    refused(lambda: read_texts(path, "text"), "p.jsonl", f"line {line}:")
    refused(lambda: load_labelled(path, llama), "p.jsonl", f"line {line}:")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", "text,label\nw1 w2,1,2\nw1 w2,1,2\n", ["line 2", "saw 3"]),
        ("a.csv", "text,label\nw1 w2\nw1 w2,1\n", ["row 1 lacks a text, or a label"]),
        ("a.csv", "text,text,label\nw1,w2,1\n", ["'text'", "twice"]),
        ("a.tsv", "text\tlabel\nw1 w2\t1\t2\n", ["line 2", "saw 3"]),
        ("a.json", '{"text": "w1 w2", "label": 1}', ["holds a dict", "list"]),
        ("a.json", "3", ["holds a int"]),
        ("a.json", '[{"text": "w1", "text": "w2"}]', ["'text' stands there twice"]),
        ("a.jsonl", '{"text": "w1", "label": 1, "text": "w2"}\n', ["line 1", "'text' stands there twice"]),
        ("a.jsonl", '"w1 w2"\n', ["no field 'label'", "text"]),
        ("a.jsonl", '{"text": "w1 w2", "label": 1}\n3\n', ["row 2 is a int"]),
        ("a.jsonl", "null\n", ["row 1 is a NoneType"]),
    ],
)
def test_labelled_rows_are_never_shifted_or_lost(
    name: str, content: str, parts: list[str], llama: Any, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    refused(lambda: load_labelled(tmp_path / name, llama), name, *parts)


def test_what_is_no_list_of_texts(llama: Any) -> None:
    for texts, parts in [
        (None, ["NoneType", "list of strings"]),
        (3, ["int", "list of strings"]),
        ("w1 w2", ["str", "[text]"]),
        (["w1", 3], ["text 1", "int", "from_tokens"]),
        ([b"w1"], ["text 0", "bytes"]),
    ]:
        refused(lambda texts=texts: mcr.Prompts.from_texts(texts, llama), *parts)


@pytest.mark.parametrize("value", ["3", 1.5, True, 0, -1])
def test_numbers_that_are_none(value: Any, llama: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nw1 w2,1\n")
    texts = ["w1 w2 w3"]
    refused(lambda: mcr.load_prompts(texts, llama, n=value), f"n = {value!r}", "whole number")
    refused(lambda: load_labelled(path, llama, n=value), f"n = {value!r}", "whole number")
    refused(lambda: mcr.Prompts.from_texts(texts, llama, max_tokens=value), "max_tokens = ", "from 2")


def test_every_text_too_short_is_told_and_a_few_are_counted(llama: Any) -> None:
    """A single token is left with the BOS and out without it."""
    refused(lambda: mcr.load_prompts(["", " "], llama), "no text", "2 tokens")
    refused(lambda: mcr.load_prompts(["w1", "w2"], llama, prepend_bos=False), "no text", "2 tokens")
    refused(lambda: mcr.load_prompts([], llama), "no text")
    assert mcr.load_prompts(["w1", ""], llama).dropped == 1
    assert mcr.load_prompts(["w1", "w1 w2"], llama, prepend_bos=False).dropped == 1


def test_a_data_set_without_a_name(llama: Any) -> None:
    """It would otherwise be the folder one stands in."""
    refused(lambda: mcr.load_prompts("hf:", llama), "hf:NAME", "hf:FOLDER")
