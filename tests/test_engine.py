"""The engine against the oracle, against itself, and against everything that could leak out of it."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from backends import BACKENDS, needs_hooked_transformer
from families import FAMILIES, eager, tiny_folder
from hugging_face_oracle import model_oracle
from planted import planted_folder, planted_hooked_transformer

import mcr_lens as mcr
from mcr_lens.errors import InputError
from mcr_lens.hooks import BatchContext, PromptTable, ResidualObserver, current_context
from mcr_lens.metrics import Estimator
from mcr_lens.models.backend import as_module

ON_BACKENDS = [
    *[pytest.param(family, "bridge", id=f"{family}-bridge") for family in FAMILIES],
    *[
        pytest.param(family, "hooked_transformer", id=f"{family}-hooked", marks=needs_hooked_transformer)
        for family in ("llama", "qwen2")
    ],
]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Any, Any]]:
    """The same random weights as a TransformerLens model and as a Hugging Face model."""
    loaded: dict[tuple[str, str], tuple[Any, Any]] = {}

    def get(family: str, backend: str) -> tuple[Any, Any]:
        if (family, backend) not in loaded:
            folder = tiny_folder(family, tmp_path_factory.mktemp(backend))
            loaded[family, backend] = mcr.load_model(folder, backend=backend), eager(folder)  # type: ignore[arg-type]
        return loaded[family, backend]

    return get


def ragged(n: int = 7, longest: int = 40, seed: int = 0) -> mcr.Prompts:
    """Prompts of many lengths, the first token always the BOS; some longer than d_model = 32."""
    rng = np.random.default_rng(seed)
    lengths = [longest, 2, *rng.integers(3, longest, n - 2)]
    return mcr.Prompts.from_tokens([[1, *rng.integers(3, 64, length - 1).tolist()] for length in lengths])


def assert_same(found: xr.Dataset, expected: xr.Dataset, tolerance: float = 1e-5) -> None:
    assert set(found.data_vars) == set(expected.data_vars)
    for name in found.data_vars:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=str(name)
        )


@pytest.mark.parametrize(("family", "backend"), ON_BACKENDS)
@pytest.mark.parametrize("chunk", [None, 9])
def test_every_variable_equals_the_oracle(load: Any, family: str, backend: str, chunk: int | None) -> None:
    model, reference = load(family, backend)
    prompts = ragged()
    data = mcr.profile(model, prompts, batch_size=3, chunk=chunk, progress=False).data
    for prompt, tokens in enumerate(prompts.tokens):
        expected = model_oracle(reference, tokens)
        assert set(expected) == set(data.data_vars)
        for name, values in expected.items():
            found = data[name].sel(prompt=prompt).values
            absolute = 1e-4 if "entropy" in name else 2e-6
            np.testing.assert_allclose(
                found, values, rtol=1e-4, atol=absolute, err_msg=f"{name} of prompt {prompt}"
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_chunks_and_order_change_nothing(load: Any, backend: str) -> None:
    model, _ = load("llama", backend)
    prompts = ragged(9)
    whole = mcr.profile(model, prompts, batch_size=1, progress=False).data
    ways: list[dict[str, Any]] = [
        {"batch_size": 9},
        {"batch_size": 4, "chunk": 7},
        {"chunk": 1},
        {"chunk": 999},
    ]
    for options in ways:
        assert_same(mcr.profile(model, prompts, progress=False, **options).data, whole)
    order = [4, 2, 8, 0, 6, 1, 3, 7, 5]
    shuffled = mcr.Prompts.from_tokens([prompts.tokens[i] for i in order])
    again = mcr.profile(model, shuffled, progress=False).data
    assert_same(again, whole.isel(prompt=order).assign_coords(prompt=range(9)))


@pytest.mark.parametrize("sink", [1, 5])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_another_sink_position(load: Any, sink: int, family: str) -> None:
    model, reference = load(family, "bridge")
    prompts = mcr.Prompts.from_tokens([tokens for tokens in ragged().tokens if len(tokens) > sink + 1])
    data = mcr.profile(model, prompts, sink_position=sink, chunk=4, progress=False).data
    for prompt, tokens in enumerate(prompts.tokens):
        for name, values in model_oracle(reference, tokens, sink).items():
            np.testing.assert_allclose(
                data[name].sel(prompt=prompt), values, rtol=1e-4, atol=1e-4, err_msg=name
            )


@pytest.mark.parametrize(
    "estimator", [Estimator(preset="layer-by-layer"), Estimator(center=True), Estimator(alpha=2.0)], ids=str
)
def test_estimators_reach_the_profile(load: Any, estimator: Estimator) -> None:
    model, reference = load("llama", "bridge")
    prompts = ragged(3)
    measured = mcr.profile(model, prompts, estimator=estimator, progress=False)
    assert measured.data.attrs["estimator"] == estimator.as_dict()
    for prompt, tokens in enumerate(prompts.tokens):
        expected = model_oracle(reference, tokens, **vars(estimator))
        for name in ("matrix_entropy", "entropy_without_sink", "entropy_bound"):
            np.testing.assert_allclose(measured[name].sel(prompt=prompt), expected[name], atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("emergence", "dissipation"), [((1,), (5,)), ((3,), (4,)), ((1, 3), ()), ((0, 1, 2), (5,)), ((), ())]
)
def test_planted_truth_is_read_back(
    tmp_path: Path, backend: str, emergence: tuple[int, ...], dissipation: tuple[int, ...]
) -> None:
    options = {"emergence": emergence, "dissipation": dissipation, "sink_layers": (2,) if emergence else ()}
    if backend == "bridge":
        model = mcr.load_model(planted_folder(tmp_path, **options))
    else:
        model = planted_hooked_transformer(**options)
    measured = mcr.profile(model, ragged(), progress=False)
    assert measured.emergence_layers() == list(emergence)
    assert measured.dissipation_layers() == list(dissipation)
    found = measured.phases()
    if not emergence:
        assert found.compress is None
        assert (measured.sink_rate() == 0).where(measured.data.n_tokens > 8, True).all()
    else:
        assert found.compress is not None
        first, last = emergence[0] + 1, dissipation[0] if dissipation else 6
        assert found.compress[1] == last
        assert first <= found.compress[0] <= emergence[-1] + 1
        assert (measured.sink_rate().sel(layer=2) == 1).all()


def test_a_first_token_a_million_times_the_rest(tmp_path: Path) -> None:
    folder = planted_folder(tmp_path, emergence=(1,), dissipation=(), ratio=1e6)
    model, reference = mcr.load_model(folder), eager(folder)
    prompts = ragged(5)
    data = mcr.profile(model, prompts, progress=False).data
    assert float(data.norm_ratio.max()) > 5e5
    for prompt, tokens in enumerate(prompts.tokens):
        expected = model_oracle(reference, tokens)
        for name in ("matrix_entropy", "entropy_without_sink", "normalized_entropy_without_sink"):
            np.testing.assert_allclose(data[name].sel(prompt=prompt), expected[name], atol=1e-4)
        for name in ("norm_ratio", "norm_mass_ratio", "anisotropy", "entropy_bound"):
            np.testing.assert_allclose(data[name].sel(prompt=prompt), expected[name], rtol=1e-4)


class CountingObserver:
    """A user's own: how often each layer's MLP hook fired, and the largest write a prompt saw."""

    def __init__(self) -> None:
        self.contexts: list[BatchContext] = []
        self._table = PromptTable("layer", 3)

    def hooks(self) -> list[Any]:
        return [("blocks.2.hook_mlp_out", self._read)]

    def result(self) -> xr.Dataset:
        return self._table.dataset()

    def _read(self, write: torch.Tensor, hook: Any) -> None:
        self.contexts.append(current_context())
        self._table.add(2, {"largest_write": write.abs().amax((1, 2))}, current_context().prompts)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_observer_of_ones_own_sees_what_interventions_left(load: Any, backend: str) -> None:
    model, _ = load("llama", backend)
    silence = [("blocks.2.hook_mlp_out", lambda write, hook: torch.zeros_like(write))]
    prompts = ragged(4)
    observer = CountingObserver()
    before = mcr.measure(model, prompts, [observer], batch_size=2, chunk=16, progress=False)
    assert (before.largest_write.sel(layer=2) > 0).all()
    assert {context.offset for context in observer.contexts} == {0, 16, 32}
    after = mcr.measure(model, prompts, [CountingObserver()], interventions=silence, progress=False)
    assert (after.largest_write.sel(layer=2) == 0).all()
    ablated = mcr.profile(model, prompts, interventions=silence, progress=False).data
    assert (ablated.mlp_write_norm.sel(layer=2) == 0).all()
    assert ablated.attrs["interventions"] == ["blocks.2.hook_mlp_out"]


def fingerprint(model: Any) -> tuple[str, int, list[bool]]:
    """Weights, number of hooks, and modes of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(as_module(model).state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    points = {id(point): point for point in model.hook_dict.values()}.values()
    hooks = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points)
    return digest.hexdigest(), hooks, [module.training for module in as_module(model).modules()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_left_behind(load: Any, backend: str) -> None:
    model, _ = load("llama", backend)
    seen: list[int] = []
    own = model.hook_dict["blocks.0.hook_mlp_out"]
    own.add_hook(lambda tensor, hook: seen.append(1))
    as_module(model).train()
    try:
        before = fingerprint(model)
        mcr.profile(model, ragged(3), progress=False)
        assert fingerprint(model) == before
        calls = len(seen)
        assert calls > 0

        def broken(tensor: torch.Tensor, hook: Any) -> None:
            raise RuntimeError("broken on purpose")

        for chunk in (None, 5):
            with pytest.raises(RuntimeError, match="on purpose"):
                mcr.profile(
                    model,
                    ragged(3),
                    interventions=[("blocks.1.hook_mlp_out", broken)],
                    chunk=chunk,
                    progress=False,
                )
            assert fingerprint(model) == before
            assert current_context() == BatchContext()
        assert len(seen) > calls
    finally:
        own.remove_hooks()
        as_module(model).eval()


def test_hook_names_are_checked(load: Any) -> None:
    model, _ = load("llama", "bridge")
    wrong = [("blocks.1.hook_mlp_outt", lambda tensor, hook: None)]
    with pytest.raises(
        InputError,
        match=r"no hook 'blocks.1.hook_mlp_outt'; its layers are 0..2, and there are blocks.1.hook_mlp_out",
    ):
        mcr.profile(model, ragged(2), interventions=wrong, progress=False)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1, 2, 64]], {}, r"token 64 is outside the vocabulary 0\.\.63"),
        ([[1, 2, -1]], {}, "token -1 is outside"),
        ([[1] * 257], {}, "has 257 tokens, the context of .* is 256: load the prompts with max_tokens=256"),
        ([[1, 2, 3]], {"sink_position": 3}, r"sink_position 3 must lie in 0\.\.2"),
        ([[1, 2, 3]], {"batch_size": 0}, "batch_size 0"),
        ([[1, 2, 3]], {"batch_size": True}, "batch_size True"),
        ([[1, 2, 3]], {"chunk": 0}, "chunk 0"),
        ([[1, 2, 3]], {"chunk": 2.0}, "chunk 2.0"),
        ([[1, 2, 3]], {"chunk": 2, "estimator": Estimator(center=True)}, "needs whole prompts"),
    ],
)
def test_bad_input_is_told_in_one_line(
    load: Any, prompts: list[list[int]], options: dict[str, Any], message: str
) -> None:
    model, _ = load("llama", "bridge")
    with pytest.raises(InputError, match=message) as caught:
        mcr.profile(model, mcr.Prompts.from_tokens(prompts), progress=False, **options)
    assert "\n" not in str(caught.value)


