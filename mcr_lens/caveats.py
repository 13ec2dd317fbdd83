"""What to beware of when reading a profile, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcr_lens.not_finite import not_finite_note

if TYPE_CHECKING:
    from mcr_lens.result import Profile

__all__ = ["caveats"]

# Below this many prompts intervals cover too seldom (see bootstrap_interval).
_FEW_PROMPTS = 8
# Below this many tokens the first row alone lifts every head's sink score by more than 0.06.
_FEW_TOKENS = 16


def caveats(profile: Profile) -> list[str]:
    """One sentence each: few or short prompts, broken states, failed checks, a learned sink, edits."""
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
    if note := not_finite_note(data, made.get("dtype")):
        found.append(note)
    infinite = [name for name in ("norm_ratio", "sink_norm") if np.isinf(data[name].values).any()]
    if infinite:
        found.append(f"Infinite values in {', '.join(infinite)}: so are their means over prompts.")
    if made.get("learned_sink") and "learned_sink_mass" in data:
        mass = data.learned_sink_mass.mean("prompt")
        found.append(
            f"A learned sink that is no token takes {float(mass.mean()):.0%} of the attention, up to "
            f"{float(mass.max()):.0%} of a head: no sink score counts it, learned_sink_mass does."
        )
    for check, why in (made.get("failed_checks") or {}).items():
        found.append(f"The model failed a check ({check}): {why}")
    if made.get("interventions"):
        found.append(f"The model was edited while it was measured, by {len(made['interventions'])} hooks.")
    if attached := made.get("attached_hooks"):
        found.append(
            f"The model carried hooks of its user, which ran too: {', '.join(attached[:3])}"
            f"{' ...' if len(attached) > 3 else ''}."
        )
    return found
