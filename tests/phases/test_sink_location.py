"""Planted sinks are found where they stand, and none where nothing was planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from backends import BACKENDS
from planted import planted_folder, planted_hooked_transformer
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.hooks import current_context
from mcr_lens.phases import locate_sink

SINK_TOKEN = 1  # the token whose embedding the planted models mark
SINK_LAYER = 2


@pytest.fixture(scope="module", params=BACKENDS)
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model in whose layer 2 all heads attend to token 1, wherever it stands; others attend evenly."""
    options: dict[str, Any] = {
        "emergence": (),
        "dissipation": (),
        "sink_layers": (SINK_LAYER,),
        "n_layers": 4,
    }
    if request.param == "bridge":
        return mcr.load_model(planted_folder(tmp_path_factory.mktemp("planted"), **options))
    return planted_hooked_transformer(**options)


def prompts_with(places: list[list[int]], longest: int = 40) -> mcr.Prompts:
    """Ragged prompts of random tokens with the marked token at the given places of each."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 64, (len(places), longest))
    for row, at in enumerate(places):
        tokens[row, at] = SINK_TOKEN
    return mcr.Prompts.from_tokens([row[: longest - 2 * i].tolist() for i, row in enumerate(tokens)])


def located(model: Any, prompts: mcr.Prompts, edit: Any = (), **options: Any) -> list[tuple[Any, ...]]:
    table = locate_sink(mcr.profile(model, prompts, interventions=edit, progress=False), **options)
    return [tuple(row) for row in table[["layer", "sink", "position", "token"]].itertuples(index=False)]


@pytest.mark.parametrize("position", [0, 2, 11])
def test_a_planted_sink_is_found_where_it_stands(planted: Any, position: int) -> None:
    prompts = prompts_with([[position]] * 5)
    assert located(planted, prompts) == [(SINK_LAYER, "token", position, SINK_TOKEN)]
    profile = mcr.profile(planted, prompts, progress=False)
    (row,) = locate_sink(profile).to_dict("records")
    assert row["heads"] == 1 and row["prompts"] == 1
    assert row["attention"] > 0.8
    # The second step: what is watched is now what was found, and the numbers are the same.
    at = mcr.profile(planted, prompts, sink_position=int(row["position"]), progress=False)
    watched = at["sink_attention"].sel(layer=SINK_LAYER).mean()
    assert row["attention"] == pytest.approx(float(watched), abs=1e-6)
    assert locate_sink(at).equals(locate_sink(profile))
    if position:
        assert (at["sink_score"] > profile["sink_score"]).sel(layer=SINK_LAYER).all()


def test_two_sinks_are_both_found(planted: Any) -> None:
    found = located(planted, prompts_with([[0, 6]] * 4))
    assert found == [(SINK_LAYER, "token", 0, SINK_TOKEN), (SINK_LAYER, "token", 6, SINK_TOKEN)]


def test_a_sink_that_moves_is_found_by_its_token(planted: Any) -> None:
    prompts = prompts_with([[3], [8], [14], [1], [5]])
    assert located(planted, prompts) == []
    (row,) = locate_sink(mcr.profile(planted, prompts, progress=False), by="token").to_dict("records")
    assert (row["layer"], row["token"], row["heads"], row["prompts"]) == (SINK_LAYER, SINK_TOKEN, 1, 1)
    assert pd.isna(row["position"])


def test_nothing_is_found_where_nothing_was_planted(planted: Any) -> None:
    prompts = mcr.Prompts.from_tokens(np.random.default_rng(1).integers(3, 64, (4, 30)).tolist())
    for by in ("position", "token"):
        assert located(planted, prompts, by=by, min_prompts=0.0) == []


def edit_patterns(change: Callable[[torch.Tensor], torch.Tensor], heads: slice = slice(None)) -> list[Any]:
    """Put a pattern made by hand in the place of every layer's: ``change`` takes a block of positions."""

    def edit(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        offset, (queries, keys) = current_context().offset, pattern.shape[-2:]
        query = torch.arange(offset, offset + queries)[:, None]
        key = torch.arange(offset + queries - keys, offset + queries)[None]
        made = change(query - key).where(key <= query, 0.0)
        edited = pattern.clone()
        edited[:, heads] = (made / made.sum(-1, keepdim=True)).to(pattern.dtype)
        return edited

    return [(f"blocks.{layer}.attn.hook_pattern", edit) for layer in range(3)]


@pytest.mark.parametrize("length", [9, 10, 24])
@pytest.mark.parametrize(
    "change",
    [
        lambda back: torch.ones(back.shape),
        lambda back: (back == 0).float(),
        lambda back: ((back == 1) | (back == 0)).float(),
        lambda back: (back <= 3).float(),
        lambda back: torch.exp(-0.7 * back.float()),
    ],
    ids=["uniform", "identity", "previous token", "last four", "fading"],
)
def test_even_and_local_heads_have_no_sink(llama: Any, change: Any, length: int) -> None:
    prompts = mcr.Prompts.from_tokens([[1, *range(3, 2 + length)], [1, *range(8, 7 + length)]])
    assert located(llama, prompts, edit_patterns(change), min_prompts=0.0) == []
    assert located(llama, prompts, edit_patterns(change), by="token", min_prompts=0.0) == []


def test_the_sink_of_one_head_of_four(llama: Any) -> None:
    def to_first(back: torch.Tensor) -> torch.Tensor:
        first = back == back.amax(-1, keepdim=True)
        return first.float() + 0.05

    def uniform(back: torch.Tensor) -> torch.Tensor:
        return torch.ones(back.shape)

    prompts = mcr.Prompts.from_tokens([[1, *range(3, 33)], [1, *range(8, 30)]])
    edit = edit_patterns(uniform) + edit_patterns(to_first, heads=slice(2, 3))
    table = locate_sink(mcr.profile(llama, prompts, interventions=edit, progress=False))
    assert table.layer.tolist() == [0, 1, 2] and (table.position == 0).all() and (table.heads == 0.25).all()
    assert located(llama, prompts, edit, min_heads=0.25) == []


def test_a_first_token_that_is_no_bos_is_found(family_folder: Callable[[str], Path]) -> None:
    """Qwen2 has no BOS: the first token differs from prompt to prompt, and is a sink all the same."""
    model = mcr.load_model(family_folder("qwen2"))
    prompts = mcr.Prompts.from_tokens([list(range(3 + i, 25 + i)) for i in range(4)])

    def to_first(back: torch.Tensor) -> torch.Tensor:
        return (back == back.amax(-1, keepdim=True)).float() + 0.02

    found = located(model, prompts, edit_patterns(to_first))
    assert [row[:3] for row in found] == [(layer, "token", 0) for layer in range(3)]
    assert all(pd.isna(row[3]) for row in found)


def test_batches_chunks_and_order_change_nothing(planted: Any) -> None:
    prompts = prompts_with([[0, 6], [0], [0, 6], [0, 9], [0]])
    whole = locate_sink(mcr.profile(planted, prompts, batch_size=1, progress=False), min_prompts=0.0)
    turned = mcr.Prompts.from_tokens([prompts.tokens[i] for i in (3, 1, 4, 0, 2)])
    options: list[dict[str, Any]] = [{"batch_size": 5}, {"chunk": 7}, {"chunk": 1, "batch_size": 2}]
    for given, way in [*((prompts, option) for option in options), (turned, {})]:
        other = locate_sink(mcr.profile(planted, given, progress=False, **way), min_prompts=0.0)
        assert other.drop(columns=["attention"]).equals(whole.drop(columns=["attention"]))
        np.testing.assert_allclose(other.attention, whole.attention, atol=1e-5)


def test_short_prompts_are_not_judged(planted: Any) -> None:
    long, short = prompts_with([[0]] * 3).tokens, [[SINK_TOKEN, 5, 6], [SINK_TOKEN, 7]]
    (row,) = locate_sink(
        mcr.profile(planted, mcr.Prompts.from_tokens([*long, *short]), progress=False)
    ).to_dict("records")
    assert row["prompts"] == 1
    with pytest.raises(mcr.InputError, match=r"longest prompt has 3 tokens.* 9 tokens or more"):
        locate_sink(mcr.profile(planted, mcr.Prompts.from_tokens(short), progress=False))


def test_a_late_sink_is_judged_by_the_prompts_that_reach_it(planted: Any) -> None:
    short = [[9, *range(10, 20)]] * 5
    prompts = mcr.Prompts.from_tokens([*prompts_with([[12]] * 2).tokens, *short])
    assert min(prompts.lengths[:2]) > 20
    (row,) = locate_sink(mcr.profile(planted, prompts, progress=False)).to_dict("records")
    assert (row["position"], row["prompts"], row["judged"]) == (12, 1.0, 2)


def test_a_saved_profile_tells_the_same(planted: Any, tmp_path: Path) -> None:
    profile = mcr.profile(planted, prompts_with([[2]] * 3), progress=False)
    loaded = mcr.Profile.load(profile.save(tmp_path / "run.nc"))
    xr.testing.assert_identical(loaded.data, profile.data)
    assert locate_sink(loaded).equals(locate_sink(profile))


def test_an_old_file_loads_and_says_in_one_line_what_it_lacks(planted: Any, tmp_path: Path) -> None:
    profile = mcr.profile(planted, prompts_with([[2]] * 3), progress=False)
    names = [name for name in profile.data.variables if str(name).startswith(("top_column", "not_finite"))]
    assert len(names) == 4
    old = mcr.Profile.load(mcr.Profile(profile.data.drop_vars(names)).save(tmp_path / "old.nc"))
    assert repr(old) == repr(profile)
    with pytest.raises(mcr.InputError, match="no top_column_position: an earlier version saved it") as caught:
        locate_sink(old)
    assert "\n" not in str(caught.value)
    for pair in ([old, profile], [profile, old]):
        joined = mcr.Profile.concat(pair, "prompt")
        assert (joined.data.not_finite_depth == -1).all()
        assert locate_sink(joined)["prompts"].tolist() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2.0}, "threshold 2.0: use a share from 0 to 1"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"min_prompts": -1}, "min_prompts -1"),
        ({"min_heads": 7}, "min_heads 7"),
        ({"by": "head"}, "by 'head': use 'position' or 'token'"),
    ],
)
def test_bad_options_are_told(llama_profile: mcr.Profile, options: dict[str, Any], message: str) -> None:
    with pytest.raises(mcr.InputError, match=message):
        locate_sink(llama_profile, **options)


def test_profiles_that_cannot_tell(llama_profile: mcr.Profile) -> None:
    with pytest.raises(mcr.InputError, match="select one arm first"):
        locate_sink(mcr.Profile.concat([llama_profile] * 2, "arm", labels=["a", "b"]))
    unread = made_profile([1, 2], failed_checks={"pattern_rows": "rows sum to 2"})
    with pytest.raises(mcr.InputError, match=r"could not be read \(rows sum to 2\)"):
        locate_sink(unread)