def test_what_a_profile_says_of_its_making(load: Any) -> None:
    model, _ = load("llama", "bridge")
    prompts = ragged(3)
    data = mcr.profile(model, prompts, progress=False).data
    assert data.attrs["backend"] == "bridge"
    assert data.attrs["processing"] == "raw"
    assert data.attrs["prompts"]["digest"] == prompts.digest
    assert {"mcr-lens", "transformer-lens", "torch", "transformers", "numpy"} <= set(data.attrs["versions"])
    assert data.n_tokens.values.tolist() == list(prompts.lengths)
    assert (data.first_token == 1).all()
    assert data.sizes == {"prompt": 3, "depth": 4, "layer": 3, "head": 4, "rank": 4}


def test_equal_tokens_meet_their_bounds(load: Any) -> None:
    """At depth 0 a repeated token gives a matrix of rank one, where value and bound are both infinite."""
    model, _ = load("llama", "bridge")
    measured = mcr.profile(model, mcr.Prompts.from_tokens([[4, 4, 4, 4], [1, 5, 6, 7]]), progress=False)
    for bound in ("entropy", "anisotropy", "dominance"):
        assert (measured.slack(bound) >= 0).all(), bound
        assert (measured.tightness(bound) <= 1).all(), bound
        assert float(measured.tightness(bound).sel(prompt=0, depth=0)) == 1.0


