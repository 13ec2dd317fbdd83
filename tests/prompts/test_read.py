"""Files, lists and data sets to texts; every unusable input is one line that names the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mcr_lens as mcr
from mcr_lens.prompts import read_texts
from mcr_lens.prompts.files import read_table

TEXTS = ["w1 w2 w3", "zażółć gęślą jaźń ∑ 🙂", 'comma, "quoted", 3.5']


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def refused(source: Any, *parts: str, **options: Any) -> None:
    """Reading raises InputError in one line that holds every part."""
    with pytest.raises(mcr.InputError) as raised:
        read_texts(source, **options)
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def as_jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("extra", [{}, {"answer": "1"}])
def test_every_kind_of_table_gives_the_same_texts(kind: str, extra: dict, tmp_path: Path) -> None:
    rows = [{"question": text, **extra} for text in TEXTS]
    path = tmp_path / f"prompts.{kind}"
    frame = pd.DataFrame(rows)
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        path.write_text(as_jsonl(rows) if kind == "jsonl" else json.dumps(rows))
    assert read_texts(path, "question") == TEXTS
    assert read_texts(str(path), "question") == TEXTS
    if extra:
        refused(path, "choose a field", "question", "answer")
    else:
        assert read_texts(path) == TEXTS  # the only column needs no name
    refused(path, "'wrong'", "question", str(path), field="wrong")


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_plain_strings(kind: str, write: Callable[..., Path]) -> None:
    content = as_jsonl(TEXTS) if kind == "jsonl" else json.dumps(TEXTS)
    assert read_texts(write(f"p.{kind}", content)) == TEXTS


def test_text_files_by_line_or_by_paragraph(write: Callable[..., Path]) -> None:
    assert read_texts(write("lines.txt", "one\n  two  \nthree\n")) == ["one", "two", "three"]
    assert read_texts(write("end.txt", "one\ntwo\n\n\n")) == ["one", "two"]
    assert read_texts(write("paragraphs.txt", "a\nb\n\nc\n\n\n\nd\n")) == ["a\nb", "c", "d"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "txt"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_windows_files(kind: str, mark: bytes, end: str, write: Callable[..., Path]) -> None:
    content = {
        "jsonl": '{"q": "één"}\n{"q": "twee"}\n',
        "json": '[\n{"q": "één"},\n{"q": "twee"}]\n',
        "csv": "q\néén\ntwee\n",
        "txt": "één\ntwee\n",
    }[kind]
    path = write(f"p.{kind}", mark + content.replace("\n", end).encode())
    assert read_texts(path) == ["één", "twee"]
    if kind != "txt":
        assert read_texts(path, "q") == ["één", "twee"]


def test_windows_paragraphs(write: Callable[..., Path]) -> None:
    assert read_texts(write("p.txt", "a\r\nb\r\n\r\nc\r\n")) == ["a\nb", "c"]


def test_texts_of_a_csv_stay_as_written(write: Callable[..., Path]) -> None:
    """Numbers, NA and None are texts like any other."""
    path = write("p.csv", 'q,a\n007,x\nNA,x\nNone,x\n"",x\n1e5,x\n')
    assert read_texts(path, "q") == ["007", "NA", "None", "", "1e5"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("question\nHello, how are you\n", ["line 2"]),
        ("q,a\n1,2\n1,2,3\n", ["line 3"]),
        ("q,q\n1,2\n", ["'q'", "twice"]),
    ],
)
def test_a_ragged_csv_is_refused_not_shifted(
    content: str, parts: list[str], write: Callable[..., Path]
) -> None:
    refused(write("p.csv", content), "p.csv", *parts)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_csv_is_recognised(delimiter: str, write: Callable[..., Path]) -> None:
    rows = [["q", "a"], ["w1, w2", "1"], ["w3; w4", "2"]]
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    assert read_texts(write("p.csv", text), "q") == ["w1, w2", "w3; w4"]
    bare = write("p.csv", f"q{delimiter}a\nw1 w2{delimiter}1\n")
    assert read_texts(bare, "q") == ["w1 w2"]


def test_signs_in_the_texts_are_not_taken_for_the_delimiter(write: Callable[..., Path]) -> None:
    path = write("p.csv", "so good, yes;1\nbad;0\nwell, well, well;1\n")
    assert read_table(path, header=False)[1].tolist() == ["1", "0", "1"]
    path = write("p.csv", "good; or bad,1\nbad,0\nbad; worse; worst,0\n")
    assert read_table(path, header=False)[1].tolist() == ["1", "0", "0"]


def test_one_column_with_other_signs_stays_one_column(write: Callable[..., Path]) -> None:
    assert read_texts(write("p.csv", "q\nfirst; second | third\n")) == ["first; second | third"]


def test_tab_separated_texts_and_endings_in_capitals(write: Callable[..., Path]) -> None:
    assert read_texts(write("p.tsv", 'q\ta\n"w1\t1\nw2\t2\n'), "q") == ['"w1', "w2"]
    assert read_texts(write("p.JSONL", '{"q": "w1"}\n')) == ["w1"]
    assert read_texts(write("p.TXT", "w1\n")) == ["w1"]


def test_a_missing_cell_of_a_csv_is_an_empty_text(write: Callable[..., Path]) -> None:
    """So it is dropped and counted with the other empty texts."""
    assert read_texts(write("p.csv", "a,q\n1,2\n1\n"), "q") == ["2", ""]


def test_missing_folders_and_unknown_kinds(tmp_path: Path) -> None:
    refused(tmp_path / "no.jsonl", "no such file")
    (tmp_path / "folder.txt").mkdir()
    refused(tmp_path / "folder.txt", "no such file")
    refused(tmp_path / "p.docx", "unknown file type", ".jsonl", "hf:NAME")
    refused("Natalia sold clips", "unknown file type")
    refused("x" * 300 + ".txt", "no such file")
    refused("~nobody-of-this-name/p.txt", "no such file")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "txt"])
def test_empty_and_binary_files(kind: str, write: Callable[..., Path], llama: Any) -> None:
    for content in (b"", b"\n \n\n", b"\x00\xff\xfe\x80" * 50):
        path = write(f"p.{kind}", content)
        with pytest.raises(mcr.InputError) as raised:
            mcr.load_prompts(path, llama)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_cut_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pd.DataFrame({"q": TEXTS}).to_parquet(path)
    content = path.read_bytes()
    for length in (4, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:length])
        refused(path, "not a readable .parquet file")


def test_invalid_json_names_the_line(write: Callable[..., Path]) -> None:
    refused(write("p.jsonl", '"a"\n\n{"q": \n"b"\n'), "line 3")
    refused(write("p.json", "[1, 2"), "invalid JSON", ".jsonl")
    refused(write("p.json", as_jsonl(["a", "b"])), "invalid JSON", ".jsonl")
    refused(write("p.json", '{"q": "a"}'), "dict", "list")
    refused(write("p.jsonl", "[" * 200_000), "line 1")
    refused(write("p.jsonl", "9" * 10_000), "line 1")


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([{"q": "a"}, {"p": "b"}], ["choose a field", "q, p"]),
        ([{"q": "a"}, {"q": 3}], ["row 2", "int"]),
        ([{"q": None}], ["row 1", "missing"]),
        ([{"q": ["a"]}], ["row 1", "list"]),
        ([{"q": "a"}, 3], ["row 2", "int"]),
        ([{"q": "a"}, "b"], ["row 2", "str", "alone"]),
        (["a", {"q": "b"}], ["row 1", "str", "alone"]),
        ([[1, 2]], ["JSON list", "name it .json"]),
        ([[1, 2], [3]], ["row 1", "list"]),
        ([{}], ["choose a field"]),
    ],
)
def test_rows_that_hold_no_text(rows: list[Any], parts: list[str], write: Callable[..., Path]) -> None:
    refused(write("p.jsonl", as_jsonl(rows)), "p.jsonl", *parts)


def test_a_huge_line(write: Callable[..., Path]) -> None:
    text = "w1 " * 700_000
    assert read_texts(write("p.jsonl", as_jsonl([text])))[0] == text
    assert read_texts(write("p.csv", f"q\n{text}\n"))[0] == text


def test_datasets_folders(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_dict({"question": TEXTS, "answer": ["1", "2", "3"]})
    split.save_to_disk(str(tmp_path / "one"))
    assert read_texts(f"hf:{tmp_path / 'one'}", "question") == TEXTS
    refused(f"hf:{tmp_path / 'one'}", "choose a field", "question")
    both = datasets.DatasetDict({"train": split.select([0]), "test": split.select([1, 2])})
    both.save_to_disk(str(tmp_path / "both"))
    name = f"hf:{tmp_path / 'both'}"
    assert read_texts(name, "question", split="test") == TEXTS[1:]
    refused(name, "choose a split", "train, test", field="question")
    assert read_texts(name, "question", split="train") == TEXTS[:1]
    refused(name, "'dev'", "train, test", field="question", split="dev")
    refused(f"hf:{tmp_path / 'none'}", "could not be loaded", "local folder")


def test_a_folder_of_data_files(tmp_path: Path) -> None:
    """The form in which data sets lie on the hub."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(as_jsonl([{"question": text} for text in TEXTS]))
    assert read_texts(f"hf:{tmp_path / 'data'}", "question", split="train") == TEXTS


