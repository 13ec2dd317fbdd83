"""Recorded activations: those of a plain run, in the order of the prompts, cut to their real tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.hooks import ActivationRecorder

NAMES = [
    "blocks.1.hook_resid_pre",
    "blocks.0.attn.hook_pattern",
    "blocks.2.attn.hook_k",
    "blocks.1.attn.hook_z",
]


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, load: Callable[..., Any]) -> Any:
    return load("llama", request.param)


def ragged() -> mcr.Prompts:
    rng = np.random.default_rng(5)
    return mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, n).tolist()] for n in (4, 11, 1, 7)])


@pytest.mark.parametrize("batch_size", ["auto", 1, 3])
def test_every_prompt_has_the_activations_of_a_run_of_its_own(model: Any, see: Any, batch_size: Any) -> None:
    prompts = ragged()
    recorded = mcr.record(model, prompts, NAMES, batch_size=batch_size)
    assert list(recorded) == NAMES
    assert recorded.lengths.tolist() == list(prompts.lengths)
    for prompt, tokens in enumerate(prompts.tokens):
        alone = see(model, [], NAMES, torch.tensor([tokens]))
        for name in NAMES:
            kept = recorded[name][prompt]
            size = tuple(slice(n) for n in alone[name][0].shape)
            torch.testing.assert_close(kept[size], alone[name][0], rtol=1e-5, atol=1e-5)
            rest = kept.clone()
            rest[size] = 0
            assert (rest == 0).all()
    with pytest.raises(InputError, match="was not recorded; there are blocks"):
        recorded["blocks.0.hook_resid_pre"]


def test_what_is_recorded_is_a_copy_of_what_the_interventions_left(model: Any, see: Any) -> None:
    prompts, name = ragged(), "blocks.1.hook_mlp_out"
    off = mcr.ablate_mlp_write([1], dose=0.5)
    plain, ablated = (mcr.record(model, prompts, [name], interventions=hooks) for hooks in ([], off))
    torch.testing.assert_close(ablated[name][:, 0], plain[name][:, 0] * 0.5)
    before = plain[name].clone()
    mcr.profile(model, prompts, interventions=mcr.patch_activation(name, plain), progress=False)
    assert torch.equal(plain[name], before)
    assert not plain[name].requires_grad


def test_plain_runs_follow_one_another(model: Any, see: Any) -> None:
    recorder, tokens = ActivationRecorder(NAMES[:1]), torch.tensor([[1, 5, 9]])
    hooks = recorder.hooks()
    for row in (tokens, tokens + 1):
        see(model, hooks, [], row)
    two = recorder.activations()[NAMES[0]]
    torch.testing.assert_close(two, see(model, [], NAMES[:1], torch.cat([tokens, tokens + 1]))[NAMES[0]])
    recorder.begin(model)
    with pytest.raises(InputError, match="did not fire"):
        recorder.activations()


def test_what_cannot_be_recorded_is_told(model: Any) -> None:
    with pytest.raises(InputError, match=r"a single string: give a list, \['blocks"):
        mcr.record(model, ragged(), NAMES[0])
    with pytest.raises(InputError, match=r"no hook 'blocks\.3\.hook_mlp_out'; its layers are 0\.\.2"):
        mcr.record(model, ragged(), ["blocks.3.hook_mlp_out"])
    with pytest.raises(InputError, match="whole prompts: leave out chunk="):
        mcr.measure(model, ragged(), [ActivationRecorder(NAMES)], chunk=3, progress=False)
    with pytest.raises(InputError, match=r"position 2: the shortest prompt has 2 tokens, 0\.\.1"):
        mcr.record(model, ragged(), NAMES, interventions=mcr.ablate_mlp_write([0], 2))
