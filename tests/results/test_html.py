"""What a notebook shows of a profile: curves as they are, strings as text, warnings where they are due."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.results import caveats


def paths(text: str) -> list[str]:
    return re.findall(r'<path d="([^"]*)"', text)


def test_sparklines_follow_the_curves(bundled_model: Any) -> None:
    prompts = mcr.load_prompts(mcr.prompts.word_problems(8), bundled_model)
    profile = mcr.profile(bundled_model, prompts, progress=False)
    text = profile._repr_html_()
    assert "<script" not in text and "<summary>Table<" in text
    summary = profile.summary()
    assert len(paths(text)) == summary.shape[1]
    heights = [float(point.split()[1]) for point in re.findall(r"[ML]([\d.]+ [\d.]+)", paths(text)[0])]
    assert len(heights) == summary.shape[0]
    # The SVG counts downwards.
    assert int(np.argmin(heights)) == int(np.argmax(summary.norm_ratio))
    assert f"{summary.norm_ratio.max():.3g} at {summary.norm_ratio.idxmax()}" in text


def test_what_is_not_there_breaks_the_line() -> None:
    profile = made_profile([1, 2, 3, 4, 5], n_prompts=2)
    profile.data["norm_ratio"][:, 2] = np.nan
    assert paths(profile._repr_html_())[0].count("M") == 2
    profile.data["norm_ratio"][:] = np.nan
    assert "<td" in profile._repr_html_()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data, "2 prompts: intervals"),
        (lambda data: data.assign(n_tokens=("prompt", [10, 40])), "sink score of 0.10"),
        (lambda data: data.assign(n_tokens=("prompt", [4, 40])), "attends evenly has a sink score above 0.3"),
        (lambda data: data.assign_coords(first_token=("prompt", [0, 1])), "different tokens"),
        (lambda data: data.assign_attrs(failed_checks={"pattern": "no <rows>"}), "pattern): no &lt;rows&gt;"),
        (lambda data: data.assign_attrs(interventions=["a", "b"]), "by 2 hooks"),
        (lambda data: data.assign(norm_ratio=data.norm_ratio / 0), "Infinite values in norm_ratio"),
    ],
)
def test_each_caveat_is_told(change: Any, said: str) -> None:
    profile = mcr.Profile(change(made_profile([1, 200, 5], n_prompts=2).data))
    assert said in profile._repr_html_()


def test_a_sound_profile_needs_none(bundled_model: Any) -> None:
    prompts = mcr.load_prompts(mcr.prompts.word_problems(8), bundled_model)
    assert caveats(mcr.profile(bundled_model, prompts, progress=False)) == []