def test_load_prompts_takes_the_first_or_a_sample(write: Callable[..., Path], llama: Any) -> None:
    texts = [f"w{number} w{number + 1}" for number in range(20)]
    path = write("p.txt", "\n".join(texts))
    everything = mcr.load_prompts(path, llama)
    assert len(everything) == 20
    assert everything.tokens[0] == (1, 3, 4)
    assert everything.source == str(path)
    assert mcr.load_prompts(path, llama, n=3).tokens == everything.tokens[:3]
    assert mcr.load_prompts(path, llama, n=50).tokens == everything.tokens
    sample = mcr.load_prompts(path, llama, n=5, seed=1)
    assert sample.tokens == mcr.load_prompts(path, llama, n=5, seed=1).tokens
    assert sample.tokens != mcr.load_prompts(path, llama, n=5, seed=2).tokens
    assert sample.tokens != everything.tokens[:5]
    assert set(sample.tokens) <= set(everything.tokens)
    assert len(set(sample.tokens)) == 5


def test_blank_texts_are_not_among_the_n_and_are_counted(llama: Any) -> None:
    prompts = mcr.load_prompts(["", "w1", " ", "w2", "w3", ""], llama, n=2)
    assert prompts.tokens == ((1, 4), (1, 5))
    assert prompts.dropped == 2
    assert mcr.load_prompts(["", "w1"], llama).dropped == 1


