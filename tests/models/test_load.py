"""Names, folders and models in memory: raw weights, or one line that names the way out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backends import BACKENDS
from families import FAMILIES, eager, save_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BertConfig, T5Config

import mcr_lens as mcr
from mcr_lens.models import backend_of, model_facts
from mcr_lens.models.backend import has_hooked_transformer
from mcr_lens.models.info import record_origin

TOKENS = torch.tensor([[1, *range(3, 40)], [1, *range(20, 57)]])


def refused(source: Any, *parts: str, **options: Any) -> None:
    """Loading raises InputError in one line that holds every part."""
    with pytest.raises(mcr.InputError) as raised:
        mcr.load_model(source, **options)
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def assert_same_function(model: Any, folder: Path) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), eager(folder)(TOKENS).logits, atol=2e-5, rtol=0)


@pytest.fixture
def folder_copy(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may break."""
    return Path(shutil.copytree(llama_folder, tmp_path / "copy"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_the_hugging_face_model(family: str, family_folder: Callable[[str], Path]) -> None:
    folder = family_folder(family)
    model = mcr.load_model(folder)
    assert backend_of(model) == "bridge"
    assert_same_function(model, folder)
    facts = model_facts(model)
    assert facts.failed_checks == {}
    assert facts.processing == "raw"
    assert facts.name == str(folder)
    assert model.tokenizer.bos_token == "<bos>"


def test_what_makes_another_model_of_it_is_told(llama_folder: Path, tmp_path: Path) -> None:
    """A result says so where the weights or the configuration are not those of its source, but no secret."""
    changed = {"hf_config_overrides": {"num_hidden_layers": 2}, "load_weights": False, "model_class": dict}
    prompts = mcr.Prompts.from_tokens([[1, 3, 4, 5]])
    plain = mcr.profile(mcr.load_model(llama_folder), prompts, progress=False).data
    assert "load_options" not in plain.attrs
    model = mcr.load_model(llama_folder, load_weights=False, hf_config_overrides={"num_hidden_layers": 2})
    profile = mcr.profile(model, prompts, progress=False)
    assert profile.data.attrs["load_options"] == {
        "load_weights": "False",
        "hf_config_overrides": "{num_hidden_layers: 2}",
    }
    loaded = mcr.Profile.load(profile.save(tmp_path / "run.nc"))
    assert loaded.data.attrs == profile.data.attrs
    record_origin(model, "x", None, changed | {"token": "hf_secret"})
    assert model_facts(model).load_options == {
        "hf_config_overrides": "{num_hidden_layers: 2}",
        "load_weights": "False",
        "model_class": "type",
    }


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.usefixtures("hooked_transformer")
def test_a_folder_as_hooked_transformer(family: str, family_folder: Callable[[str], Path]) -> None:
    folder = family_folder(family)
    model = mcr.load_model(str(folder), backend="hooked_transformer")
    assert backend_of(model) == "hooked_transformer"
    assert_same_function(model, folder)
    facts = model_facts(model)
    assert facts.failed_checks == {}
    assert facts.processing == "raw"
    assert not model.training


@pytest.mark.usefixtures("hooked_transformer")
def test_both_backends_see_the_same_residual_stream(llama: Any, llama_folder: Path) -> None:
    """Raw weights: nothing folded, nothing centred."""
    hooked = mcr.load_model(llama_folder, backend="hooked_transformer")
    seen: list[dict[str, torch.Tensor]] = []
    for model in (llama, hooked):
        kept: dict[str, torch.Tensor] = {}
        names = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
        hooks = [
            (name, lambda tensor, hook, name=name, kept=kept: kept.update({name: tensor.clone()}))
            for name in names
        ]
        with torch.no_grad():
            model.run_with_hooks(TOKENS, fwd_hooks=hooks)
        seen.append(kept)
    for name in seen[0]:
        torch.testing.assert_close(seen[1][name], seen[0][name], atol=2e-5, rtol=1e-5)


def test_the_bundled_model_by_name(bundled_model: Any) -> None:
    facts = model_facts(bundled_model)
    assert facts.name == "tiny"
    assert facts.backend == ("hooked_transformer" if has_hooked_transformer() else "bridge")
    assert facts.failed_checks == {}
    tokens = torch.arange(20)[None]
    bridge = mcr.load_model("tiny", backend="bridge")
    assert backend_of(bridge) == "bridge"
    with torch.no_grad():
        torch.testing.assert_close(bundled_model(tokens), bridge(tokens), atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.float64])
def test_other_precisions(dtype: Any, llama_folder: Path) -> None:
    model = mcr.load_model(llama_folder, dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {parameter.dtype for parameter in model.original_model.parameters()} == {wanted}
    assert model_facts(model).dtype == str(wanted).removeprefix("torch.")


def test_models_in_memory_are_returned_as_they_are(llama: Any) -> None:
    assert mcr.load_model(llama) is llama
    assert mcr.load_model(llama, backend="bridge") is llama


@pytest.mark.usefixtures("hooked_transformer")
def test_a_model_in_memory_of_the_other_class(llama: Any) -> None:
    refused(llama, "is a bridge, not a hooked_transformer", backend="hooked_transformer")


def test_what_is_no_model(llama_folder: Path) -> None:
    refused(eager(llama_folder), "LlamaForCausalLM is not a HookedTransformer", "load_model")
    refused(None, "NoneType is not")
    refused(3, "int is not")


def test_arguments_that_do_not_exist(llama_folder: Path) -> None:
    refused(llama_folder, "'nnsight'", "'auto'", "'bridge'", backend="nnsight")
    refused(llama_folder, "'float12'", "float32, bfloat16, float16", dtype="float12")
    refused(llama_folder, "torch.int8", "float32, bfloat16, float16", dtype=torch.int8)
    refused(llama_folder, "device 'nowhere' cannot be used", "'cpu'", device="nowhere")
    refused(llama_folder, "revision", "hub", revision="step1000")


def test_a_device_that_is_not_there(llama_folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device that the test expects to be missing")
    refused(llama_folder, "device 'cuda' cannot be used", "'cpu'", device="cuda")


@pytest.mark.parametrize("source", ["gpt2", "tiny", "folder"])
def test_a_missing_backend(source: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcr_lens.models.backend.has_hooked_transformer", lambda: False)
    way_out = ("removed in TransformerLens 4", "backend='bridge'", "transformer-lens<4")
    refused(llama_folder if source == "folder" else source, *way_out, backend="hooked_transformer")


@pytest.mark.usefixtures("hooked_transformer")
def test_families_without_a_conversion(family_folder: Callable[[str], Path]) -> None:
    folder = family_folder("gemma2")
    refused(folder, "Gemma2ForCausalLM", "backend='bridge'", backend="hooked_transformer")
    refused("no-such-org/no-such-name", "not a HookedTransformer name", backend="hooked_transformer")


@pytest.mark.usefixtures("hooked_transformer")
def test_device_map_needs_the_bridge(llama_folder: Path) -> None:
    options = {"device_map": "auto", "backend": "hooked_transformer"}
    refused(llama_folder, "device_map", "backend='bridge'", **options)


@pytest.mark.parametrize("name", ["gpt2", "EleutherAI/pythia-14m", "no-such-org/no-such-model"])
def test_offline_names_fail_at_once(name: str) -> None:
    """Not after minutes of retries; the bound is a guard against those, not a speed."""
    started = time.monotonic()
    refused(name, name, "'tiny'", "local cache", "local Hugging Face folder")
    assert time.monotonic() - started < 60


def test_paths_that_are_no_folders(tmp_path: Path, llama_folder: Path) -> None:
    refused(tmp_path / "none", "not a folder")
    refused("./none", "not a folder")
    refused(llama_folder / "config.json", "not a folder")
    refused(tmp_path, "no config.json")


def test_a_folder_without_weights(folder_copy: Path) -> None:
    (folder_copy / "model.safetensors").unlink()
    refused(folder_copy, "could not be loaded")


def test_cut_weights(folder_copy: Path) -> None:
    weights = folder_copy / "model.safetensors"
    content = weights.read_bytes()
    for length in (0, 5, len(content) // 2):
        weights.write_bytes(content[:length])
        refused(folder_copy, "could not be loaded")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"model_type": "no-such-type"}', "{}"])
def test_a_broken_configuration(content: str, folder_copy: Path) -> None:
    (folder_copy / "config.json").write_text(content)
    refused(folder_copy, str(folder_copy))


def test_encoders_are_refused(tmp_path: Path) -> None:
    BertConfig(architectures=["BertForMaskedLM"], num_hidden_layers=1).save_pretrained(tmp_path)
    refused(tmp_path, "BertForMaskedLM is not a decoder language model", "ForCausalLM")
    if has_hooked_transformer():
        refused(tmp_path, "BertForMaskedLM is not a decoder", backend="hooked_transformer")


def test_encoder_decoders_are_refused(tmp_path: Path) -> None:
    T5Config(architectures=["T5ForConditionalGeneration"], num_layers=1).save_pretrained(tmp_path)
    refused(tmp_path, "T5ForConditionalGeneration is not a decoder language model")


def test_a_folder_without_a_tokenizer(folder_copy: Path, llama_folder: Path) -> None:
    """A HookedTransformer takes token lists; the bridge needs a tokenizer and says so."""
    for path in folder_copy.glob("tokenizer*"):
        path.unlink()
    if has_hooked_transformer():
        model = mcr.load_model(folder_copy, backend="hooked_transformer")
        with pytest.raises(mcr.InputError, match="from_tokens"):
            mcr.Prompts.from_texts(["a b"], model)
        profile = mcr.profile(model, mcr.Prompts.from_tokens([[1, 5, 6]]), progress=False)
        assert profile.data.sizes["prompt"] == 1
    refused(folder_copy, "the folder has no tokenizer", "tokenizer=...")
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    assert mcr.load_model(folder_copy, tokenizer=tokenizer).tokenizer.bos_token == "<bos>"


@pytest.mark.parametrize("backend", ["bridge", "hooked_transformer"])
def test_code_in_a_folder_is_not_run(backend: Any, folder_copy: Path, tmp_path: Path) -> None:
    if backend == "hooked_transformer" and not has_hooked_transformer():
        pytest.skip("needs HookedTransformer, which TransformerLens 4 no longer has")
    proof = tmp_path / "it-was-run"
    (folder_copy / "trap.py").write_text(f"open({str(proof)!r}, 'w')\n")
    config = json.loads((folder_copy / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "trap.Config", "AutoModelForCausalLM": "trap.Model"}}
    config["model_type"] = "trap"
    (folder_copy / "config.json").write_text(json.dumps(config))
    refused(folder_copy, "could not be loaded", "custom code", backend=backend)
    assert not proof.exists()


def test_pickled_weights_are_not_read(folder_copy: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it-was-run"

    class Trap:
        def __reduce__(self) -> Any:
            return (open, (str(proof), "w"))

    (folder_copy / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Trap()}, folder_copy / "pytorch_model.bin")
    refused(folder_copy, "could not be loaded")
    assert not proof.exists()


def test_the_revision_is_remembered(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a revision, without the network: the loaders are replaced."""
    from transformer_lens.model_bridge import TransformerBridge

    original, asked = TransformerBridge.boot_transformers, []

    def boot(name: str, **options: Any) -> Any:
        asked.append((name, options.pop("revision", None)))
        return original(str(llama_folder), **options)

    monkeypatch.setattr(TransformerBridge, "boot_transformers", boot)
    facts = model_facts(mcr.load_model("some-org/some-name", revision="step1000", backend="bridge"))
    assert asked == [("some-org/some-name", "step1000")]
    assert (facts.name, facts.revision) == ("some-org/some-name", "step1000")
    assert facts.attributes()["revision"] == "step1000"


def test_loading_is_quiet(folder_copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_tokenizer(folder_copy)
    mcr.load_model(folder_copy)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize(
    "options",
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention"] * 3},
        ),
    ],
    ids=str,
)
def test_a_conversion_that_loses_something_is_refused(
    options: tuple[str, dict[str, Any]],
    family_folder: Callable[[str], Path],
    tmp_path: Path,
    hooked_transformer: type,
) -> None:
    family, changes = options
    config = AutoConfig.from_pretrained(family_folder(family), **changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.25)
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    refused(tmp_path, "another function", "backend='bridge'", backend="hooked_transformer")
    assert_same_function(mcr.load_model(tmp_path), tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_that_lack_weights_are_refused(backend: Any, llama_folder: Path, tmp_path: Path) -> None:
    """The loader would draw them at random, others each time."""
    folder = tmp_path / "partial"
    shutil.copytree(llama_folder, folder)
    whole = load_file(folder / "model.safetensors")
    some = {name: tensor for name, tensor in whole.items() if "layers.1.mlp" not in name}
    save_file(some, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "partial: the files lack model.layers.1.mlp.", "random numbers", backend=backend)


@pytest.mark.usefixtures("hooked_transformer")
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_folder_whose_tokenizer_pads_on_either_side(side: str, llama_folder: Path, tmp_path: Path) -> None:
    """Token 0, the padding, stands in what the conversion is compared on."""
    folder = Path(shutil.copytree(llama_folder, tmp_path / "copy"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": side}))
    model = mcr.load_model(folder, backend="hooked_transformer")
    assert model.tokenizer.padding_side == side
    assert_same_function(model, folder)
