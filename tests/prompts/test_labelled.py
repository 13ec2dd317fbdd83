"""Texts with labels: read from every kind of table, and aligned whatever is dropped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.prompts.labelled import load_labelled, too_short

TEXTS = ["w1 w2", 'w3 "w4', "w5 w6 w7", "w8, w9"]
LABELS = ["a", "b", "b", "a"]


def tokens(*texts: str) -> tuple[tuple[int, ...], ...]:
    """Ids of the words of the tests' tokenizer, BOS first; 2 for what it does not know."""
    return tuple(
        (1, *(int(word[1:]) + 3 if word[1:].isdigit() else 2 for word in text.split())) for text in texts
    )


def write_tsv(path: Path) -> dict[str, Any]:
    path.write_text("\n".join(f"{text}\t{label}" for text, label in zip(TEXTS, LABELS, strict=True)))
    return {"text": 0, "label": 1}


def write_csv(path: Path) -> dict[str, Any]:
    pd.DataFrame({"text": TEXTS, "other": 1, "label": LABELS}).to_csv(path, index=False)
    return {}


def write_jsonl(path: Path) -> dict[str, Any]:
    rows = [{"said": text, "is": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return {"text": "said", "label": "is"}


def write_json(path: Path) -> dict[str, Any]:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text(json.dumps(rows))
    return {}


def write_parquet(path: Path) -> dict[str, Any]:
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_parquet(path)
    return {}


WRITERS = {
    "tsv": write_tsv,
    "csv": write_csv,
    "jsonl": write_jsonl,
    "json": write_json,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_the_same(llama: Any, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"data.{kind}"
    prompts, labels = load_labelled(file, llama, **WRITERS[kind](file))
    assert prompts.tokens == tokens(*TEXTS)
    assert labels == LABELS
    assert prompts.source == str(file)


def test_a_frame_and_a_dataset_keep_their_labels_as_they_are(llama: Any, tmp_path: Path) -> None:
    import datasets

    frame = pd.DataFrame({"text": TEXTS, "label": [0, 1, 1, 0]})
    saved = datasets.Dataset.from_pandas(frame)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": saved, "test": saved.select([2])}).save_to_disk(str(tmp_path / "two"))
    assert load_labelled(frame, llama).labels == [0, 1, 1, 0]
    assert load_labelled(saved, llama).labels == [0, 1, 1, 0]
    assert load_labelled(f"hf:{tmp_path / 'one'}", llama).prompts.tokens == tokens(*TEXTS)
    assert load_labelled(f"hf:{tmp_path / 'two'}", llama, split="test").labels == [1]
    with pytest.raises(InputError, match="choose one of train, test"):
        load_labelled(f"hf:{tmp_path / 'two'}", llama)


def test_a_json_label_that_looks_like_a_number_stays_a_text(llama: Any, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "12", "label": "01"}\n{"text": "w1", "label": 1}\n')
    assert load_labelled(file, llama).labels == ["01", 1]


def test_a_sample_keeps_text_and_label_together(llama: Any) -> None:
    frame = pd.DataFrame({"text": [f"w{n} w1" for n in range(50)], "label": range(50)})
    assert load_labelled(frame, llama, n=3).labels == [0, 1, 2]
    prompts, labels = load_labelled(frame, llama, n=20, seed=5)
    assert [prompt[1] - 3 for prompt in prompts.tokens] == labels
    assert len(set(labels)) == 20 and labels != sorted(labels)
    assert load_labelled(frame, llama, n=20, seed=5).labels == labels


@pytest.mark.parametrize("prepend_bos", [None, False])
def test_texts_that_are_dropped_take_their_labels_with_them(llama: Any, prepend_bos: bool | None) -> None:
    texts = ["w1 w2", "", "w3", "<bos>", "w4 w5", "<bos> w6", " "]
    frame = pd.DataFrame({"text": texts, "label": range(7)})
    prompts, labels = load_labelled(frame, llama, prepend_bos=prepend_bos)
    assert labels == ([0, 2, 4, 5] if prepend_bos is None else [0, 4, 5])
    assert prompts.dropped == 7 - len(labels)
    assert too_short(texts, llama, prompts) == [place for place in range(7) if place not in labels]


def test_groups_stay_with_their_texts(llama: Any, tmp_path: Path) -> None:
    texts = ["w1 w2", "", "w3", "<bos>", "w4 w5"]
    frame = pd.DataFrame({"text": texts, "label": range(5), "by": list("abcab")})
    labelled = load_labelled(frame, llama, group="by")
    prompts, labels = labelled
    assert labels == [0, 2, 4] and labelled.groups == ["a", "c", "b"] and len(prompts) == 3
    assert load_labelled(frame, llama).groups is None
    assert prompts.attributes() != load_labelled(frame, llama).prompts.attributes()
    many = pd.DataFrame({"text": [f"w{n} w1" for n in range(50)], "label": range(50), "by": range(50)})
    drawn = load_labelled(many, llama, group="by", n=20, seed=5)
    assert drawn.groups == drawn.labels == [prompt[1] - 3 for prompt in drawn.prompts.tokens]
    (tmp_path / "a.tsv").write_text("w1 w2\tyes\tAnn\nw3 w4\tno\tBen\n")
    assert load_labelled(tmp_path / "a.tsv", llama, text=0, label=1, group=2).groups == ["Ann", "Ben"]


def test_a_tokenizer_without_a_bos_of_its_own(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = mcr.load_model(family_folder("gpt_neox"))
    frame = pd.DataFrame({"text": ["w1", "w2 w3"], "label": "ab"[:1]})
    assert load_labelled(frame, model, prepend_bos=True, max_tokens=2).prompts.truncated == 1
    assert load_labelled(frame, model, prepend_bos=False).prompts.tokens == ((5, 6),)


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.xlsx", "", {}, "unknown file type"),
        ("a.csv", "text,label\nw1,\n", {"text": "words"}, "no field 'words'; there are text, label"),
        ("a.tsv", "w1\t1\n", {"text": 0, "label": 2}, "no field 2; there are 0, 1"),
        (
            "a.jsonl",
            '{"text": "w1", "label": 1}\n{"text": "w1"}',
            {},
            "row 2 lacks a text, or a label or group",
        ),
        ("a.jsonl", '{"text": 5, "label": 1}', {}, "row 1 lacks a text, or a label or group"),
        ("a.jsonl", '{"text": ', {}, "not a readable .jsonl file"),
        ("a.csv", "text,label\nw1,1\n", {"n": 0}, "n = 0"),
        ("a.csv", "text,label\nw1,1\n", {"group": "by"}, "no field 'by'"),
        (
            "a.jsonl",
            '{"text": "w1", "label": 1, "by": null}',
            {"group": "by"},
            "row 1 lacks a text, or a label or group",
        ),
        ("a.jsonl", '{"text": "w1", "label": [1]}', {}, "row 1 lacks .* that is one value"),
        ("a.csv", "text,label\n", {}, "no text of"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(
    llama: Any, tmp_path: Path, name: str, text: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as told:
        load_labelled(tmp_path / name, llama, **options)
    assert "\n" not in str(told.value)


def test_what_is_not_there_is_told(llama: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_labelled(tmp_path / "none.csv", llama)
    with pytest.raises(InputError, match="could not be loaded"):
        load_labelled(f"hf:{tmp_path / 'none'}", llama)
    with pytest.raises(InputError, match="list is no table"):
        load_labelled([("w1", 1)], llama)
