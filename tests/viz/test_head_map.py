"""The map of heads shows every head where it belongs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.viz import head_map


def made(n_layers: int = 3, n_heads: int = 4, n_prompts: int = 5) -> mcr.Profile:
    scores = np.random.default_rng(0).uniform(size=(n_prompts, n_layers, n_heads))
    return made_profile([1.0] * (n_layers + 1), sink_score=scores, n_prompts=n_prompts)


def drawn(profile: mcr.Profile, metric: str = "sink_score") -> Any:
    return head_map(profile, metric)


def test_cells_are_means_over_prompts_layer_by_head() -> None:
    profile = made()
    profile.data["sink_score"][:, 2, 1] = 0.875
    figure = drawn(profile)
    (cells,) = figure.data
    np.testing.assert_array_equal(cells.z, profile.data.sink_score.mean("prompt"))
    assert cells.z[2, 1] == 0.875
    assert list(cells.x) == [0, 1, 2, 3]
    assert list(cells.y) == [0, 1, 2]
    assert cells.hovertemplate.startswith("layer %{y}, head %{x}")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("head", "layer")
    assert "0 to 1" in figure.layout.title.text


def test_scores_are_drawn_on_their_whole_range() -> None:
    (cells,) = drawn(made(), "mixing_score").data
    assert (cells.zmin, cells.zmax) == (0, 1)
    profile = made()
    (cells,) = drawn(profile, "sink_versus_identity").data
    assert (cells.zmin, cells.zmax) == (-1, 1)
    np.testing.assert_array_equal(cells.z, profile.sink_versus_identity().mean("prompt"))
    profile.data["sink_value_ratio"] = 7 * profile.data.sink_score
    assert drawn(profile, "sink_value_ratio").data[0].zmax is None


def test_few_heads_show_numbers_and_many_only_ticks_that_can_be_read() -> None:
    assert drawn(made()).data[0].texttemplate
    large = drawn(made(48, 64, 2))
    assert not large.data[0].texttemplate
    assert large.layout.xaxis.dtick >= 2
    assert large.layout.height < 1000


def test_what_is_no_metric_of_heads_is_refused() -> None:
    with pytest.raises(mcr.InputError, match=r"no variable 'sinks'.*sink_score"):
        drawn(made(), "sinks")
    with pytest.raises(mcr.InputError, match=r"'norm_ratio' has dimensions prompt, depth.*sink_score"):
        drawn(made(), "norm_ratio")
    several = mcr.Profile.concat([made(), made()], "model", ["one", "two"])
    with pytest.raises(mcr.InputError, match="model"):
        drawn(several)
