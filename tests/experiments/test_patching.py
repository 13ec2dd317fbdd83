"""Activation patching against TransformerLens's own sweeps, hand-written hooks and what must hold."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS
from transformer_lens import patching

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments import kl_divergence, logit_difference, logits_at
from mcr_lens.hooks import BatchContext, current_context
from mcr_lens.models.backend import as_module
from mcr_lens.results import load_dataset, save_dataset

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
        ("z", ("layer", "position", "head"), "get_act_patch_attn_head_out_by_pos"),
        ("q", ("layer", "head"), "get_act_patch_attn_head_q_all_pos"),
        ("v", ("layer", "head"), "get_act_patch_attn_head_v_all_pos"),
        ("pattern", ("layer", "head"), "get_act_patch_attn_head_pattern_all_pos"),
    ],
)
def test_the_sweep_agrees_with_transformer_lens(model: Any, hook: str, over: Any, theirs: str) -> None:
    pairs = pairs_of()
    found = mcr.activation_patching(model, pairs, hook, over, progress=False).data
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(CLEAN))

        def metric(logits: torch.Tensor) -> torch.Tensor:
            return (logits[:, -1, 10] - logits[:, -1, 20]).mean()

        expected = getattr(patching, theirs)(model, torch.tensor(CORRUPT), cache, metric)
    np.testing.assert_allclose(found.patched.mean("prompt"), expected.cpu().numpy(), atol=1e-5)


def test_the_bundled_model_agrees_too(bundled_model: Any) -> None:
    texts = ["Ann has 5 pens and buys", "Ann has 7 pens and buys"]
    pairs = mcr.PromptPairs.from_texts(texts, texts[::-1], bundled_model, ["5", "7"], ["7", "5"])
    found = mcr.activation_patching(bundled_model, pairs, progress=False).data
    right, wrong = torch.tensor(pairs.answers), torch.tensor(pairs.wrong_answers)
    with torch.no_grad():
        _, cache = bundled_model.run_with_cache(torch.tensor(pairs.clean.tokens))

        def metric(logits: torch.Tensor) -> torch.Tensor:
            return (logits[[0, 1], -1, right] - logits[[0, 1], -1, wrong]).mean()

        tokens = torch.tensor(pairs.corrupt.tokens)
        expected = patching.get_act_patch_resid_pre(bundled_model, tokens, cache, metric)
    np.testing.assert_allclose(found.patched.mean("prompt"), expected.cpu().numpy(), atol=2e-5)


def test_a_hook_written_by_hand_gives_the_same(model: Any) -> None:
    """One pair at a time, without padding, one line of TransformerLens a place."""
    clean = [*CLEAN, [1, 4, 5]]
    corrupt = [*CORRUPT, [1, 6, 5]]
    found = mcr.activation_patching(model, pairs_of(clean, corrupt), batch_size=2, progress=False).data
    for pair, (right, wrong) in enumerate(zip(clean, corrupt, strict=True)):
        for layer in range(3):
            name, kept = f"blocks.{layer}.hook_resid_pre", []
            with torch.no_grad():
                keep = [(name, lambda x, hook, kept=kept: kept.append(x.clone()))]
                model.run_with_hooks(torch.tensor([right]), fwd_hooks=keep)
            for at in range(len(wrong)):

                def swap(x: Any, hook: Any, at: int = at, source: Any = kept) -> Any:
                    return torch.cat([x[:, :at], source[0][:, at : at + 1], x[:, at + 1 :]], dim=1)

                with torch.no_grad():
                    logits = model.run_with_hooks(torch.tensor([wrong]), fwd_hooks=[(name, swap)])
                expected = float(logits[0, -1, 10] - logits[0, -1, 20])
                assert float(found.patched[pair, layer, at]) == pytest.approx(expected, abs=2e-5)


def test_everything_recovers_everything_and_the_same_run_changes_nothing(model: Any) -> None:
    ragged = pairs_of([*CLEAN, [1, 4, 5]], [*CORRUPT, [1, 6, 5]])
    every = mcr.activation_patching(model, ragged, over=("layer",), layers=0, progress=False).data
    assert every.recovered.dims == ("prompt", "layer")
    assert (every.recovered == 1).all()
    noised = mcr.activation_patching(
        model, ragged, over=("layer",), layers=0, direction="noise", progress=False
    ).data
    assert (noised.lost == 1).all() and "recovered" not in noised
    same = pairs_of([*CLEAN, [1, 4, 5]], [*CLEAN, [1, 4, 5]])
    for hook, over in (("resid_pre", ("layer", "position")), ("z", ("layer", "head"))):
        result = mcr.activation_patching(model, same, hook, over, progress=False).data
        there = result.patched.notnull()
        assert bool((result.patched == result.corrupt).where(there, True).all())
        assert result.recovered.isnull().all()  # nothing between the runs to recover


def test_batches_and_order_change_nothing(model: Any) -> None:
    clean, corrupt = [*CLEAN, [1, 4, 5], [1, 9, 9, 8]], [*CORRUPT, [1, 6, 5], [1, 9, 7, 8]]
    whole = mcr.activation_patching(model, pairs_of(clean, corrupt), batch_size=1, progress=False).data
    order = [2, 0, 3, 1]
    shuffled = pairs_of([clean[i] for i in order], [corrupt[i] for i in order])
    again = mcr.activation_patching(model, shuffled, batch_size=3, progress=False).data
    np.testing.assert_allclose(again.patched, whole.patched.isel(prompt=order), atol=1e-5)
    np.testing.assert_array_equal(again.token, whole.token.isel(prompt=order))


def test_key_value_heads_are_those_that_there_are(model: Any) -> None:
    result = mcr.activation_patching(model, pairs_of(), "k", ("layer", "head"), progress=False).data
    assert result.sizes["head"] == 2 < model.cfg.n_heads


def test_runs_may_differ_in_their_interventions_alone(model: Any) -> None:
    """The state that an ablated write leaves behind is all there is between the two runs."""
    same = pairs_of(CLEAN, CLEAN)
    off = mcr.ablate_mlp_write([0], positions=0)
    options: dict[str, Any] = {"positions": [0], "corrupt_interventions": off, "progress": False}
    back = mcr.activation_patching(model, same, **options).data
    assert back.recovered.dims == ("prompt", "layer", "position")
    assert back.sizes["position"] == 1
    np.testing.assert_array_equal(back.recovered.sel(layer=1), 1)
    assert (back.clean != back.corrupt).all()
    away = mcr.activation_patching(model, same, direction="noise", **options).data
    np.testing.assert_array_equal(away.lost.sel(layer=[0, 1]), [[[0], [1]]] * 2)
    (recorded,) = away.attrs["corrupt_interventions"]
    assert recorded.startswith("ablate_mlp_write(layers=[0]") and away.attrs["clean_interventions"] == []
    # By hand, as patches of one's own are made.
    name = "blocks.1.hook_resid_pre"
    source = mcr.record(model, same.clean, [name], interventions=off)
    by_hand = mcr.activation_patching(
        model, same, over=("layer",), layers=[2], progress=False,
        corrupt_interventions=mcr.patch_activation(name, source, positions=0),
    ).data  # fmt: skip
    np.testing.assert_array_equal(by_hand.corrupt, back.corrupt)


def test_an_intervention_keeps_to_its_prompt_in_ragged_batches(model: Any) -> None:
    """A position a prompt, and prompts that the batches reorder."""
    clean = [[1, 4, 5], *CLEAN]
    off = mcr.ablate_mlp_write([1], positions=[[2], [5], [3]])
    data = mcr.activation_patching(
        model, pairs_of(clean, clean), corrupt_interventions=off, layers=[2], progress=False
    ).data
    for pair, at in enumerate([2, 5, 3]):
        assert float(data.recovered[pair, 0, at]) == 1
        others = [p for p in range(len(clean[pair])) if p != at]
        np.testing.assert_array_equal(data.recovered[pair, 0, others], 0)


def test_the_result_says_what_it_is_of(model: Any, tmp_path: Path) -> None:
    pairs = pairs_of([*CLEAN, [1, 4, 5]], [*CORRUPT, [1, 6, 5]])
    metric = partial(logit_difference, position=-1)
    result = mcr.activation_patching(
        model, pairs, "mlp_out", positions=[-1, 4], layers=[2, 0], metric=metric, progress=False
    ).data
    assert result.layer.values.tolist() == [2, 0]
    assert result.position.values.tolist() == [-1, 4]
    assert result.token.values.tolist() == [[40, 5], [41, 6], [5, -1]]
    assert result.text.values.tolist() == [["w37", "w2"], ["w38", "w3"], ["w2", ""]]
    assert result.n_tokens.values.tolist() == [6, 6, 3]
    assert (
        np.isnan(result.patched.values[2, :, 1]).all() and not np.isnan(result.patched.values[:, :, 0]).any()
    )
    assert result.attrs["metric"] == "logit_difference(position=-1)"
    assert (result.attrs["hook"], result.attrs["direction"]) == ("mlp_out", "denoise")
    assert result.attrs["prompts"] == pairs.attributes() and result.attrs["model"]
    again = load_dataset(save_dataset(result, tmp_path / "patching.nc"))
    assert again.identical(result)
    template = mcr.activation_patching(
        model, pairs, "blocks.{layer}.hook_mlp_out", positions=[-1, 4], layers=[2, 0], progress=False
    ).data
    np.testing.assert_array_equal(template.patched, result.patched)


def test_nothing_is_left_behind_after_an_exception(model: Any) -> None:
    def failing(logits: torch.Tensor, pairs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise RuntimeError("mine")
        return logits[:, -1, 0]

    calls = 0
    module = as_module(model)
    module.train()
    try:
        with pytest.raises(RuntimeError, match="mine"):
            mcr.activation_patching(model, pairs_of(), metric=failing, progress=False)
        assert all(part.training for part in module.modules())
    finally:
        module.eval()
    assert current_context() == BatchContext()
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_what_must_hold(model: Any) -> None:
    ragged = pairs_of([*CLEAN, [1, 4, 5]], [*CORRUPT, [1, 6, 5]])
    result = mcr.activation_patching(model, ragged, "resid_pre", progress=False).data
    assert result.patched.shape == (3, 3, 6)
    assert np.isnan(result.patched.values[2, :, 3:]).all()
    # The changed token is all that the prompts differ in before the first block.
    np.testing.assert_allclose(result.recovered.sel(layer=0)[:2, 2], 1, atol=1e-4)
    np.testing.assert_allclose(result.recovered.sel(layer=0)[:, 0], 0, atol=1e-5)
    last = mcr.activation_patching(model, ragged, "resid_post", positions=-1, progress=False).data
    np.testing.assert_allclose(np.ravel(last.recovered.sel(layer=2)), 1, atol=1e-4)
    alone = mcr.activation_patching(
        model, pairs_of([[1, 4, 5]], [[1, 6, 5]]), "resid_pre", progress=False
    ).data
    np.testing.assert_allclose(result.patched.values[2, :, :3], alone.patched.values[0], atol=1e-5)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_noising_is_denoising_with_the_sides_changed(model: Any) -> None:
    there = mcr.activation_patching(model, pairs_of(), "mlp_out", direction="noise", progress=False).data
    back = mcr.activation_patching(model, pairs_of(CORRUPT, CLEAN), "mlp_out", progress=False).data
    np.testing.assert_allclose(there.patched, back.patched, atol=1e-6)


def test_a_metric_of_ones_own_and_the_divergence(model: Any) -> None:
    def own(logits: torch.Tensor, pairs: Any) -> torch.Tensor:
        return logits[:, -1].logsumexp(-1)

    mcr.activation_patching(model, pairs_of(), metric=own, layers=1, progress=False)
    result = mcr.activation_patching(model, pairs_of(), metric=kl_divergence, layers=0, progress=False).data
    np.testing.assert_allclose(result.clean, 0, atol=1e-6)
    np.testing.assert_allclose(result.patched.sel(layer=0)[:, 2], 0, atol=1e-5)
    assert (result.corrupt > 0).all()


RAGGED = ([[1, 7, 9, 23, 5, 40], [1, 8, 30]], [[1, 7, 19, 23, 5, 40], [1, 8, 31]])


def test_row_6_a_metric_that_reads_padding_is_nan_and_says_why(model: Any) -> None:
    def last(logits: torch.Tensor, pairs: Any) -> torch.Tensor:
        return logits[:, -1].logsumexp(-1)

    def last_real(logits: torch.Tensor, pairs: Any) -> torch.Tensor:
        return logits_at(logits, pairs.lengths).logsumexp(-1)

    options: dict[str, Any] = {"layers": 1, "progress": False, "batch_size": 2}
    with pytest.warns(UserWarning, match=r"last reads logits behind .* 1 of 2 prompts.*logits_at") as told:
        wrong = mcr.activation_patching(model, pairs_of(*RAGGED), metric=last, **options).data
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    right = mcr.activation_patching(model, pairs_of(*RAGGED), metric=last_real, **options).data
    alone = mcr.activation_patching(
        model, pairs_of(*RAGGED), metric=last, **{**options, "batch_size": 1}
    ).data
    for name in ("clean", "corrupt", "patched"):
        assert wrong[name].sel(prompt=1).isnull().all()
        np.testing.assert_allclose(wrong[name].sel(prompt=0), right[name].sel(prompt=0), atol=1e-6)
        np.testing.assert_allclose(alone[name], right[name], atol=1e-5)


def test_an_accuracy_that_reads_padding_is_found_out_too(model: Any) -> None:
    with torch.no_grad():
        short = RAGGED[0][1]
        truth = int(model(torch.tensor([short]))[0, -1].argmax())

    def is_right(logits: torch.Tensor, pairs: Any) -> torch.Tensor:
        return (logits[:, -1].argmax(-1) == truth).float()

    with pytest.warns(UserWarning, match="is_right reads logits behind"):
        result = mcr.activation_patching(
            model, pairs_of(*RAGGED), metric=is_right, layers=0, batch_size=2, progress=False
        ).data
    assert result.clean.isnull().values.tolist() == [False, True]


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
    bad: list[tuple[dict[str, Any], str]] = [
        ({"over": ("head", "layer")}, "use \\('layer', 'position'\\)"),
        ({"over": "layer"}, "over='layer'"),
        ({"over": ("layer", "head")}, "'resid_pre' has no heads"),
        ({"hook": "k6"}, "'blocks.6.attn.hook_k'"),
        ({"hook": "k1"}, "names its layer"),
        ({"positions": [6]}, r"positions \[6\]: use one or several of 0\.\.5, or -1 for the last"),
        ({"positions": [-7]}, r"positions \[-7\]"),
        ({"positions": [1, 1]}, "each once"),
        ({"positions": []}, "one or several"),
        ({"direction": "both"}, "use 'denoise'"),
        ({"metric": 3}, "metric 3: give a function"),
        ({"metric": lambda logits, pairs: logits.mean()}, r"gave \(\) for 2 prompts"),
        ({"metric": lambda logits, pairs: 1.0}, "gave float for 2 prompts"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"clean_interventions": mcr.ablate_mlp_write([9])}, r"0\.\.2"),
    ]
    for options, message in bad:
        with pytest.raises(InputError, match=message) as caught:
            mcr.activation_patching(model, pairs_of(), progress=False, **options)
        assert "\n" not in str(caught.value)
    foreign = mcr.PromptPairs(mcr.Prompts.from_tokens(CLEAN), mcr.Prompts.from_tokens(CORRUPT), (64, 1))
    with pytest.raises(InputError, match=r"answer 64 is outside the vocabulary 0\.\.63"):
        mcr.activation_patching(model, foreign, progress=False)
    with pytest.raises(InputError, match="pairs is a tuple"):
        mcr.activation_patching(model, (CLEAN, CORRUPT), progress=False)  # type: ignore[arg-type]


def test_a_map_is_drawn(model: Any) -> None:
    for over in (("layer", "position"), ("layer", "head")):
        result = mcr.activation_patching(model, pairs_of(), "z", over, progress=False).data
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
        (mcr.hooks.mean_ablate(name, recorded), lambda p: by_position[p]),
        (mcr.hooks.mean_ablate(name, recorded, over="tokens"), lambda p: by_token),
    ]
    for hooks, expected in cases:
        found = mcr.record(model, prompts, [name], interventions=hooks, batch_size=2)[name].numpy()
        for prompt, length in enumerate(prompts.lengths):
            for position in range(length):
                np.testing.assert_allclose(found[prompt, position], expected(position), atol=1e-6)
    draws = mcr.hooks.resample_ablate(name, recorded, seed=4)
    found = mcr.record(model, prompts, [name], interventions=draws, batch_size=1)[name]
    again = mcr.record(model, prompts, [name], interventions=draws, batch_size=3)[name]
    assert torch.equal(found, again)
    donors = [i for i in (0, 2) if torch.equal(found[0, :6], recorded[name][i, :6])]
    assert len(donors) == 1


def test_a_cache_of_transformer_lens_is_a_source(model: Any) -> None:
    name = "blocks.1.attn.hook_z"
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(CLEAN))
    hooks = mcr.patch_activation(name, cache, positions=[2, -1], heads=[1])
    base = mcr.record(model, mcr.Prompts.from_tokens(CORRUPT), [name])[name]
    found = mcr.record(model, mcr.Prompts.from_tokens(CORRUPT), [name], interventions=hooks)[name]
    expected = base.clone()
    for position in (2, 5):
        expected[:, position, 1] = cache[name][:, position, 1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
