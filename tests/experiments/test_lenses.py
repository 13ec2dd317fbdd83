"""Lenses against Hugging Face's own loss and a NumPy oracle, in batches, chunks and beside a profile."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS, needs_hooked_transformer
from families import FAMILIES, eager
from safetensors.torch import save_file

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.experiments import lens_summary
from mcr_lens.hooks import ResidualObserver

ON_BACKENDS = [
    *[pytest.param(family, "bridge", id=f"{family}-bridge") for family in FAMILIES],
    *[
        pytest.param(family, "hooked_transformer", id=f"{family}-hooked", marks=needs_hooked_transformer)
        for family in ("llama", "qwen2")
    ],
]


def ragged(longest: int = 17) -> mcr.Prompts:
    rng = np.random.default_rng(5)
    return mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, n).tolist()] for n in (5, longest, 1, 9)])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize(("family", "backend"), ON_BACKENDS)
def test_the_last_depth_is_the_models_own_loss(family_folder: Any, family: str, backend: Any) -> None:
    model, reference = mcr.load_model(family_folder(family), backend=backend), eager(family_folder(family))
    data = mcr.logit_lens(model, ragged(), progress=False).data
    for prompt, tokens in enumerate(ragged().tokens):
        ids = torch.tensor([tokens])
        with torch.no_grad():
            own = float(reference(ids, labels=ids).loss)
            loss = float(model(ids, return_type="loss"))
        found = float(data.lens_loss.sel(prompt=prompt).isel(depth=-1))
        assert abs(found - own) < 1e-5
        assert abs(found - loss) < 1e-5
    assert np.allclose(data.lens_kl.isel(depth=-1), 0, atol=1e-6)
    np.testing.assert_allclose(data.lens_perplexity, np.exp(data.lens_loss))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_every_depth_equals_numpy(llama_folder: Path, backend: Any, chunk: int | None) -> None:
    model, reference = mcr.load_model(llama_folder, backend=backend), eager(llama_folder).double()
    data = mcr.logit_lens(model, ragged(), chunk=chunk, top_k=2, per_token=True, progress=False).data
    head = reference.lm_head.weight.detach().numpy()
    gain, eps = reference.model.norm.weight.detach().numpy(), reference.config.rms_norm_eps
    for prompt, tokens in enumerate(ragged().tokens):
        with torch.no_grad():
            out = reference(torch.tensor([tokens]), output_hidden_states=True)
        final = log_softmax(out.logits[0].numpy())
        targets = np.array(tokens[1:])
        for depth, hidden in enumerate(out.hidden_states[:-1]):  # the last one is behind the final norm
            x = hidden[0].numpy()
            lens = log_softmax((x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain) @ head.T)
            rows = np.arange(len(targets))
            found = data.sel(prompt=prompt, depth=depth)
            close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
            np.testing.assert_allclose(found.lens_loss, -lens[rows, targets].mean(), **close)
            np.testing.assert_allclose(found.lens_entropy, -(np.exp(lens) * lens).sum(-1).mean(), **close)
            np.testing.assert_allclose(
                found.lens_kl, (np.exp(final) * (final - lens)).sum(-1).mean(), **close
            )
            ranks = (lens[rows] > lens[rows, targets][:, None]).sum(-1)
            np.testing.assert_allclose(found.target_rank, ranks.mean(), rtol=1e-6)
            np.testing.assert_allclose(found.target_probability, np.exp(lens[rows, targets]).mean(), **close)
            by_token = found.lens_loss_by_token.values[: len(targets)]
            np.testing.assert_allclose(by_token, -lens[rows, targets], rtol=1e-4, atol=1e-4)
            assert found.top_token.values[: len(tokens), 0].tolist() == lens.argmax(-1).tolist()
            assert (found.top_token.values[len(tokens) :] == -1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_lens_and_profile_share_a_pass_and_see_interventions(llama_folder: Path, backend: Any) -> None:
    model = mcr.load_model(llama_folder, backend=backend)
    off = mcr.ablate_mlp_write([0, 1])
    alone = mcr.logit_lens(model, ragged(), interventions=off, progress=False).data
    lens = mcr.LogitLens(model)
    shared = mcr.profile(model, ragged(), interventions=off, observers=[lens], progress=False).data
    np.testing.assert_allclose(shared.lens_loss, alone.lens_loss, rtol=1e-6)
    assert "norm_ratio" in shared
    both = mcr.measure(model, ragged(), [ResidualObserver(model), mcr.LogitLens(model)], progress=False)
    assert abs(float((both.lens_loss - alone.lens_loss).isel(depth=-1).max())) > 1e-4


def test_a_plain_run_needs_the_tokens_for_a_loss(llama: Any) -> None:
    tokens = torch.tensor([[1, 7, 9, 23]])
    lens = mcr.LogitLens(llama)
    llama.run_with_hooks(tokens, fwd_hooks=lens.hooks())
    assert set(lens.result().data_vars) == {"lens_entropy", "lens_kl"}
    told = mcr.LogitLens(llama, tokens)
    loss = llama.run_with_hooks(tokens, fwd_hooks=told.hooks(), return_type="loss")
    assert abs(float(told.result().lens_loss.isel(depth=-1)[0]) - float(loss)) < 1e-5


def test_no_tensor_of_depth_by_token_by_vocabulary(llama: Any) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.ndim and out.shape[-1] == 64:
                self.rows = max(self.rows, out.numel() // 64)
            return out

    prompts = mcr.Prompts.from_tokens([[1, *range(3, 60)]] * 3)
    with Largest() as seen:
        lens = mcr.LogitLens(llama, token_block=8)
        mcr.measure(llama, prompts, [lens], batch_size=1, progress=False)
    # The model's own logits of one prompt are the only thing as large.
    assert seen.rows <= 58


def test_the_summary_weighs_prompts_by_their_targets(llama: Any) -> None:
    data = mcr.logit_lens(llama, ragged(), progress=False).data
    weights = np.array(ragged().lengths) - 1
    loss = np.average(data.lens_loss.values, axis=0, weights=weights)
    np.testing.assert_allclose(lens_summary(data).loss, loss, rtol=1e-6)
    np.testing.assert_allclose(lens_summary(data).perplexity, np.exp(loss), rtol=1e-6)


def test_a_tuned_lens_is_fitted_saved_and_read_back(llama: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prompts = mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, 12).tolist()] for _ in range(40)])
    made = mcr.experiments.fit_tuned_lens(
        llama, prompts, steps=40, learning_rate=1e-2, seed=1, progress=False
    )
    again = mcr.experiments.fit_tuned_lens(
        llama, prompts, steps=40, learning_rate=1e-2, seed=1, progress=False
    )
    assert torch.equal(made.weights, again.weights)
    plain = mcr.logit_lens(llama, prompts, progress=False).data
    tuned = mcr.logit_lens(llama, prompts, translators=made, progress=False).data
    fell = (plain.lens_kl - tuned.lens_kl).mean("prompt").values
    assert (fell[:-1] > 0).all()
    assert abs(fell[-1]) < 1e-6
    assert not any(parameter.grad is not None for parameter in llama.original_model.parameters())
    read = mcr.hooks.Translators.load(made.save(tmp_path / "lens"))
    assert torch.equal(read.weights, made.weights)
    assert torch.equal(read.biases, made.biases)


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 200_000, "9" * 5000])
def test_configurations_that_nobody_can_read(content: str, tmp_path: Path) -> None:
    folder = mcr.hooks.Translators(torch.zeros(2, 8, 8), torch.zeros(2, 8)).save(tmp_path / "lens")
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config.json: not"):
        mcr.hooks.Translators.load(folder)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.int64])
def test_translators_are_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = mcr.hooks.Translators(torch.zeros(2, 8, 8), torch.zeros(2, 8)).save(tmp_path / "lens")
    tensors = {"weights": torch.zeros(2, 8, 8).to(dtype), "biases": torch.zeros(2, 8)}
    save_file(tensors, folder / "params.safetensors")
    with pytest.raises(InputError, match=f"translators with weights of {dtype}"):
        mcr.hooks.Translators.load(folder)


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_names_that_no_folder_has(name: str, tmp_path: Path) -> None:
    made = mcr.hooks.Translators(torch.zeros(2, 8, 8), torch.zeros(2, 8))
    for call in (mcr.hooks.Translators.load, made.save):
        with pytest.raises(InputError):
            call(f"{tmp_path}/{name}")
    assert list(tmp_path.iterdir()) == []


def test_a_published_folder_is_read(llama: Any, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for layer in range(3):
        state[f"{layer}.weight"] = 0.1 * torch.randn(32, 32, generator=generator)
        state[f"{layer}.bias"] = 0.1 * torch.randn(32, generator=generator)
    torch.save(state, tmp_path / "params.pt")
    config = {"base_model_name_or_path": "llama", "d_model": 32, "num_hidden_layers": 3, "bias": True,
              "base_model_revision": None, "unembed_hash": "x", "lens_type": "linear_tuned_lens"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"params.pt is pickled; .*allow_pickle=True\).save\(new\)"):
        mcr.hooks.Translators.load(tmp_path)
    read = mcr.hooks.Translators.load(tmp_path, allow_pickle=True)
    assert torch.equal(read.weights, torch.stack([state[f"{i}.weight"] for i in range(3)]))
    data = mcr.measure(llama, ragged(), [mcr.TunedLens(llama, read)], progress=False)
    assert np.isfinite(data.lens_kl).all()
    (tmp_path / "config.json").write_text(json.dumps(config | {"d_model": 16}))
    with pytest.raises(InputError, match=r"of another shape: 0\.weight, 0\.bias"):
        mcr.hooks.Translators.load(tmp_path, allow_pickle=True)
