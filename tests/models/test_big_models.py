"""Models that are placed, offloaded or cast by accelerate, by us or by the user: the same profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backends import BACKENDS
from families import eager
from transformers import AutoModelForCausalLM, AutoTokenizer

import mcr_lens as mcr
from mcr_lens.models.backend import has_hooked_transformer
from mcr_lens.models.offloading import offload

PROMPTS = mcr.Prompts.from_tokens([[1, *range(3, 20)], [1, *range(20, 27)], [1, *range(30, 43)]])


def profiled(model: Any, chunk: int | None = None) -> mcr.Profile:
    return mcr.profile(model, PROMPTS, chunk=chunk, progress=False)


def assert_same(found: mcr.Profile, expected: mcr.Profile, tolerance: float = 0.0) -> None:
    assert set(found.data) == set(expected.data)
    for name, values in expected.data.items():
        there = torch.as_tensor(found.data[name].values), torch.as_tensor(values.values)
        torch.testing.assert_close(*there, atol=tolerance, rtol=tolerance, equal_nan=True, msg=str(name))


def refused(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(mcr.InputError) as raised:
        call()
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize("device_map", ["auto", "balanced", {"": "cpu"}])
def test_a_device_map_changes_nothing(device_map: Any, llama: Any, llama_folder: Path) -> None:
    assert_same(profiled(mcr.load_model(llama_folder, device_map=device_map)), profiled(llama))


def test_disk_in_a_device_map_gives_the_same_profile_or_is_refused_in_one_line(
    llama: Any, llama_folder: Path
) -> None:
    """TransformerLens takes it from 4.x on."""
    if has_hooked_transformer():
        refused(lambda: mcr.load_model(llama_folder, device_map={"": "disk"}), str(llama_folder), "disk")
        return
    model = mcr.load_model(llama_folder, device_map={"": "disk"})
    assert next(model.original_model.parameters()).is_meta
    assert_same(profiled(model), profiled(llama), 1e-6)


def test_a_map_that_mixes_host_and_accelerator_is_refused_in_one_line(llama_folder: Path) -> None:
    mixed = {"model.embed_tokens": 0, "model.layers": "cpu", "model.norm": 0, "lm_head": 0}
    refused(lambda: mcr.load_model(llama_folder, device_map=mixed), "mixes CPU", str(llama_folder))


@pytest.mark.parametrize("where", ["host", "disk"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_offloaded_blocks_give_the_same_profile(
    family: str, backend: Any, where: str, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = family_folder(family)
    if family == "gemma2" and backend == "hooked_transformer":
        pytest.skip("no HookedTransformer is built of a Gemma-2 folder")
    expected = mcr.load_model(folder, backend=backend)
    model = offload(
        mcr.load_model(folder, backend=backend, device="cpu"), folder=tmp_path if where == "disk" else None
    )
    assert_same(profiled(model), profiled(expected))
    assert_same(profiled(model, chunk=5), profiled(expected, chunk=5))
    # Nothing stays after a run.
    assert all(not parameter.numel() for block in model.blocks for parameter in block.parameters())
    assert len(list(tmp_path.iterdir())) == (model.cfg.n_layers if where == "disk" else 0)


def test_no_more_than_one_block_is_there_at_a_time(llama_folder: Path) -> None:
    model = offload(mcr.load_model(llama_folder, device="cpu"))
    there: list[list[bool]] = []

    def look(tensor: torch.Tensor, hook: object) -> None:
        there.append([all(p.numel() for p in block.parameters()) for block in model.blocks])

    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    model.run_with_hooks(torch.tensor([[1, 5, 6]]), fwd_hooks=[(name, look) for name in names])
    assert there == [[True, False, False], [False, True, False], [False, False, True]]


def test_an_exception_in_a_block_leaves_nothing_behind(llama_folder: Path) -> None:
    model = offload(mcr.load_model(llama_folder, device="cpu"))

    def fail(tensor: torch.Tensor, hook: object) -> None:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        model.run_with_hooks(torch.tensor([[1, 5]]), fwd_hooks=[("blocks.1.hook_mlp_out", fail)])
    assert all(not parameter.numel() for block in model.blocks for parameter in block.parameters())


def test_an_intervention_works_on_an_offloaded_model(llama: Any, llama_folder: Path) -> None:
    model = offload(mcr.load_model(llama_folder, device="cpu"))
    off = mcr.ablate_mlp_write(layers=[1], model=model)
    found = mcr.profile(model, PROMPTS, interventions=off, progress=False)
    expected = mcr.profile(llama, PROMPTS, interventions=off, progress=False)
    assert_same(found, expected)


def test_what_cannot_be_offloaded_is_refused_in_one_line(llama_folder: Path, tmp_path: Path) -> None:
    model = mcr.load_model(llama_folder, device="cpu")
    refused(lambda: offload(model, "cuda:77"), "cuda:77")
    (tmp_path / "file").write_text("x")
    refused(lambda: offload(model, folder=tmp_path / "file" / "below"), "cannot be written")
    # Refused, it is as it was.
    assert profiled(model).data.sizes["layer"] == 3
    refused(lambda: offload(offload(model)), "already")
    refused(lambda: offload(torch.nn.Linear(2, 2)), "HookedTransformer")


def bridged(hugging_face: Any, folder: Path) -> Any:
    """A model that the user loaded, in TransformerLens's wrapper."""
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), hf_model=hugging_face, tokenizer=tokenizer)


def test_a_model_the_user_loaded_profiles_like_ours(llama: Any, llama_folder: Path) -> None:
    model = mcr.load_model(bridged(eager(llama_folder), llama_folder))
    assert_same(profiled(model), profiled(llama))


def test_a_bfloat16_model_the_user_loaded_keeps_its_dtype(llama: Any, llama_folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(
        llama_folder, dtype=torch.bfloat16, attn_implementation="eager"
    )
    found = profiled(mcr.load_model(bridged(loaded, llama_folder)))
    assert found.data.attrs["dtype"] == "bfloat16"
    expected = profiled(mcr.load_model(llama_folder, dtype="bfloat16"))
    assert_same(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_quantised_model_the_user_loaded_is_close_to_the_whole_one(llama: Any, llama_folder: Path) -> None:
    """Eight-bit weights in every linear map of the blocks, by torch's dynamic quantisation."""
    loaded = eager(llama_folder)
    linear = {torch.nn.Linear}
    loaded.model.layers = torch.ao.quantization.quantize_dynamic(loaded.model.layers, linear, torch.qint8)
    assert "quantized" in type(loaded.model.layers[0].mlp.up_proj).__module__
    found, expected = profiled(mcr.load_model(bridged(loaded, llama_folder))), profiled(llama)
    assert found.data.attrs["failed_checks"] == {}
    difference = abs(found.data.sink_score - expected.data.sink_score).max()
    assert 0 < float(difference) < 0.05
