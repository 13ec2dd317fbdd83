"""Fixtures of the whole suite: offline, one torch thread, tiny random models made once a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before anything imports the libraries: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from families import tiny_folder
from hypothesis import HealthCheck, settings

import mcr_lens as mcr
from mcr_lens.models.backend import has_hooked_transformer
from mcr_lens.tiny import weights_folder

# Tensors here are so small that a second thread only costs time.
torch.set_num_threads(1)

# A slow machine is no failure, and function-scoped folders may be reused between examples.
# Where the outcome decides, the examples are the same every time; at one's desk they are new ones.
settings.register_profile(
    "mcr_lens",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("mcr_lens")

ROOT = Path(__file__).parent.parent

# Files that fuzz tests drew, by test: (read, refused). In the process that reports, whichever ran the test.
_FUZZED: dict[str, tuple[int, int]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take in what a fuzz test has counted (see ``fuzz/counted.py``)."""
    for name, counted in report.user_properties:
        if name == "fuzzed inputs":
            read, refused = counted  # type: ignore[misc]
            _FUZZED[report.nodeid] = (read, refused)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many files the fuzz tests drew, so that nobody has to believe it."""
    if not _FUZZED:
        return
    terminalreporter.section("fuzzed inputs")
    for test, (read, refused) in sorted(_FUZZED.items()):
        terminalreporter.write_line(f"{read + refused:7,} = {read:6,} read + {refused:6,} refused  {test}")
    total = sum(map(sum, _FUZZED.values()))
    terminalreporter.write_line(f"{total:7,} in all, by {len(_FUZZED)} tests")


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny random Hugging Face folder of a family, made once. Tests must not write into it."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tiny_folder(family, tmp_path_factory.mktemp("families"))
        return made[family]

    return folder


@pytest.fixture(scope="session")
def llama_folder(family_folder: Callable[[str], Path]) -> Path:
    """A tiny random Llama folder with its tokenizer. Tests must not write into it."""
    return family_folder("llama")


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Any:
    """The tiny random Llama as a TransformerBridge. Tests must leave it as it is."""
    return mcr.load_model(llama_folder)


@pytest.fixture(scope="session")
def hooked_transformer() -> type:
    """The class ``HookedTransformer``; what needs it is skipped where TransformerLens has none."""
    if not has_hooked_transformer():
        pytest.skip("needs HookedTransformer, which TransformerLens 4 no longer has")
    from transformer_lens import HookedTransformer  # type: ignore[attr-defined]

    return HookedTransformer


@pytest.fixture(scope="session")
def llama_profile(llama: Any) -> mcr.Profile:
    """A profile of the tiny random Llama on three prompts of different length. Read only."""
    prompts = mcr.Prompts.from_tokens([[1, *range(3, 15)], [1, *range(20, 26)], [1, *range(30, 40)]])
    return mcr.profile(llama, prompts, progress=False)


@pytest.fixture(scope="session")
def bundled_model() -> Any:
    """The bundled model, on the backend that ``load_model`` chooses."""
    if not (weights_folder() / "config.json").is_file():
        pytest.skip("the bundled model is not there: mcr_lens/tiny/weights has no config.json")
    return mcr.load_model("tiny")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The text data sets beside the repository, which are not shipped."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the data sets in {folder}, which are not part of the repository")
    return folder