def test_load_prompts_of_a_list(llama: Any) -> None:
    texts = ["w1 w2", "w3"]
    prompts = mcr.load_prompts(texts, llama, n=1, seed=0)
    assert len(prompts) == 1
    assert texts == ["w1 w2", "w3"]  # the user's own list is not shuffled
    with pytest.raises(mcr.InputError, match="strings only"):
        mcr.load_prompts([1, 2], llama)  # type: ignore[list-item]
    with pytest.raises(mcr.InputError, match="n = 0"):
        mcr.load_prompts(texts, llama, n=0)
    with pytest.raises(mcr.InputError, match="list of strings"):
        mcr.load_prompts([], llama)
    with pytest.raises(mcr.InputError, match="list of strings"):
        mcr.load_prompts(["", ""], llama, prepend_bos=False)


def test_half_a_surrogate_pair_is_no_text(write: Callable[..., Path], llama: Any) -> None:
    with pytest.raises(mcr.InputError, match=r"text 1 of .*p\.jsonl.*surrogate"):
        mcr.load_prompts(write("p.jsonl", '"w1 w2"\n"w1 \\ud800"\n'), llama)


# Fuzzing. Pieces of the formats themselves reach further than random bytes do.
JSON_PIECES = rb"""{"q": "a"}|[|]|{|}|"|,|:|null|NaN|1e999|\ud800|-|\|'|#"""
OTHER_PIECES = b"\n|\r\n|\r|\t|q,a|PAR1|\xef\xbb\xbf|\xff|\x00"
PIECES = st.sampled_from(JSON_PIECES.split(b"|") + OTHER_PIECES.split(b"|"))
CONTENT = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(PIECES, st.binary(max_size=4)), max_size=30).map(b"".join),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
)
ROWS = st.lists(
    st.one_of(
        st.dictionaries(
            st.text(max_size=3), st.one_of(st.text(max_size=5), st.none(), st.integers()), max_size=3
        ),
        st.text(max_size=5),
        st.none(),
        st.lists(st.integers(), max_size=2),
    ),
    max_size=5,
)


def read_or_refuse(path: Path, field: str | None) -> None:
    message = ""
    try:
        texts = read_texts(path, field)
    except mcr.InputError as error:
        texts, message = [], str(error)
    assert "\n" not in message
    assert all(isinstance(text, str) for text in texts)


def fuzz_file(kind: str, content: bytes, field: str | None, tmp_path: Path) -> None:
    path = tmp_path / f"fuzz.{kind}"
    path.write_bytes(content)
    read_or_refuse(path, field)


KINDS = pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "txt"])