def test_an_observer_can_be_used_again(load: Any) -> None:
    model, _ = load("llama", "bridge")
    observer = ResidualObserver(model)
    mcr.measure(model, ragged(5), [observer], progress=False)
    again = mcr.measure(model, ragged(2), [observer], progress=False)
    assert_same(again, mcr.measure(model, ragged(2), [ResidualObserver(model)], progress=False))


def test_interventions_may_come_from_a_generator(load: Any) -> None:
    model, _ = load("llama", "bridge")
    hooks = ((f"blocks.{layer}.hook_mlp_out", lambda write, hook: write * 0) for layer in (0, 2))
    data = mcr.profile(model, ragged(2), interventions=hooks, progress=False).data  # type: ignore[arg-type]
    assert data.attrs["interventions"] == ["blocks.0.hook_mlp_out", "blocks.2.hook_mlp_out"]
    assert (data.mlp_write_norm.sel(layer=2) == 0).all()


def test_an_observer_cannot_take_the_names_of_the_prompts(llama: Any) -> None:
    class Taking:
        def hooks(self) -> list[Any]:
            return []

        def result(self) -> xr.Dataset:
            return xr.Dataset({"first_token": ("prompt", [1.0])})

    with pytest.raises(InputError, match="returns a variable 'first_token': rename it, others have it"):
        mcr.measure(llama, mcr.Prompts.from_tokens([[1, 2, 3]]), [Taking()], progress=False)


def test_a_plain_profile_loads_few_modules() -> None:
    script = (
        "import sys, mcr_lens as mcr\n"
        "mcr.profile(mcr.load_model('tiny'), 'Ann has 5 pens', progress=False)\n"
        "print(sum(name.startswith('mcr_lens') for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) <= 60
