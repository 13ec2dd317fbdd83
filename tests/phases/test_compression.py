"""kappa, mass share, half length and reach against formulas, and the verdicts on curves known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens import phases
from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.phases.compression import outweighing_token


def measured(*prompts: np.ndarray, sinks: tuple[int, ...] = (0,), **attributes: object) -> xr.Dataset:
    """The residual stream of some prompts at one depth, as a profile's dataset."""
    lengths = [len(rows) for rows in prompts]
    batch = np.zeros((len(prompts), max(lengths), prompts[0].shape[1]))
    for block, rows in zip(batch, prompts, strict=True):
        block[: len(rows)] = rows
    state = ResidualState(torch.tensor(lengths), sinks)
    state.update(torch.from_numpy(batch))
    values = state.result()
    data = {name: (("prompt", "depth"), value.numpy()[:, None]) for name, value in values.items()}
    coords = {"n_tokens": ("prompt", lengths), "sink_positions": (("prompt", "rank"), [sinks] * len(lengths))}
    return xr.Dataset(data, coords=coords, attrs=attributes)


def orthogonal(share: float, rest: np.ndarray) -> np.ndarray:
    """A sink row orthogonal to the others that holds a share of the squared mass."""
    size = math.sqrt(share / (1 - share) * (rest**2).sum())
    top = np.zeros((1, rest.shape[1] + 1))
    top[0, -1] = size
    return np.vstack([top, np.pad(rest, ((0, 0), (0, 1)))])


def h(w: float) -> float:
    return -w * math.log(w) - (1 - w) * math.log(1 - w)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 0.9999), st.integers(3, 20), st.integers(2, 30))
def test_kappa_of_an_orthogonal_sink_is_the_formula(seed: int, share: float, n: int, width: int) -> None:
    rest = np.random.default_rng(seed).normal(size=(n, width))
    data = measured(orthogonal(share, rest))
    if float(data.entropy_without_sink[0, 0]) < 0.05:
        assert np.isnan(phases.sink_compression(data)).all()
        return
    expected = share - h(share) / float(data.entropy_without_sink[0, 0])
    assert phases.sink_compression(data).item() == pytest.approx(expected, abs=1e-10)
    assert phases.mass_share(data).item() == pytest.approx(share, abs=1e-10)


def entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize("width", [12, 60])
@pytest.mark.parametrize("factor", [1.0, 30.0, 1e6])
def test_kappa_of_three_orthogonal_sinks_is_the_formula(width: int, factor: float) -> None:
    rest = np.random.default_rng(0).normal(size=(20, width))
    sizes = factor * np.array([4.0, 9.0, 5.0])
    x = np.zeros((23, width + 3))
    x[:20, :width] = rest
    x[[20, 21, 22], [width, width + 1, width + 2]] = sizes
    data = measured(x, sinks=(21, 20, 22), d_model=width + 3)
    mass, others = (sizes**2).sum(), (rest**2).sum()
    w, own = mass / (mass + others), entropy(sizes**2 / mass)
    h_of_w = -w * math.log(w) + others / (mass + others) * math.log1p(mass / others)
    expected = w - (h_of_w + w * own) / float(data.entropy_without_sink[0, 0])
    assert phases.sink_compression(data).item() == pytest.approx(expected, abs=1e-10)
    assert phases.mass_share(data).item() == pytest.approx(w, rel=1e-12)
    rho = 20 * mass / others
    assert phases.half_length(data).item() == pytest.approx(3 + rho)
    if factor < 100:
        normalized = float(data.normalized_entropy_without_sink[0, 0])
        assert phases.reach(data).item() == plain_reach(rho, normalized, width + 3, n_sinks=3)


@pytest.mark.parametrize("width", [64, 400])
@pytest.mark.parametrize("factor", [100.0, 1e6])
def test_leaving_out_one_of_two_fails_where_leaving_out_both_tells(width: int, factor: float) -> None:
    rows = np.random.default_rng(0).normal(size=(128, width))
    rows[[0, 9]] *= factor / np.linalg.norm(rows[[0, 9]], axis=1, keepdims=True) * width**0.5
    one, two = measured(rows), measured(rows, sinks=(0, 9))
    if factor < 1e3:  # else nothing is left beside the second
        assert phases.sink_compression(one).item() < 0
    assert phases.sink_compression(two).item() > 0.8
    assert outweighing_token(one) == 9
    assert outweighing_token(two) is None


