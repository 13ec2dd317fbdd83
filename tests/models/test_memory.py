"""``chunk="auto"``: the less memory is free, the smaller the chunks; the numbers stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import BACKENDS, needs_hooked_transformer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

import mcr_lens as mcr
from mcr_lens.hooks import current_context
from mcr_lens.metrics import Estimator
from mcr_lens.models import memory
from mcr_lens.models.backend import as_module
from mcr_lens.models.memory import auto_chunk, memory_needed
from mcr_lens.models.model_sizes import configured_sizes, loaded_sizes

PLENTY = 10**15
LONG = mcr.Prompts.from_tokens(
    [[1, *np.random.default_rng(n).integers(3, 64, n - 1).tolist()] for n in (250, 140, 30)]
)
# Counted apart below, or no matter of memory.
NOT_COMPARED = {
    "n_ctx", "joint_qkv", "block_parameters", "other_parameters", "tied_parameters",
}  # fmt: skip


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let so many bytes be free on the host and on every one of some made-up devices."""

    def set_free(host: float, *devices: float) -> None:
        made_up = [torch.device("cuda", i) for i in range(len(devices))]
        monkeypatch.setattr(memory, "_devices", lambda model: made_up)
        monkeypatch.setattr(memory, "free_memory", lambda device: int(devices[device.index]))
        monkeypatch.setattr(memory, "host_memory", lambda: int(host))

    return set_free


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mistral", "gemma2", "mixtral"])
@pytest.mark.parametrize(
    "backend", ["bridge", pytest.param("hooked_transformer", marks=needs_hooked_transformer)]
)
def test_a_loaded_model_has_the_sizes_of_its_configuration(
    family: str, backend: Any, family_folder: Callable[[str], Path]
) -> None:
    if (family, backend) == ("gemma2", "hooked_transformer"):
        pytest.skip("HookedTransformer does not take this family from a folder")
    planned = configured_sizes(AutoConfig.from_pretrained(family_folder(family)))
    loaded = loaded_sizes(mcr.load_model(family_folder(family), backend=backend))
    for name in set(vars(planned)) - NOT_COMPARED:
        assert getattr(loaded, name) == getattr(planned, name), name
    assert loaded.joint_qkv == (planned.joint_qkv and backend == "bridge")


def needed(model: Any, chunk: int | None, longest: int = 16384, n_prompts: int = 1) -> int:
    """Bytes of prompts one after the other, as a plan counts them."""
    need = memory_needed(
        loaded_sizes(model), batch=1, longest=longest, n_prompts=n_prompts, chunk=chunk,
        dtype="float32", backend="bridge",
    )  # fmt: skip
    return need.work + need.host


def test_less_memory_means_smaller_chunks(llama: Any, have: Callable[..., None]) -> None:
    sizes = (None, 4096, 2048, 1024, 512, 256, 128)
    for chunk in sizes:
        have(2 * needed(llama, chunk))
        assert auto_chunk(llama, [16384]) == chunk
    have(1)
    assert auto_chunk(llama, [16384]) == 128  # it may still work
    assert auto_chunk(llama, [100]) is None  # nothing smaller to try


def test_processes_that_share_a_machine_share_its_memory(llama: Any, have: Callable[..., None]) -> None:
    have(8 * needed(llama, 512))
    with memory.Sharing(host=4).of_memory():
        assert auto_chunk(llama, [16384]) == 512
    alone = auto_chunk(llama, [16384])
    assert alone is None or alone > 512
    have(PLENTY, 8 * needed(llama, 512))
    alone = auto_chunk(llama, [16384])
    with memory.Sharing(host=4, device=64).of_memory():
        assert auto_chunk(llama, [16384]) == 128
    assert alone is None or alone > 128


