"""Training checkpoints: where their steps come from, and what each one loads."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.models import checkpoints, model_facts
from mcr_lens.models.backend import as_module
from mcr_lens.tiny import checkpoint_state, checkpoint_steps


def test_the_bundled_checkpoints_are_revisions() -> None:
    found = checkpoints("tiny", "all", backend="bridge")
    assert [checkpoint.step for checkpoint in found] == checkpoint_steps()
    model = found[1].load()
    facts = model_facts(model)
    assert (facts.name, facts.revision, facts.backend) == ("tiny", f"step{found[1].step}", "bridge")
    state = as_module(model).state_dict()
    for name, value in checkpoint_state(found[1].step).items():
        torch.testing.assert_close(state[_found(name, state)], value)
    assert model.tokenizer is not None


def _found(name: str, state: dict[str, Any]) -> str:
    """The bridge wraps modules: the same parts of the name, some more between."""
    parts = name.split(".")
    matches = [key for key in state if [part for part in key.split(".") if part in parts] == parts]
    return min(matches, key=len) if matches else name


def test_the_last_bundled_checkpoint_is_nearly_the_model(bundled_model: Any) -> None:
    """It was stored at one byte a parameter."""
    last = mcr.load_model("tiny", revision=f"step{checkpoint_steps()[-1]}")
    prompts = mcr.load_prompts(mcr.prompts.word_problems(4), bundled_model)
    ours, final = (mcr.profile(model, prompts, progress=False) for model in (last, bundled_model))
    np.testing.assert_allclose(ours["norm_ratio"], final["norm_ratio"], rtol=0.05)


def test_a_step_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no checkpoint of step 3: there are 0, 512"):
        checkpoints("tiny", [0, 3])
    with pytest.raises(InputError, match="tiny has step0, step512"):
        mcr.load_model("tiny", revision="step3")


def test_published_runs_know_their_steps_and_revisions() -> None:
    pythia = checkpoints("EleutherAI/pythia-410m", "all", dtype="bfloat16")
    assert len(pythia) == 154
    assert pythia[-1].options == {"dtype": "bfloat16", "revision": "step143000"}
    thinned = [checkpoint.step for checkpoint in checkpoints("EleutherAI/pythia-410m")]
    assert thinned[0] == 0 and thinned[-1] == 143000 and {512, 1000} < set(thinned) and len(thinned) < 30
    for name in ("stanford-crfm/alias-gpt2-small-x21", "stanford-gpt2-small-a", "alias-gpt2-small-x21"):
        crfm = checkpoints(name, [100, 400000])
        revisions = [checkpoint.options["revision"] for checkpoint in crfm]
        assert revisions == ["checkpoint-100", "checkpoint-400000"]


def test_a_list_that_only_the_hub_has_is_asked_for_in_one_line() -> None:
    with pytest.raises(InputError, match="the list of its checkpoints is on the hub") as caught:
        checkpoints("NeelNanda/SoLU_1L512W_C4_Code")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "steps", "said"),
    [
        ("tiny", "none", "use 'all', 'thinned' or a list"),
        ("tiny", 512, "or a list of whole numbers"),
        ("tiny", [0.5], "or a list of whole numbers"),
        (5, "all", "give a name, folders, or a mapping"),
        ({"a": "folder"}, "all", "'a' is no step"),
    ],
)
def test_what_is_no_source_or_step_is_refused(source: Any, steps: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        checkpoints(source, steps)


def test_other_names_need_their_steps_or_a_mapping() -> None:
    with pytest.raises(InputError, match="knows no checkpoints of it; give steps"):
        checkpoints("some-org/some-model")
    (one,) = checkpoints("some-org/some-model", [5])
    assert (one.source, one.options) == ("some-org/some-model", {"revision": "step5"})
    (two,) = checkpoints({7: "some-org/some-model@stage1-step7-tokens3B"})
    assert (two.step, two.source, two.options["revision"]) == (
        7,
        "some-org/some-model",
        "stage1-step7-tokens3B",
    )


def test_local_folders_by_the_number_in_their_names(llama_folder: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-200", "checkpoint-50"):
        shutil.copytree(llama_folder, tmp_path / name)
    found = checkpoints(tmp_path)
    assert [checkpoint.step for checkpoint in found] == [50, 200]
    assert model_facts(found[0].load()).n_layers == 3
    assert checkpoints([tmp_path / "checkpoint-50"])[0].step == 50
    assert checkpoints({3: tmp_path / "checkpoint-50"})[0].step == 3
    shutil.copytree(llama_folder, tmp_path / "other-50")
    with pytest.raises(InputError, match="both of step 50: give a mapping"):
        checkpoints(tmp_path)
    with pytest.raises(InputError, match="no step in the folder's name"):
        checkpoints([tmp_path / "nameless"])
    with pytest.raises(InputError, match="at least one folder"):
        checkpoints([])
