"""Several massive tokens: lists of positions, and the sets that "auto" finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import eager, tiny_folder
from hugging_face_oracle import model_oracle
from planted import BOS, planted_folder

import mcr_lens as mcr
from mcr_lens.metrics.massive_rows import LargestRows, massive_rows

MARKED = 2
# Where massive tokens stand in each prompt.
SETS = [(0,), (0, 1), (0, 20), (40,), (), (0, 7, 30)]
EXPECTED = [*SETS, (0,), (0,), (0,)]
# What a set measures of itself; its primary token may be another one where two are as large.
OF_THE_SET = (
    "entropy_without_sink",
    "anisotropy_without_sink",
    "sink_mass_ratio",
    "sink_score",
    "sink_attention",
)


def prompt_with(positions: tuple[int, ...], length: int, seed: int) -> list[int]:
    tokens = np.random.default_rng(seed).integers(3, 64, length)
    tokens[list(positions)] = MARKED
    tokens[0] = BOS if 0 in positions else tokens[0]
    return tokens.tolist()


PROMPTS = mcr.Prompts.from_tokens(
    [prompt_with(positions, 45 + 3 * seed, seed) for seed, positions in enumerate(SETS)]
    + [prompt_with((0,), length, length) for length in (4, 8, 12)]
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    options: dict[str, Any] = {"sink_layers": (2,), "marked": (BOS, MARKED)}
    folder = planted_folder(tmp_path_factory.mktemp("planted"), **options)
    return mcr.load_model(folder), eager(folder)


def sets_of(profile: mcr.Profile) -> list[tuple[int, ...]]:
    return [tuple(p for p in row if p >= 0) for row in profile.data.sink_positions.values.tolist()]


@pytest.fixture(scope="module")
def found(planted: tuple[Any, Any]) -> mcr.Profile:
    return mcr.profile(planted[0], PROMPTS, sink_position="auto", progress=False)


def test_auto_finds_each_prompts_set(found: mcr.Profile) -> None:
    assert [tuple(sorted(each)) for each in sets_of(found)] == EXPECTED
    assert found.data.attrs["sink_position"] == "auto"


def test_every_variable_of_a_set_equals_the_oracle(found: mcr.Profile, planted: tuple[Any, Any]) -> None:
    for prompt, (tokens, sinks) in enumerate(zip(PROMPTS.tokens, sets_of(found), strict=True)):
        if not sinks:
            continue
        for name, values in model_oracle(planted[1], tokens, sinks).items():
            absolute = 1e-4 if "entropy" in name else 2e-6
            seen = found.data[name].sel(prompt=prompt)
            message = f"{name} of prompt {prompt}"
            np.testing.assert_allclose(seen, values, rtol=1e-4, atol=absolute, err_msg=message)


def test_a_prompt_without_a_massive_token_has_no_kappa(found: mcr.Profile) -> None:
    at = {"prompt": SETS.index(())}
    for derived in ("sink_compression", "mass_share", "half_length", "reach"):
        np.testing.assert_array_equal(found[derived].isel(at), 0)
    assert (found.data.largest_rest_share.isel(at) < 0.5).all()


def test_leaving_out_one_of_two_fails_where_leaving_out_both_tells(
    found: mcr.Profile, planted: tuple[Any, Any]
) -> None:
    two = [prompt for prompt, positions in enumerate(EXPECTED) if len(positions) > 1]
    first = mcr.profile(planted[0], PROMPTS, progress=False)
    assert not (first.sink_compression().isel(prompt=two) > 0).any()
    assert (found.sink_compression().isel(prompt=two, depth=3) > 0.8).all()
    chosen = mcr.Profile(found.data.isel(prompt=two)).phases(confidence=None)
    assert chosen.compress == (2, 5)
    assert chosen.other_massive_token is None


@pytest.mark.parametrize(
    "options", [{"chunk": 7}, {"batch_size": 1}, {"batch_size": 9, "chunk": 16}], ids=str
)
def test_batches_and_chunks_change_nothing(
    found: mcr.Profile, planted: tuple[Any, Any], options: dict[str, Any]
) -> None:
    again = mcr.profile(planted[0], PROMPTS, sink_position="auto", progress=False, **options)
    assert [{*each} for each in sets_of(again)] == [{*each} for each in sets_of(found)]
    one = [prompt for prompt, sinks in enumerate(sets_of(found)) if len(sinks) < 2]
    for name, values in found.data.data_vars.items():
        at = {"prompt": range(len(PROMPTS)) if name in OF_THE_SET else one}
        now, before = again.data[name].isel(at), values.isel(at)
        np.testing.assert_allclose(now, before, rtol=1e-5, atol=1e-5, err_msg=str(name))


@pytest.mark.parametrize("chunk", [None, 9])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_list_of_positions_equals_the_oracle(tmp_path: Path, family: str, chunk: int | None) -> None:
    folder = tiny_folder(family, tmp_path)
    model, reference = mcr.load_model(folder), eager(folder)
    prompts = mcr.Prompts.from_tokens([prompt_with((0,), length, length) for length in (40, 9, 24)])
    data = mcr.profile(model, prompts, sink_position=[5, 0], chunk=chunk, progress=False).data
    assert data.attrs["sink_position"] == [5, 0]
    assert data.sink_positions.values.tolist() == [[5, 0, -1, -1]] * 3
    for prompt, tokens in enumerate(prompts.tokens):
        expected = model_oracle(reference, tokens, (5, 0))
        assert set(expected) == set(data.data_vars)
        for name, values in expected.items():
            seen = data[name].sel(prompt=prompt)
            np.testing.assert_allclose(seen, values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_random_model_has_no_massive_token(llama: Any) -> None:
    """Kappa is 0 there, and what the first token is measured by is as ever."""
    prompts = mcr.Prompts.from_tokens([prompt_with((0,), length, length) for length in (2, 5, 30)])
    auto = mcr.profile(llama, prompts, sink_position="auto", progress=False)
    plain = mcr.profile(llama, prompts, progress=False)
    assert sets_of(auto) == [(), (), ()]
    assert sets_of(plain) == [(0,), (0,), (0,)]
    for name in ("sink_score", "norm_ratio", "entropy_bound", "mlp_write_along", "matrix_entropy"):
        np.testing.assert_array_equal(auto.data[name], plain.data[name])
    assert auto.phases(confidence=None).compress is None


def test_a_profile_with_sets_is_saved_and_told(found: mcr.Profile, tmp_path: Path) -> None:
    again = mcr.Profile.load(found.save(tmp_path / "sets.nc"))
    assert sets_of(again) == sets_of(found)
    np.testing.assert_array_equal(again.sink_compression(), found.sink_compression())
    assert all("nan" not in sentence for sentence in mcr.results.findings(found))


@pytest.mark.parametrize(
    "norms", [(60.0, 55.0), (60.0, 60.0), (1e6, 1e6, 9e5), (1e6, 300.0), (60.0,)], ids=str
)
@pytest.mark.parametrize("chunk", [5, 128])
def test_planted_rows_are_found(norms: tuple[float, ...], chunk: int) -> None:
    """Norms in units of those of the others, which have a common direction."""
    x = np.random.default_rng(len(norms)).standard_normal((2, 128, 48)) + 1.0
    places = [[70, 3, 99], [0, 1, 2]]
    for rows, at in zip(x, places, strict=True):
        for place, norm in zip(at, norms, strict=False):
            rows[place] *= norm
    state = LargestRows(torch.tensor([128, 110]))
    for start in range(0, 128, chunk):
        state.update(torch.from_numpy(x[:, start : start + chunk]), start)
    for massive, at in zip(state.massive(), places, strict=True):
        assert {*massive.positions} == {*at[: len(norms)]}
        assert massive.compression > 0.5


def test_rows_without_a_massive_one() -> None:
    x = np.random.default_rng(0).standard_normal((30, 200)) + 0.5
    assert massive_rows(x @ x.T).positions == ()
    assert massive_rows(np.zeros((5, 5))).positions == ()
    assert massive_rows(np.full((5, 5), np.nan)).positions == ()
    assert massive_rows(np.eye(2)).positions == ()


@pytest.mark.parametrize("wrong", [[0, 0], [], [0, 1, 2, 3, 4], -1, "first", [99]])
def test_wrong_positions_are_told_in_one_line(llama: Any, wrong: Any) -> None:
    with pytest.raises(mcr.InputError, match="sink_position") as caught:
        mcr.profile(llama, mcr.Prompts.from_tokens([[1, 2, 3]]), sink_position=wrong, progress=False)
    assert "\n" not in str(caught.value)
