"""The training script of the bundled model: windows, checkpoints, and runs that go on where they stopped."""

import json
import random
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import mcr_lens as mcr
from mcr_lens.tiny import dequantise, weights_folder
from train_tiny.bundle import thin
from train_tiny.checkpoints import is_grid_step, quantise
from train_tiny.corpus import Corpus, Source, problem_texts
from train_tiny.decoder import Decoder, Shape
from train_tiny.synthetic import GENERATORS, synthetic_document
from train_tiny.tokenizer import load_tokenizer, train_tokenizer
from train_tiny.train import main

SMALL = ["--width", "16", "--layers", "2", "--heads", "2", "--hidden", "16", "--tokens-per-batch", "256"]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in GSM8K's form: more problems than are held out."""
    folder = tmp_path_factory.mktemp("problems")
    rng = random.Random(0)
    rows = []
    for _ in range(420):
        question, _, answer = synthetic_document(rng).partition(" ")
        rows.append({"question": question or "?", "answer": f"{answer} <<1+1=2>>\n#### 2"})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def train(problems: Path, out: Path, steps: int, *more: str) -> dict[str, torch.Tensor]:
    import typer

    command = typer.Typer()
    command.command()(main)
    options = ["--problems", str(problems), "--out", str(out), "--steps", str(steps), "--no-library"]
    result = CliRunner().invoke(command, [*options, "--evaluate-every", "2", *SMALL, *more])
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "norm ratio" in result.output
    assert "sink rate" in result.output
    return load_file(out / "model.safetensors")


def test_a_run_is_reproduced_bit_for_bit(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "compile_blocks", lambda self: None)
    first, again = (train(problems, tmp_path / name, 2) for name in ("first", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "compile_blocks", lambda self: None)
    whole = train(problems, tmp_path / "whole", 4)
    train(problems, tmp_path / "parts", 2)
    parts = train(problems, tmp_path / "parts", 4, "--resume")
    other = train(problems, tmp_path / "other", 4, "--seed", "1")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(whole[name], other[name]) for name in whole)
    record = json.loads((tmp_path / "parts" / "training.json").read_text())
    assert [row["step"] for row in record["curves"]] == [2, 4]
    model = mcr.load_model(tmp_path / "whole")
    prompts = mcr.Prompts.from_texts(["So it goes."], model)
    assert prompts.first_tokens == (0,)
    assert mcr.profile(model, prompts, progress=False).data.sizes["depth"] == 3


def test_calculator_marks_are_removed(problems: Path) -> None:
    texts = problem_texts(str(problems))
    assert len(texts) == 420
    assert not any("<<" in text for text in texts)


def test_every_window_begins_with_one_bos() -> None:
    rng = random.Random(3)
    texts = [synthetic_document(rng) for _ in range(60)]
    tokenizer = train_tokenizer(texts, vocabulary=300)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    sources = [Source("whole", 0.5, ids[:30], whole=True), Source("cut", 0.3, [[*chain(*ids[30:])]])]
    corpus = Corpus(sources, tokenizer, synthetic_share=0.2, tokens_per_batch=1024, seed=0)
    pool = corpus.pool(2)
    assert pool == corpus.pool(2)
    assert pool != corpus.pool(3)
    windows = [window for batch in pool for window in batch]
    assert all(window[0] == corpus.bos and corpus.bos not in window[1:] for window in windows)
    assert max(map(len, windows)) <= Corpus.LENGTHS[-1] + 1


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_made_up_documents_are_functions_of_their_generator(name: str) -> None:
    _, make = GENERATORS[name]
    assert make(random.Random(5)) == make(random.Random(5))
    assert len({make(random.Random(seed)) for seed in range(20)}) > 10


def test_quantised_weights_are_near() -> None:
    state = {
        "matrix": torch.randn(5, 40) * torch.tensor([[1e-3], [1.0], [50.0], [0.0], [1.0]]),
        "gain": torch.ones(3),
    }
    back = dequantise(quantise(state))
    assert torch.equal(back["gain"], state["gain"])
    step = state["matrix"].abs().amax(1, keepdim=True) / 127
    assert ((back["matrix"] - state["matrix"]).abs() <= step * 0.6 + 1e-7).all()


def test_checkpoints_are_log_spaced() -> None:
    steps = [step for step in range(3000) if is_grid_step(step)]
    ratios = [b / a for a, b in pairwise(steps[1:])]
    assert steps[0] == 0
    assert all(1.3 < ratio < 1.5 for ratio in ratios)
    assert thin(steps, last=2999, keep=5)[0] == 0
    assert len(thin(steps, last=2999, keep=5)) == 5


def test_the_decoder_is_the_hugging_face_model(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = Shape(vocabulary=64, width=32, layers=2, heads=4, hidden=48, window=64)
    torch.manual_seed(0)
    decoder = Decoder(shape)
    settings: dict[str, Any] = shape.to_config(0, 1)
    config = AutoConfig.for_model(**settings, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config).float()
    model.load_state_dict(decoder.state_dict())
    tokens = torch.randint(2, 64, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(decoder(tokens), model(tokens).logits, rtol=1e-4, atol=1e-5)


def test_the_bundled_tokenizer_reads_back() -> None:
    tokenizer = load_tokenizer(weights_folder())
    text = "Nia has 12 stamps."
    assert tokenizer.decode(tokenizer.encode(text).ids[1:]) == text


def test_problems_come_from_a_datasets_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, str, str]] = []

    def load(name: str, config: str, *, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_list([{"question": "2 and 2?", "answer": "<<2+2=4>>4"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert problem_texts("openai/gsm8k") == ["2 and 2?\n4"]
    assert problem_texts("openai/gsm8k:socratic", "test") == ["2 and 2?\n4"]
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "socratic", "test")]