@KINDS
@given(content=CONTENT, field=st.sampled_from([None, "q", ""]))
@example(content=b"PAR1" + b"\x00" * 40 + b"PAR1", field=None)
@example(content=b'"a\n', field=None)
@example(content=b"q\n" + b'"' * 9, field="q")
@settings(max_examples=60)
def test_no_file_raises_anything_else(kind: str, content: bytes, field: str | None, tmp_path: Path) -> None:
    fuzz_file(kind, content, field, tmp_path)


@given(rows=ROWS, field=st.one_of(st.none(), st.text(max_size=3)))
@settings(max_examples=100)
def test_no_json_raises_anything_else(rows: list[Any], field: str | None, tmp_path: Path) -> None:
    fuzz_file("jsonl", as_jsonl(rows).encode(), field, tmp_path)
    fuzz_file("json", json.dumps(rows).encode(), field, tmp_path)


@given(data=st.data())
@settings(max_examples=60)
def test_no_damaged_parquet_raises_anything_else(data: st.DataObject, tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    if not whole.exists():
        pd.DataFrame({"q": TEXTS}).to_parquet(whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    fuzz_file("parquet", bytes(content), "q", tmp_path)


@pytest.mark.slow
@KINDS
@given(content=CONTENT, field=st.sampled_from([None, "q", ""]))
@settings(max_examples=2000)
def test_no_file_raises_anything_else_at_length(
    kind: str, content: bytes, field: str | None, tmp_path: Path
) -> None:
    fuzz_file(kind, content, field, tmp_path)


def test_row_8_n_usable_prompts_whatever_stands_before_them(llama: Any, write: Callable[..., Path]) -> None:
    rows = ["", "w9", " ", "w1 w2", "\n", "w3 w4", "w5 w6"]
    path = write("p.jsonl", as_jsonl([{"text": text} for text in rows]))
    # Without a BOS a heading of one token is no prompt.
    prompts = mcr.load_prompts(path, llama, n=2, prepend_bos=False)
    assert prompts.tokens == ((4, 5), (6, 7))
    assert prompts.dropped == 4
    assert "4 dropped" in repr(prompts)
    everything = mcr.load_prompts(path, llama, prepend_bos=False)
    assert everything.tokens == ((4, 5), (6, 7), (8, 9))
    assert everything.dropped == 4


def test_a_data_set_is_read_no_further_than_needed(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcr_lens.prompts import files

    rows = ["", "w1 w2", "w3 w4", *["w5 w6"] * 1000]
    (tmp_path / "train.jsonl").write_text(as_jsonl([{"a": {"b": text}} for text in rows]))
    n_read = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal n_read
        for row in load_split(*arguments, **options):
            n_read += 1
            yield row

    load_split = files.load_split
    monkeypatch.setattr(files, "load_split", counted)
    prompts = mcr.load_prompts(f"hf:{tmp_path}", llama, field="a.b", n=2)
    assert prompts.tokens == ((1, 4, 5), (1, 6, 7))
    assert prompts.dropped == 1
    assert n_read == 3
    with pytest.raises(mcr.InputError, match=r"no field 'a.c'.*there are b"):
        mcr.load_prompts(f"hf:{tmp_path}", llama, field="a.c", n=2)


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_a_field_inside_a_column(kind: str, llama: Any, tmp_path: Path) -> None:
    path = tmp_path / f"p{kind}"
    rows = [{"a": {"b": "w1 w2"}, "turns": ["w3 w4", "w5"]}, {"a": {"b": "w3 w4"}, "turns": ["w1 w2"]}]
    if kind == ".jsonl":
        path.write_text(as_jsonl(rows))
    else:
        pd.DataFrame(rows).to_parquet(path)
    assert mcr.load_prompts(path, llama, field="a.b").tokens == ((1, 4, 5), (1, 6, 7))
    assert mcr.load_prompts(path, llama, field="turns.0").tokens == ((1, 6, 7), (1, 4, 5))
    for field in ("a.c", "b.a", "turns.1"):
        with pytest.raises(mcr.InputError, match=f"no field '{field}'"):
            mcr.load_prompts(path, llama, field=field)
    with pytest.raises(mcr.InputError, match="did you mean 'turns'"):
        mcr.load_prompts(path, llama, field="turn")


def test_missing_texts_of_a_table_are_counted_from_1(tmp_path: Path, llama: Any) -> None:
    path = tmp_path / "p.parquet"
    pd.DataFrame({"text": ["w1 w2", None]}).to_parquet(path)
    with pytest.raises(mcr.InputError, match="row 2 is missing"):
        mcr.load_prompts(path, llama)