@given(st.lists(st.floats(4, 12), min_size=2, max_size=2), st.lists(st.integers(2, 20000), min_size=1))
def test_a_chunk_grows_with_the_memory(llama: Any, bytes_free: list[float], lengths: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for power in sorted(bytes_free):
            patch.setattr(memory, "host_memory", lambda power=power: int(10**power))
            found.append(auto_chunk(llama, lengths) or max(lengths))
    assert found[0] <= found[1]


def test_a_batch_is_counted_as_the_engine_makes_it(llama: Any, have: Callable[..., None]) -> None:
    have(2 * needed(llama, None, 2048, n_prompts=4))
    assert auto_chunk(llama, [2048] * 4, batch_size=1) is None
    assert auto_chunk(llama, [2048] * 4, batch_size=4) is not None
    assert auto_chunk(llama, [2048] * 4) is not None  # two at once


def test_of_an_accelerator_its_own_memory_counts(llama: Any, have: Callable[..., None]) -> None:
    enough = 2 * needed(llama, 512)
    have(PLENTY, enough)
    assert auto_chunk(llama, [16384]) in (1024, 512)  # what the host holds is not on the device
    have(PLENTY, PLENTY, enough)
    spread = auto_chunk(llama, [16384])
    assert spread is not None and spread >= 512
    have(1, PLENTY)  # the spectra are the host's
    assert auto_chunk(llama, [16384]) == 128


def test_what_is_free_here_is_enough_for_a_small_model(llama: Any) -> None:
    assert auto_chunk(llama, [256]) is None


def fingerprint(model: Any) -> tuple[str, int]:
    """Weights and number of hooks."""
    digest = hashlib.sha256()
    for name, tensor in sorted(as_module(model).state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    points = {id(point): point for point in model.hook_dict.values()}.values()
    return digest.hexdigest(), sum(len(point.fwd_hooks) for point in points)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_numbers_do_not_depend_on_the_memory(
    backend: Any, llama_folder: Path, have: Callable[..., None]
) -> None:
    model = mcr.load_model(llama_folder, backend=backend)
    offsets: set[int] = set()

    def seen(residual: torch.Tensor, hook: Any) -> None:
        offsets.add(current_context().offset)

    watch = [("blocks.0.hook_resid_pre", seen)]
    before = fingerprint(model)
    have(PLENTY)
    whole = mcr.profile(model, LONG, chunk="auto", interventions=watch, progress=False).data
    assert offsets == {0}
    have(1)
    pieces = mcr.profile(model, LONG, chunk="auto", interventions=watch, progress=False).data
    assert offsets == {0, 128}
    assert fingerprint(model) == before
    assert pieces.attrs == whole.attrs
    assert set(pieces.data_vars) == set(whole.data_vars)
    for name in whole.data_vars:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-5, atol=1e-5, err_msg=str(name))
    plain = mcr.profile(model, LONG, interventions=watch, progress=False).data
    assert plain.identical(whole)


def test_nothing_is_left_behind_when_a_hook_fails(llama: Any, have: Callable[..., None]) -> None:
    def broken(tensor: torch.Tensor, hook: Any) -> None:
        if current_context().offset:
            raise RuntimeError("broken on purpose")

    have(1)
    before = fingerprint(llama)
    hooks = [("blocks.1.hook_mlp_out", broken)]
    with pytest.raises(RuntimeError, match="on purpose"):
        mcr.measure(llama, LONG, [], interventions=hooks, chunk="auto", progress=False)
    assert fingerprint(llama) == before


def test_what_cannot_be_fed_in_chunks_gets_whole_prompts(
    llama: Any, have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(1)
    centred = Estimator(center=True)
    found = mcr.profile(llama, LONG, chunk="auto", estimator=centred, progress=False).data
    assert found.identical(mcr.profile(llama, LONG, estimator=centred, progress=False).data)
    monkeypatch.setattr(memory, "cache_fault", lambda model: "it forgets")
    assert auto_chunk(llama, LONG.lengths) is None


def test_a_clamp_compares_with_the_same_whatever_the_memory(
    bundled_model: Any, have: Callable[..., None]
) -> None:
    """A study decides by the setting, not by the chunk that was found."""
    prompts = mcr.Prompts.from_tokens([[0, *range(20, 170)], [0, *range(30, 190)]])
    studies = []
    for free in (PLENTY, 1):
        have(free)
        study = mcr.ablation_study(
            bundled_model, prompts, layers=[1], doses=[1.0], arms=["clamp"], chunk="auto", progress=False
        )
        studies.append(study.data)
    for name in ("normalized_entropy", "sink_score"):
        np.testing.assert_allclose(studies[0][name], studies[1][name], rtol=1e-4, atol=1e-5)
