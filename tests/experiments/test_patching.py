"""Activation patching against TransformerLens's own sweeps, hand-written hooks and what must hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS
from transformer_lens import patching

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments import kl_divergence, logit_difference

CLEAN = [[1, 7, 9, 23, 5, 40], [1, 8, 30, 12, 6, 41]]
CORRUPT = [[1, 7, 19, 23, 5, 40], [1, 8, 31, 12, 6, 41]]


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, llama_folder: Path) -> Any:
    return mcr.load_model(llama_folder, backend=request.param)


def pairs_of(clean: Any = CLEAN, corrupt: Any = CORRUPT) -> mcr.PromptPairs:
    n = len(clean)
    return mcr.PromptPairs(
        mcr.Prompts.from_tokens(clean), mcr.Prompts.from_tokens(corrupt), (10,) * n, (20,) * n
    )


@pytest.mark.parametrize(
    ("hook", "over", "theirs"),
    [
        ("resid_pre", ("layer", "position"), "get_act_patch_resid_pre"),
        ("attn_out", ("layer", "position"), "get_act_patch_attn_out"),
        ("mlp_out", ("layer", "position"), "get_act_patch_mlp_out"),
        ("z", ("layer", "head"), "get_act_patch_attn_head_out_all_pos"),
    ],
)
def test_the_sweep_agrees_with_transformer_lens(model: Any, hook: str, over: Any, theirs: str) -> None:
    pairs = pairs_of()
    found = mcr.activation_patching(model, pairs, hook, over, progress=False)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(CLEAN))

        def metric(logits: torch.Tensor) -> torch.Tensor:
            return (logits[:, -1, 10] - logits[:, -1, 20]).mean()

        expected = getattr(patching, theirs)(model, torch.tensor(CORRUPT), cache, metric)
    np.testing.assert_allclose(found.patched.mean("prompt"), expected.cpu().numpy(), atol=1e-5)


def test_what_must_hold(model: Any) -> None:
    ragged = pairs_of([*CLEAN, [1, 4, 5]], [*CORRUPT, [1, 6, 5]])
    result = mcr.activation_patching(model, ragged, "resid_pre", progress=False)
    assert result.patched.shape == (3, 3, 6)
    assert np.isnan(result.patched.values[2, :, 3:]).all()
    # The changed token is all that the prompts differ in before the first block.
    np.testing.assert_allclose(result.recovered.sel(layer=0)[:2, 2], 1, atol=1e-4)
    np.testing.assert_allclose(result.recovered.sel(layer=0)[:, 0], 0, atol=1e-5)
    last = mcr.activation_patching(model, ragged, "resid_post", positions=-1, progress=False)
    np.testing.assert_allclose(np.ravel(last.recovered.sel(layer=2)), 1, atol=1e-4)
    alone = mcr.activation_patching(model, pairs_of([[1, 4, 5]], [[1, 6, 5]]), "resid_pre", progress=False)
    np.testing.assert_allclose(result.patched.values[2, :, :3], alone.patched.values[0], atol=1e-5)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_noising_is_denoising_with_the_sides_changed(model: Any) -> None:
    there = mcr.activation_patching(model, pairs_of(), "mlp_out", direction="noise", progress=False)
    back = mcr.activation_patching(model, pairs_of(CORRUPT, CLEAN), "mlp_out", progress=False)
    np.testing.assert_allclose(there.patched, back.patched, atol=1e-6)


def test_a_metric_of_ones_own_and_the_divergence(model: Any) -> None:
    def own(logits: torch.Tensor, pairs: Any) -> torch.Tensor:
        return logits[:, -1].logsumexp(-1)

    mcr.activation_patching(model, pairs_of(), metric=own, layers=1, progress=False)
    result = mcr.activation_patching(model, pairs_of(), metric=kl_divergence, layers=0, progress=False)
    np.testing.assert_allclose(result.clean, 0, atol=1e-6)
    np.testing.assert_allclose(result.patched.sel(layer=0)[:, 2], 0, atol=1e-5)
    assert (result.corrupt > 0).all()


def test_bad_pairs_are_refused(model: Any) -> None:
    with pytest.raises(InputError, match="pair 1: the clean prompt has 3 tokens, the corrupt one 2"):
        pairs_of([[1, 2], [1, 2, 3]], [[1, 3], [1, 2]])
    no_answers = mcr.PromptPairs(mcr.Prompts.from_tokens(CLEAN), mcr.Prompts.from_tokens(CORRUPT))
    with pytest.raises(InputError, match="answers"):
        mcr.activation_patching(model, no_answers, metric=logit_difference, progress=False)
    with pytest.raises(InputError):
        mcr.activation_patching(model, pairs_of(), "no_such_hook", progress=False)
    with pytest.raises(InputError, match=r"0\.\.2"):
        mcr.activation_patching(model, pairs_of(), layers=7, progress=False)


def test_a_map_is_drawn(model: Any) -> None:
    for over in (("layer", "position"), ("layer", "head")):
        result = mcr.activation_patching(model, pairs_of(), "z", over, progress=False)
        figure: Any = mcr.viz.patching_map(result)
        assert np.shape(figure.data[0].z) == (3, result.sizes[over[1]])


def test_mean_and_resample_ablation_are_what_numpy_gives(model: Any) -> None:
    name = "blocks.1.hook_mlp_out"
    reference = mcr.Prompts.from_tokens([[1, 5, 6, 7, 8, 9, 3], [1, 9, 8], [1, 4, 4, 4, 4, 4, 4]])
    recorded = mcr.record(model, reference, [name])
    prompts = mcr.Prompts.from_tokens([*CLEAN, [1, 2, 3]])
    rows, lengths = recorded[name].double().numpy(), recorded.lengths.tolist()
    by_position = [np.mean([rows[i, p] for i in range(3) if lengths[i] > p], axis=0) for p in range(7)]
    by_token = np.concatenate([rows[i, : lengths[i]] for i in range(3)]).mean(0)
    cases: list[tuple[Any, Any]] = [
        (mcr.mean_ablate(name, recorded), lambda p: by_position[p]),
        (mcr.mean_ablate(name, recorded, over="tokens"), lambda p: by_token),
    ]
    for hooks, expected in cases:
        found = mcr.record(model, prompts, [name], hooks, batch_size=2)[name].numpy()
        for prompt, length in enumerate(prompts.lengths):
            for position in range(length):
                np.testing.assert_allclose(found[prompt, position], expected(position), atol=1e-6)
    draws = mcr.resample_ablate(name, recorded, seed=4)
    found = mcr.record(model, prompts, [name], draws, batch_size=1)[name]
    again = mcr.record(model, prompts, [name], draws, batch_size=3)[name]
    assert torch.equal(found, again)
    donors = [i for i in (0, 2) if torch.equal(found[0, :6], recorded[name][i, :6])]
    assert len(donors) == 1


def test_a_cache_of_transformer_lens_is_a_source(model: Any) -> None:
    name = "blocks.1.attn.hook_z"
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(CLEAN))
    hooks = mcr.patch_activation(name, cache, positions=[2, -1], heads=[1])
    base = mcr.record(model, mcr.Prompts.from_tokens(CORRUPT), [name])[name]
    found = mcr.record(model, mcr.Prompts.from_tokens(CORRUPT), [name], hooks)[name]
    expected = base.clone()
    for position in (2, 5):
        expected[:, position, 1] = cache[name][:, position, 1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
