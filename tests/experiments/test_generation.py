"""What is measured while a model generates is what a profile of the text so far says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mcr_lens as mcr

NEW = 8


@pytest.fixture(scope="module", params=["untouched", "write off"])
def interventions(request: pytest.FixtureRequest) -> list[Any]:
    return [] if request.param == "untouched" else list(mcr.ablate_mlp_write(layers=[1]))


@pytest.fixture(scope="module")
def prompts(bundled_model: Any) -> mcr.Prompts:
    ids = mcr.load_prompts(mcr.prompts.word_problems(3), bundled_model).tokens
    return mcr.Prompts.from_tokens([ids[0][:12], ids[1][:9], ids[2][:12]])


@pytest.fixture(scope="module")
def grown(bundled_model: Any, prompts: mcr.Prompts, interventions: list[Any]) -> Any:
    return mcr.profile_generation(
        bundled_model, prompts, NEW, interventions=interventions, steps=[0, 3, NEW], progress=False
    )


def text_at(prompts: mcr.Prompts, grown: Any, step: int) -> list[list[int]]:
    pairs = zip(prompts.tokens, grown.data.token.values.tolist(), strict=True)
    return [[*before, *new[:step]] for before, new in pairs]


@pytest.mark.parametrize("step", [0, 3, NEW])
def test_every_step_is_a_profile_of_the_text_so_far(
    bundled_model: Any, prompts: mcr.Prompts, grown: Any, interventions: list[Any], step: int
) -> None:
    texts = mcr.Prompts.from_tokens(text_at(prompts, grown, step))
    alone = mcr.profile(bundled_model, texts, interventions=interventions, progress=False).data
    at_step = grown.data.sel(step=step)
    names = [name for name, values in alone.items() if values.dims == ("prompt", "depth")]
    assert {"norm_ratio", "matrix_entropy", "anisotropy_bound", "entropy_without_sink"} <= set(names)
    for name in names:
        found, expected = at_step[name].transpose("prompt", "depth").values, alone[name].values
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=str(name))
    np.testing.assert_allclose(
        grown.sink_compression().sel(step=step), mcr.phases.sink_compression(alone), atol=1e-5
    )


def test_attention_and_loss_of_the_new_tokens(
    bundled_model: Any, prompts: mcr.Prompts, grown: Any, interventions: list[Any]
) -> None:
    for row, text in enumerate(text_at(prompts, grown, NEW)):
        tokens = torch.tensor([text])
        patterns: dict[str, torch.Tensor] = {}

        def keep(pattern: torch.Tensor, hook: Any, kept: dict[str, torch.Tensor] = patterns) -> None:
            kept[hook.name] = pattern.detach()

        hooks = [(f"blocks.{layer}.attn.hook_pattern", keep) for layer in range(bundled_model.cfg.n_layers)]
        with torch.no_grad():
            logits = bundled_model.run_with_hooks(tokens, fwd_hooks=[*interventions, *hooks])
        column = torch.stack([patterns[name][0, :, -NEW:, 0] for name, _ in hooks])  # layer, head, new token
        attention = grown.data.sink_attention.isel(prompt=row).transpose("layer", "head", "new_token")
        np.testing.assert_allclose(attention, column, atol=1e-5)
        log_p = logits[0].double().log_softmax(-1)[-NEW - 1 : -1]
        loss = -log_p[torch.arange(NEW), tokens[0, -NEW:]]
        np.testing.assert_allclose(grown.data.lens_loss.isel(prompt=row, depth=-1), loss, atol=1e-5)
        assert log_p.argmax(-1).tolist() == text[-NEW:]  # the most likely token


def test_a_result_is_saved_and_shown(grown: Any, tmp_path: Path) -> None:
    again = mcr.load(grown.save(tmp_path / "generation.nc"))
    assert type(again) is type(grown) and again.data.equals(grown.data)
    assert repr(again) == repr(grown)
    table = grown.summary()
    assert table.index.tolist() == [0, 3, NEW]
    assert np.isnan(table.loss[0]) and table.loss[1:].notna().all()
    assert table.kappa.iloc[-1] == pytest.approx(
        float(grown.sink_compression().isel(step=-1).mean("prompt").max())
    )


def test_samples_have_a_seed(bundled_model: Any) -> None:
    def sample(seed: int) -> list[list[int]]:
        return mcr.profile_generation(
            bundled_model, ["Ann has 5"], 12, temperature=2.0, seed=seed, steps=[12], progress=False
        ).data.token.values.tolist()

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"max_new_tokens": 4, "steps": [5]}, "steps"),
        ({"max_new_tokens": 4, "temperature": -1}, "temperature -1"),
        ({"max_new_tokens": 10**6}, "the context of tiny is"),
        ({"max_new_tokens": 4, "sink_position": 50}, "sink_position 50: a prompt is shorter at step 0"),
    ],
)
def test_options_out_of_range(bundled_model: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(mcr.InputError, match=match):
        mcr.profile_generation(bundled_model, ["Ann has 5"], **options, progress=False)
