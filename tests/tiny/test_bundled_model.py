"""The bundled model: its profile equals the oracle on both backends, and its folder is what it says."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS
from families import eager
from hugging_face_oracle import model_oracle

import mcr_lens as mcr
from mcr_lens.tiny import checkpoint_state, checkpoint_steps, weights_folder


@pytest.fixture(scope="module")
def reference() -> Any:
    return eager(weights_folder()).float()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_variable_equals_the_oracle(backend: str, reference: Any) -> None:
    model = mcr.load_model("tiny", backend=backend)  # type: ignore[arg-type]
    assert mcr.models.model_facts(model).failed_checks == {}
    texts = [*mcr.prompts.word_problems(5), "So:", " ".join(mcr.prompts.word_problems(6, seed=1))]
    prompts = mcr.Prompts.from_texts(texts, model, max_tokens=200)
    assert len(set(prompts.lengths)) > 4
    data = mcr.profile(model, prompts, batch_size=4, progress=False).data
    for prompt, tokens in enumerate(prompts.tokens):
        for name, values in model_oracle(reference, tokens).items():
            absolute = 1e-4 if "entropy" in name else 1e-6
            np.testing.assert_allclose(
                data[name].sel(prompt=prompt), values, rtol=1e-4, atol=absolute, err_msg=name
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_are_those_of_hugging_face(backend: str, reference: Any) -> None:
    model = mcr.load_model("tiny", backend=backend)  # type: ignore[arg-type]
    tokens = torch.tensor(mcr.Prompts.from_texts(mcr.prompts.word_problems(1), model).tokens)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), reference(tokens).logits, rtol=1e-4, atol=1e-4)


def test_the_bos_stands_first_exactly_once() -> None:
    model = mcr.load_model("tiny")
    text = mcr.prompts.word_problems(1)[0]
    (tokens,) = mcr.Prompts.from_texts([text], model).tokens
    assert tokens[0] == model.tokenizer.bos_token_id
    assert tokens.count(model.tokenizer.bos_token_id) == 1
    assert model.tokenizer(text)["input_ids"] == list(tokens)
    assert model.tokenizer.decode(tokens[1:]) == text


def test_digits_are_split() -> None:
    tokenizer = mcr.load_model("tiny").tokenizer
    assert len(tokenizer("7308", add_special_tokens=False)["input_ids"]) == 4


def test_the_folder_is_small_and_says_how_it_was_made() -> None:
    folder = weights_folder()
    assert (folder / "model.safetensors").stat().st_size <= 8 * 2**20
    record = json.loads((folder / "training.json").read_text())
    assert record["settings"]
    assert record["curves"][-1]["validation_loss"] < record["curves"][0]["validation_loss"]


def test_checkpoints_lead_to_the_model(reference: Any) -> None:
    steps = checkpoint_steps()
    assert len(steps) >= 12
    assert steps == sorted(set(steps))
    folder = weights_folder() / "checkpoints"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20e6
    first, last = checkpoint_state(steps[0]), checkpoint_state(steps[-1])
    for name, value in reference.state_dict().items():
        if name in last:
            error = (last[name] - value).norm() / value.norm()
            assert error < 0.02, name
    assert any((first[name] - last[name]).norm() > last[name].norm() / 2 for name in last)