def test_the_null_is_near_zero_and_gets_smaller_with_length() -> None:
    rng = np.random.default_rng(0)
    for tokens, most in ((16, 0.026), (127, 0.004)):
        data = measured(*(rng.normal(size=(tokens, 64)) for _ in range(32)))
        assert abs(phases.sink_compression(data)).max() <= most


def test_nothing_is_left_to_destroy_where_the_others_are_parallel() -> None:
    row = np.ones((1, 6))
    data = measured(np.vstack([10 * row, row, 2 * row, row]))
    assert np.isnan(phases.sink_compression(data)).all()
    assert np.isnan(phases.reach(data.assign_attrs(d_model=6))).all()


def test_another_estimator_has_no_kappa() -> None:
    data = made_profile([1, 200, 1]).data.assign_attrs(estimator={"center": True})
    with pytest.raises(mcr.InputError, match="raw estimator"):
        phases.sink_compression(data)
    with pytest.raises(mcr.InputError, match="raw estimator"):
        phases.find_phases(data)


@pytest.mark.parametrize("tokens", [20, 100])
def test_half_length_and_reach_do_not_depend_on_the_prompt(tokens: int) -> None:
    """One orthogonal sink, the others an orthonormal frame or rows of equal norms."""
    width = 400
    rest = np.eye(tokens, width - 1)
    sink = np.zeros((1, width))
    sink[0, -1] = 9.0
    data = measured(np.vstack([sink, np.pad(rest, ((0, 0), (0, 1)))]), d_model=width)
    assert phases.half_length(data).item() == pytest.approx(82)
    assert phases.reach(data).item() == plain_reach(81, 1.0, width)


def plain_reach(rho: float, rest: float, width: int, most: int = 200_000, n_sinks: int = 1) -> float:
    """The definition, one length at a time."""
    longest = 0
    for tokens in range(2 + n_sinks, most):
        w = rho / (rho + tokens - n_sinks)
        if w - h(w) / (rest * math.log(min(tokens - n_sinks, width))) >= 0.1:
            longest = tokens
    return longest


@pytest.mark.parametrize(
    ("rho", "rest", "width"),
    [(0.5, 0.9, 64), (3, 0.8, 64), (10, 0.8, 16), (81, 0.7, 64), (1e4, 0.8, 512), (400, 0.3, 2048)],
)
def test_reach_is_the_longest_length_that_qualifies(rho: float, rest: float, width: int) -> None:
    data = xr.Dataset(
        {
            "norm_mass_ratio": (("prompt", "depth"), [[rho / 9]]),
            "normalized_entropy_without_sink": (("prompt", "depth"), [[rest]]),
        },
        coords={"n_tokens": ("prompt", [10])},
        attrs={"d_model": width},
    )
    assert phases.reach(data).item() == plain_reach(rho, rest, width)
    assert np.isnan(phases.reach(data.assign_attrs(d_model=None))).all()


def test_a_second_massive_token_cannot_be_said() -> None:
    """Leaving one of two out fails: the answer is not that there is no phase."""
    rng = np.random.default_rng(0)
    prompts = []
    for _ in range(4):
        rows = rng.normal(size=(128, 32))
        rows[0] *= 100
        rows[20] *= 50
        prompts.append(rows)
    data = measured(*prompts)
    assert float(phases.sink_compression(data).max()) < 0
    assert data.largest_rest_position.values.ravel().tolist() == [20] * 4
    found = phases.find_phases(data)
    assert found.compress is None
    assert found.headline == "phases cannot be said: the token at position 20 is massive, too"


def test_a_sink_elsewhere_cannot_be_said_either() -> None:
    rows = np.random.default_rng(0).normal(size=(64, 32))
    rows[40] *= 100
    found = phases.find_phases(measured(rows, rows))
    assert found.headline.startswith("phases cannot be said: the token at position 40 is massive")


# Measured on a pretrained GPT-2 of 4 layers that nobody here trained: 32 prompts of 116 to 128 tokens.
PRETRAINED = {
    "matrix_entropy": [3.572, 3.116, 3.583, 3.765, 3.039],
    "entropy_without_sink": [3.552, 4.115, 3.858, 3.820, 3.013],
    "norm_mass_ratio": [0.010, 0.679, 0.247, 0.105, 0.019],
    "sink_norm": [1.53, 55.98, 60.22, 61.39, 65.05],
    "norm_ratio": [1.134, 9.355, 5.623, 3.648, 1.557],
}
WRITES = {"mlp_write_along": [47.57, 3.98, 1.16, 14.00], "attention_write_along": [7.86, 0.26, 0.02, -0.43]}


