"""The sentences state the numbers that the profile holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.results import findings

SCORES = np.full((2, 3, 4), 0.1)
SCORES[:, 1, :3] = 0.6
SCORES[:, 2, 3] = 0.8


def valley(**attributes: Any) -> mcr.Profile:
    return made_profile(
        [1.5, 1.4, 301.4, 2.5],
        [0.9, 0.95, 0.1, 0.8],
        mlp_write=[0, 300, -299],
        sink_score=SCORES,
        **attributes,
    )


def test_every_number_is_the_profiles() -> None:
    norm, top, stages, change, sinks, entropy, last = findings(valley())
    assert norm == (
        "The first token's norm is 1.5 times the mean of the others at depth 0 and peaks at 301.4 times at "
        "depth 2; at the last depth it is 2.5 times."
    )
    assert top.startswith("Largest activation there: 301, 3014 times the median")
    assert "massive (above 100 and 1,000 times the median) in 100% of the prompts" in top
    assert stages == (
        "It is written by the MLP of layer 1 (+100% of the norm) and taken back by the MLP of layer 2 "
        "(-99% of the norm)."
    )
    assert change == (
        "From depth 2 to depth 3 its norm changes by a factor of 0.0083 and the others' mean norm by 1, "
        "so the norm ratio by 0.0083: it is taken back."
    )
    assert "at most 0.75 (layer 1)" in sinks
    assert "at least half of the heads in layer 1." in sinks
    assert "Strongest sink: layer 2, head 3, score 0.80" in sinks
    assert entropy == (
        "At depth 2 the sink destroys 89% of the other tokens' entropy: normalized entropy is 0.10, "
        "without the sink token 0.90."
    )
    assert last == "Phases: Mix depths 0-1, Compress depth 2 (kappa 0.89 at depth 2), Refine depth 3."


def test_how_long_a_prompt_is_compressed() -> None:
    """rho is 8 c = 8 * 301.4^2 / 7 at the mean: more than any prompt of a model of 128 positions."""
    text = " ".join(findings(valley(d_model=64, max_positions=128)))
    assert "compresses any prompt that the model can take (128 tokens)" in text
    text = " ".join(findings(made_profile([1, 4, 4, 1], d_model=64, max_positions=128)))
    assert (
        "The sink would compress prompts of up to about " in text and "of 128 that the model can take" in text
    )
    assert "compress" not in " ".join(findings(made_profile([1, 1, 1], d_model=64))[:-2])


def test_what_the_others_entropy_does_by_itself_is_a_finding_of_its_own() -> None:
    profile = made_profile([1, 1, 1, 1], [0.9, 0.9, 0.5, 0.6])
    profile.data["normalized_entropy_without_sink"] = profile.data.normalized_entropy.copy()
    profile.data["entropy_without_sink"] = profile.data.matrix_entropy.copy()
    text = " ".join(findings(profile))
    assert (
        "The other tokens' own normalized entropy falls by 0.40, at depth 2, which no sink explains." in text
    )
    assert "no compression phase" in text


def test_what_is_not_known_is_never_the_largest() -> None:
    profile = valley()
    profile.data["sink_score"][:, 2] = np.nan
    profile.data["norm_ratio"][:, 2] = np.nan
    profile.data["normalized_entropy"][:, 2] = np.nan
    profile.data["matrix_entropy"][:, 2] = np.nan
    norm, _, _, sinks, entropy, _ = findings(profile)
    assert "peaks at 2.5 times at depth 3" in norm
    assert "at most 0.75 (layer 1)" in sinks
    assert "Strongest sink: layer 1, head 0, score 0.60" in sinks
    assert "At depth 3 the sink destroys 11% of the other tokens' entropy" in entropy


def test_of_a_profile_without_numbers_no_number_is_told() -> None:
    data = valley().data
    text = " ".join(findings(mcr.Profile(data.where(False))))
    assert "nan" not in text and not any(character.isdigit() for character in text)
    assert text.count("not known") == 5


def test_massive_in_some_of_the_prompts() -> None:
    profile = valley()
    profile.data["top_activation"][0] = 99
    assert "in 50% of the prompts" in findings(profile)[1]


def test_several_stages() -> None:
    profile = made_profile([1, 151, 301, 301], mlp_write=[150, 20, 0], attention_write=[0, 130, 0])
    assert findings(profile)[2] == (
        "It is written by the MLP of layer 0 (+99% of the norm), the attention of layer 1 (+50% of the norm)."
    )


def test_nothing_to_see_is_said() -> None:
    text = " ".join(findings(made_profile([1, 1.1, 1.2])))
    assert "No layer makes the sink token massive" in text
    assert "in 0% of the prompts" in text
    assert "at least half of the heads in no layer" in text
    assert "no compression phase" in text


def test_another_sink_position_is_named() -> None:
    assert findings(valley(sink_position=3))[0].startswith("The token at position 3's norm is 1.5 times")


def test_what_the_self_check_took_away_is_said() -> None:
    data = valley().data
    kept = [name for name in data.data_vars if set(data[name].dims) == {"prompt", "depth"}]
    text = " ".join(findings(mcr.Profile(data[kept])))
    assert "writes could not be read" in text
    assert "patterns could not be read" in text


def test_one_undefined_depth_is_passed_over() -> None:
    profile = valley()
    for name in ("norm_ratio", "normalized_entropy", "matrix_entropy"):
        profile.data[name][:, 0] = np.nan
    found = findings(profile)
    assert "peaks at 301.4 times at depth 2" in found[0]
    assert "At depth 2 the sink destroys 89%" in found[5]


@pytest.mark.parametrize("name", ["llama_profile"])
def test_a_random_model_has_sentences(name: str, request: pytest.FixtureRequest) -> None:
    found = findings(request.getfixturevalue(name))
    assert len(found) >= 6
    assert all(sentence.endswith(".") and "nan" not in sentence for sentence in found)
