"""What to beware of when reading a profile, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mcr_lens.result import Profile

__all__ = ["caveats"]

# Below this many prompts intervals cover too seldom (see bootstrap_interval).
_FEW_PROMPTS = 8
# Below this many tokens the first row alone lifts every head's sink score by more than 0.06.
_FEW_TOKENS = 16


def caveats(profile: Profile) -> list[str]:
    """One sentence each: few or short prompts, no common first token, failed checks, an edited model."""
    data, made = profile.data, profile.data.attrs
    n, shortest = data.sizes["prompt"], int(data.n_tokens.min())
    found = []
    if n < _FEW_PROMPTS:
        found.append(f"{n} prompt{'s' * (n > 1)}: intervals over fewer than {_FEW_PROMPTS} cover too seldom.")
    if shortest < _FEW_TOKENS:
        found.append(
            f"The shortest prompt has {shortest} tokens: its first row alone gives every head a sink score "
            f"of {1 / shortest:.2f}; sink_attention leaves that row out."
        )
    if "first_token" in data and len(np.unique(data.first_token)) > 1:
        found.append("The prompts begin with different tokens: no first token is common to them.")
    infinite = [name for name in ("norm_ratio", "sink_norm") if np.isinf(data[name].values).any()]
    if infinite:
        found.append(f"Infinite values in {', '.join(infinite)}: so are their means over prompts.")
    for check, why in (made.get("failed_checks") or {}).items():
        found.append(f"The model failed a check ({check}): {why}")
    if made.get("interventions"):
        found.append(f"The model was edited while it was measured, by {len(made['interventions'])} hooks.")
    return found