def test_the_pretrained_model_has_its_phase_and_its_onset() -> None:
    layer = WRITES | {name.replace("along", "norm"): values for name, values in WRITES.items()}
    data = xr.Dataset(
        {name: (("prompt", "depth"), [values]) for name, values in PRETRAINED.items()}
        | {name: (("prompt", "layer"), [values]) for name, values in layer.items()},
        coords={"n_tokens": ("prompt", [127])},
    )
    kappa = phases.sink_compression(data).values[0]
    np.testing.assert_allclose(kappa, [-0.005, 0.243, 0.071, 0.014, -0.009], atol=1e-3)
    found = phases.find_phases(data, confidence=None)
    assert (found.mix, found.compress, found.refine) == ((0, 0), (1, 1), (2, 4))
    assert found.emergence is not None
    assert [(stage.layer, stage.write) for stage in found.emergence] == [(0, "mlp")]
    assert found.dissipation == ()  # nobody takes the norm back: the others grow
    changes = phases.ratio_changes(data)
    np.testing.assert_allclose(changes.ratio, changes.sink + changes.others, atol=1e-12)
    assert (changes.sink[1:] > 0).all() and (changes.others[1:] < -0.3).all()


def test_the_strip_over_thresholds_says_how_far_the_answer_is_from_changing() -> None:
    profile = made_profile([1] * 4, [0.9, 0.68, 0.72, 0.9])  # kappa 0, .244, .2, 0
    strip = phases.phase_thresholds(profile)
    assert strip[0.02] == strip[0.2] == (1, 2)
    assert strip[0.22] == strip[0.24] == (1, 1)
    assert strip[0.26] is strip[0.5] is None


def test_long_prompts_dilute_the_phase_before_the_layers() -> None:
    """Below the threshold of kappa a token that outweighs the others' strongest direction has its layers."""
    profile = made_profile([1, 5, 5, 1], [0.9, 0.85, 0.85, 0.9])
    assert profile.emergence_layers() == []
    profile.data["norm_mass_ratio"] = (("prompt", "depth"), [[0.01, 0.2, 0.2, 0.01]] * 2)
    profile.data["anisotropy_without_sink"] = (("prompt", "depth"), [[0.05] * 4] * 2)
    assert profile.phases().compress is None
    assert (profile.emergence_layers(), profile.dissipation_layers()) == ([0], [2])


@pytest.fixture(scope="module")
def random_states() -> np.ndarray:
    """Hidden states of an untrained GPT-2 of 512 dimensions, (prompt, depth, token, dimension)."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=512, n_layer=6, n_head=8, n_positions=128)
    tokens = torch.randint(2, 512, (8, 127), generator=torch.Generator().manual_seed(0))
    model = GPT2Model(config).eval()
    final = []
    model.ln_f.register_forward_pre_hook(lambda _, inputs: final.append(inputs[0]))
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
    return torch.stack([*states[:-1], *final], dim=1).numpy()


def planted(states: np.ndarray, times: float, tokens: int) -> xr.Dataset:
    """A vector of so many times the others' norm (at depth 2) as the first token, at depths 2 to 4."""
    rows = states[:, :, :tokens].astype(np.float64)
    direction = np.random.default_rng(1).normal(size=rows.shape[-1])
    direction /= np.linalg.norm(direction)
    if times:
        norms = np.linalg.norm(rows[:, 2, 1:], axis=-1).mean(-1)
        rows[:, 2:5, 0] = times * norms[:, None, None] * direction
    depths = []
    for depth in range(rows.shape[1]):
        state = ResidualState(torch.full((len(rows),), tokens))
        state.update(torch.from_numpy(rows[:, depth]))
        values = state.result().items()
        depths.append(xr.Dataset({name: ("prompt", value.numpy()) for name, value in values}))
    return xr.concat(depths, "depth").assign_coords(n_tokens=("prompt", [tokens] * len(rows)))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (0, [None] * 4),
        (3, [None] * 4),
        (5, [(2, 2)] * 3 + [None]),
        (10, [(2, 4), (2, 4), (2, 3), (2, 3)]),
        (30, [(2, 4)] * 4),
        (100, [(2, 4)] * 4),
        (1000, [(2, 4)] * 4),
    ],
)
def test_what_a_planted_token_is_told_at_each_length(
    random_states: np.ndarray, times: float, expected: list[tuple[int, int] | None]
) -> None:
    found = [phases.find_phases(planted(random_states, times, T)).compress for T in (16, 32, 64, 127)]
    assert found == expected
