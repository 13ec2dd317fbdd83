"""What comes from elsewhere is read as tensors, and runs no code unless that is asked for."""

from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from backends import needs_hooked_transformer
from transformers import AutoModelForCausalLM

import mcr_lens as mcr
from mcr_lens.models import model_facts
from mcr_lens.models.load_checks import tensors_only

PACKAGE = Path(mcr.__file__).parent


class Trap:
    """Unpickled, it opens a file for writing."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return (open, (str(self.proof), "w"))


def refused(source: Any, *parts: str, **options: Any) -> None:
    with pytest.raises(mcr.InputError) as raised:
        mcr.load_model(source, **options)
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_folder, tmp_path / "copy"))


@pytest.fixture
def with_code(folder: Path) -> tuple[Path, Path]:
    """A folder whose model is code of its own that leaves a proof when it is imported; and the proof."""
    proof = folder.parent / "it-was-run"
    (folder / "own.py").write_text(
        f"open({str(proof)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class LlamaForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.LlamaForCausalLM"}}
    config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config))
    return folder, proof


def test_code_of_a_model_is_run_only_when_asked_for(with_code: tuple[Path, Path]) -> None:
    folder, proof = with_code
    for options in ({}, {"trust_remote_code": False}):
        refused(folder, "trust_remote_code=True", **options)
        assert not proof.exists()
    model = mcr.load_model(folder, trust_remote_code=True)
    assert proof.exists()
    assert type(model.original_model).__module__.startswith("transformers_modules")
    profile = mcr.profile(model, mcr.Prompts.from_tokens([[1, 5, 6, 7]]), progress=False)
    assert profile.data.sizes["layer"] == 3


@needs_hooked_transformer
def test_names_do_not_switch_code_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens does, for a list of them that holds Qwen3, phi and gpt-oss."""
    asked: list[Any] = []

    def look(name: str, **options: Any) -> Any:
        asked.append(options["trust_remote_code"])
        raise OSError("far enough")

    monkeypatch.setattr("transformer_lens.loading_from_pretrained.AutoConfig.from_pretrained", look)
    for name in ("Qwen/Qwen3-0.6B", "microsoft/phi-2", "Qwen/Qwen-1_8B", "gpt2"):
        refused(name, "could not be loaded")
    assert asked == [False] * 4
    refused("microsoft/phi-2", "could not be loaded", trust_remote_code=True)
    assert asked[4:] == [True]


def pickled(folder: Path, tensors: dict[str, Any]) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")


def test_pickled_weights_are_refused_with_the_way_out(folder: Path) -> None:
    """Harmless ones too: nobody can tell before reading them."""
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    pickled(folder, weights)
    refused(folder, "pytorch_model.bin", "pickled", "model.safetensors", "save_pretrained")
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    refused(folder, "pytorch_model-00001-of-00001.bin", "pickled")


def test_pickles_beside_safetensors_are_not_read(folder: Path) -> None:
    proof = folder.parent / "it-was-run"
    torch.save({"model.embed_tokens.weight": Trap(proof)}, folder / "pytorch_model.bin")
    assert model_facts(mcr.load_model(folder)).n_layers == 3
    assert not proof.exists()


def test_an_index_that_leads_to_a_pickle_runs_nothing(folder: Path) -> None:
    proof = folder.parent / "it-was-run"
    names = list(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    (folder / "model.safetensors").unlink()
    torch.save({names[0]: Trap(proof)}, folder / "trap.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "trap.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "could not be loaded")
    assert not proof.exists()


def test_a_configuration_that_leads_to_a_pickle_runs_nothing(folder: Path) -> None:
    proof = folder.parent / "it-was-run"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))
    torch.save({"model.embed_tokens.weight": Trap(proof)}, folder / "adapter_model.bin")
    refused(folder, "could not be loaded")
    assert not proof.exists()


def test_a_configuration_may_name_the_weights_that_are_there(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "model.safetensors"}))
    assert model_facts(mcr.load_model(folder)).n_layers == 3


def test_loaders_of_others_unpickle_tensors_only(tmp_path: Path) -> None:
    """TransformerLens reads some names with weights_only=False."""
    proof = tmp_path / "it-was-run"
    torch.save({"x": Trap(proof)}, tmp_path / "trap.pth")
    before = dict(os.environ)
    with pytest.raises(Exception, match=r"[Ww]eights only"), tensors_only():
        torch.load(tmp_path / "trap.pth", weights_only=False)
    assert not proof.exists()
    torch.save({"x": torch.ones(2)}, tmp_path / "plain.pth")
    with tensors_only():
        assert torch.load(tmp_path / "plain.pth", weights_only=False)["x"].tolist() == [1, 1]
    assert dict(os.environ) == before


def test_a_user_who_has_switched_pickles_on_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof = tmp_path / "it-was-run"
    torch.save({"x": Trap(proof)}, tmp_path / "trap.pth")
    with pytest.raises(Exception, match=r"[Ww]eights only"), tensors_only():
        torch.load(tmp_path / "trap.pth")
    assert not proof.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


def test_a_tuned_lens_runs_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "it-was-run"
    (tmp_path / "lens").mkdir()
    config = {"num_hidden_layers": 1, "d_model": 2, "lens_type": "linear_tuned_lens"}
    (tmp_path / "lens" / "config.json").write_text(json.dumps(config))
    torch.save({"0.weight": Trap(proof), "0.bias": torch.zeros(2)}, tmp_path / "lens" / "params.pt")
    from mcr_lens.hooks.lenses.translators import Translators

    with pytest.raises(mcr.InputError, match="not a plain file of tensors"):
        Translators.load(tmp_path / "lens", allow_pickle=True)
    with pytest.raises(mcr.InputError, match=r"params.pt is pickled"):
        Translators.load(tmp_path / "lens")
    assert not proof.exists()


def calls() -> list[tuple[str, ast.Call]]:
    return [
        (ast.unparse(node.func), node)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_the_package_itself_unpickles_nothing_but_tensors() -> None:
    imported = {
        alias.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "yaml"}
    loads = [node for name, node in calls() if name.endswith(("torch.load", ".read_pickle"))]
    for node in loads:
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert options.get("weights_only") == "True", ast.unparse(node)
    assert loads, "the search finds nothing: has the package changed?"


def test_nothing_asks_for_code_from_elsewhere() -> None:
    for name, node in calls():
        for keyword in node.keywords:
            if keyword.arg == "trust_remote_code":
                assert ast.unparse(keyword.value) in ("False", "trust_remote_code"), f"{name} asks for it"
        assert name not in ("eval", "exec"), ast.unparse(node)
