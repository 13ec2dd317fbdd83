"""A head that attends evenly is no sink, however short prompt or window, wherever the sink stands."""

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.metrics import AttentionState

LENGTHS = (2, 5, 9, 10, 40)
WINDOWS = (None, 4, 7)


def even_pattern(tokens: int, window: int | None) -> torch.Tensor:
    query, key = np.indices((tokens, tokens))
    seen = (key <= query) & (query - key < (window or tokens))
    return torch.from_numpy(seen / seen.sum(1, keepdims=True))[None, None]


def even_profile(sinks: tuple[int, ...], lengths: tuple[int, ...], **attributes: Any) -> mcr.Profile:
    """Attention variables of one head that attends evenly, in layers of several windows."""
    names = ("sink_score", "visible_queries")
    values: dict[str, Any] = {name: np.zeros((len(lengths), len(WINDOWS))) for name in names}
    for prompt, tokens in enumerate(lengths):
        for layer, window in enumerate(WINDOWS):
            state = AttentionState(torch.tensor([tokens]), sinks, window)
            state.update(even_pattern(tokens, window))
            for name in names:
                values[name][prompt, layer] = state.result()[name].item()
    base = made_profile([1, 1, 1, 1], n_prompts=len(lengths)).data.drop_dims("head")
    data = base.assign(
        sink_score=(("prompt", "layer", "head"), values["sink_score"][..., None]),
        visible_queries=(("prompt", "layer"), values["visible_queries"]),
    )
    data = data.assign_coords(n_tokens=("prompt", list(lengths)))
    data.attrs |= {"windows": list(WINDOWS), "sink_position": sinks[0]} | attributes
    if len(sinks) > 1:
        data = data.assign_coords(sink_positions=(("prompt", "rank"), [sinks] * len(lengths)))
    return mcr.Profile(data)


@pytest.mark.parametrize("sinks", [(0,), (3,), (0, 3)])
def test_nothing_is_left_of_even_attention(sinks: tuple[int, ...]) -> None:
    profile = even_profile(sinks, tuple(n for n in LENGTHS if n > max(sinks)))
    even = mcr.phases.even_sink_score(profile)
    np.testing.assert_allclose(even, profile.data.sink_score.isel(head=0), atol=1e-12)
    assert (profile.sink_rate(0.05, excess=True) == 0).all()


def test_short_prompts_make_every_head_a_sink() -> None:
    profile = even_profile((0,), LENGTHS)
    assert profile.sink_rate().isel(layer=0).values.tolist() == [1, 1, 1, 0, 0]
    even = mcr.phases.even_sink_score(profile).isel(layer=0)
    np.testing.assert_allclose(even, [sum(1 / np.arange(1, n + 1)) / n for n in LENGTHS])
    assert any("attends evenly has a sink score above 0.3" in caveat for caveat in profile.caveats())


def test_an_earlier_file_tells_it_of_the_first_token_only() -> None:
    new = even_profile((0,), LENGTHS)
    old = new.data.copy()
    old.attrs = {name: value for name, value in new.data.attrs.items() if name != "windows"}
    xr.testing.assert_allclose(mcr.phases.even_sink_score(old), mcr.phases.even_sink_score(new))
    old.attrs["sink_position"] = 1
    with pytest.raises(mcr.InputError, match="does not say which keys a query may see"):
        mcr.phases.even_sink_score(old)
