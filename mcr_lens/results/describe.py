"""Results in words: each sentence states numbers that the result holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import mcr_lens as mcr
from mcr_lens.doubts import doubts
from mcr_lens.not_finite import not_finite_note
from mcr_lens.phases import MIN_SHARE, Phases, Stage, ratio_changes
from mcr_lens.phases.curves import primary_sink
from mcr_lens.results.tables import count, number
from mcr_lens.thresholds import MASSIVE, MASSIVE_RATIO, SINK_THRESHOLD

__all__ = ["caveats", "findings", "lens"]

# Below this many prompts intervals cover too seldom (see bootstrap_interval).
_FEW_PROMPTS = 8
# Falls of the other tokens' own normalized entropy that are worth a sentence.
_OWN_FALL = 0.1
# Below this many tokens the first row alone lifts every head's sink score by more than 0.06.
_FEW_TOKENS = 16
# Up to this many tokens H_T / T, the sink score of a head that attends evenly, is above 0.3.
_EVEN_TOKENS = 9


def findings(profile: mcr.Profile) -> list[str]:
    """What a profile shows, one sentence a finding; the phases come last."""
    phases = profile.phases(confidence=None) if profile.has_phases else None
    headline = profile.sentences()[0] if phases is None else phases.headline
    return [
        *_norm(profile),
        *_stages(profile, phases),
        *_sinks(profile),
        *_valley(profile, phases),
        f"Phases: {headline}.",
    ]


def _norm(profile: mcr.Profile) -> list[str]:
    ratio = profile["norm_ratio"].mean("prompt")
    if ratio.isnull().all():
        return ["The sink token's norm against the others' is not known at any depth."]
    peak = int(ratio.fillna(-float("inf")).values.argmax())
    position = primary_sink(profile.data)
    token = f"token at position {position}" if position else "first token"
    top, median = (profile[name].isel(depth=peak) for name in ("top_activation", "median_activation"))
    both = top.notnull() & median.notnull()
    last = "not known" if np.isnan(ratio[-1]) else f"{float(ratio[-1]):.1f} times"
    massive = float(((top > MASSIVE) & (top > MASSIVE_RATIO * median)).where(both).mean())
    return [
        f"The {token}'s norm is {float(ratio[0]):.1f} times the mean of the others at depth 0 and "
        f"peaks at {float(ratio[peak]):.1f} times at depth {peak}; at the last depth it is {last}.",
        f"Largest activation there: {float(top.mean()):.0f}, {float((top / median).mean()):.0f} times "
        f"the median; massive (above {MASSIVE:g} and {MASSIVE_RATIO:,g} times the median) in {massive:.0%} "
        "of the prompts.",
    ]


def _stages(profile: mcr.Profile, phases: Phases | None) -> Iterator[str]:
    if "mlp_write_along" not in profile.data:
        yield "The writes could not be read on this model (see failed_checks)."
    elif profile["mlp_write_along"].isnull().all():
        yield "What the layers write is not known."
    elif phases is not None:
        writes, removals = (
            ", ".join(map(_stage, each or ())) for each in (phases.emergence, phases.dissipation)
        )
        if writes:
            yield f"It is written by {writes}" + (f" and taken back by {removals}." if removals else ".")
        elif phases.compress is None:
            yield "No layer makes the sink token massive."
        elif phases.compress[0] == 0:
            yield "The sink token is massive from the embeddings on: no layer writes it."
        else:
            yield f"No single layer writes {MIN_SHARE:.0%} of its norm: it grows in small stages."
        if phases.compress and phases.refine:
            yield _removed_or_diluted(profile, phases.peak_depth, phases.refine[1])


def _removed_or_diluted(profile: mcr.Profile, first: int, last: int) -> str:
    """Why the norm ratio changes behind the depth of largest kappa: by the sink, or by the others."""
    change = ratio_changes(profile).loc[first : last - 1].sum()
    part = change.sink / change.ratio
    why = "it is taken back" if part > 0.8 else "the others outgrow it" if part < 0.2 else "both play a part"
    sink, others, ratio = np.exp([change.sink, -change.others, change.ratio])
    return (
        f"From depth {first} to depth {last} its norm changes by a factor of {sink:.2g} and the others' mean "
        f"norm by {others:.2g}, so the norm ratio by {ratio:.2g}{f': {why}' if ratio < 1 else ''}."
    )


def _stage(stage: Stage) -> str:
    name = {"mlp": "MLP", "attention": "attention"}[stage.write]
    return f"the {name} of layer {stage.layer} ({stage.share:+.0%} of the norm)"


def _sinks(profile: mcr.Profile) -> list[str]:
    if "sink_score" not in profile.data:
        return ["Attention patterns could not be read on this model (see failed_checks)."]
    rate = profile.sink_rate(SINK_THRESHOLD).mean("prompt")
    strongest = profile["sink_score"].mean("prompt")
    if strongest.isnull().all():
        return ["Sink scores are not known in any layer."]
    layer, head = divmod(int(strongest.fillna(-1.0).values.argmax()), strongest.sizes["head"])
    half = [int(i) for i in rate.layer[rate >= 0.5]]
    where = f"layer{'s' * (len(half) > 1)} {', '.join(map(str, half))}" if half else "no layer"
    return [
        f"Sink rate (heads with a sink score of at least {SINK_THRESHOLD}): at most {float(rate.max()):.2f} "
        f"(layer {int(rate.fillna(-1.0).values.argmax())}); at least half of the heads in {where}. Strongest "
        f"sink: layer {layer}, head {head}, score {float(strongest.max()):.2f}."
    ]


def _valley(profile: mcr.Profile, phases: Phases | None) -> Iterator[str]:
    """Entropy where the sink compresses most, and what the other tokens' own entropy does."""
    names = ("normalized_entropy", "normalized_entropy_without_sink")
    whole, rest = (profile[name].mean("prompt") for name in names)
    if whole.isnull().all():
        yield "Normalized entropy is not known at any depth."
        return
    if phases is None or np.isnan(phases.peak_compression):
        low = int(whole.fillna(float("inf")).values.argmin())
        yield f"Normalized entropy is lowest at depth {low}: {float(whole[low]):.2f}."
        return
    depth = phases.peak_depth
    yield (
        f"At depth {depth} the sink destroys {phases.peak_compression:.0%} of the other tokens' entropy: "
        f"normalized entropy is {float(whole[depth]):.2f}, without the sink token {float(rest[depth]):.2f}."
    )
    if phases.compress:
        yield from _reach(profile, depth)
    fall = np.fmax.accumulate(rest.values) - rest.values
    if np.nanmax(fall, initial=0.0) >= _OWN_FALL:
        lowest = int(np.nanargmax(fall))
        yield (
            f"The other tokens' own normalized entropy falls by {fall[lowest]:.2f}, at depth {lowest}, which "
            "no sink explains."
        )


def _reach(profile: mcr.Profile, depth: int) -> Iterator[str]:
    """How long a prompt this token would compress, against the longest that the model can take."""
    tokens = float(profile.reach().isel(depth=depth).median("prompt"))
    longest = profile.data.attrs.get("max_positions")
    if np.isnan(tokens):
        return
    if longest and tokens >= longest:
        yield f"The sink compresses any prompt that the model can take ({longest:,} tokens)."
    elif tokens > profile.data.n_tokens.max():
        limit = f", of {longest:,} that the model can take" if longest else ""
        yield f"The sink would compress prompts of up to about {tokens:,.0f} tokens{limit}."


def lens(summary: pd.DataFrame) -> list[str]:
    """What a lens says of the loss, of its curve over depth."""
    loss = summary["loss"].dropna() if "loss" in summary else pd.Series(dtype=float)
    if loss.empty:
        return []
    steepest = (-loss.diff()).idxmax() if len(loss) > 1 else loss.index[0]
    return [
        f"the loss on the next token is {number(loss.iloc[0])} nats at depth {loss.index[0]} and "
        f"{number(loss.iloc[-1])} at depth {loss.index[-1]}; it falls most on the way to depth {steepest}."
    ]


def caveats(profile: mcr.Profile) -> list[str]:
    """One sentence each: few or short prompts, broken states, failed checks, a learned sink, edits."""
    return list(_caveats(profile.data, profile.data.attrs))


def _caveats(data: xr.Dataset, attributes: dict[str, Any]) -> Iterator[str]:
    n, shortest = data.sizes["prompt"], int(data.n_tokens.min())
    if n < _FEW_PROMPTS:
        yield f"{count(n, 'prompt')}: intervals over fewer than {_FEW_PROMPTS} cover too seldom."
    if shortest <= _EVEN_TOKENS:
        yield (
            f"The shortest prompt has {shortest} tokens: a head that attends evenly has a sink score above "
            f"{SINK_THRESHOLD} there; sink_rate(excess=True) subtracts what such a head has."
        )
    elif shortest < _FEW_TOKENS:
        yield (
            f"The shortest prompt has {shortest} tokens: its first row alone gives every head a sink score "
            f"of {1 / shortest:.2f}; sink_attention leaves that row out."
        )
    if "first_token" in data and len(np.unique(data.first_token)) > 1:
        yield "The prompts begin with different tokens: no first token is common to them."
    if note := not_finite_note(data, attributes.get("dtype")):
        yield note
    if infinite := [name for name in ("norm_ratio", "sink_norm") if np.isinf(data[name].values).any()]:
        yield f"Infinite values in {', '.join(infinite)}: so are their means over prompts."
    if attributes.get("learned_sink") and "learned_sink_mass" in data:
        mass = data.learned_sink_mass.mean("prompt")
        yield (
            f"A learned sink that is no token takes {float(mass.mean()):.0%} of the attention, up to "
            f"{float(mass.max()):.0%} of a head: no sink score counts it, learned_sink_mass does."
        )
    yield from doubts(attributes, int(data.n_tokens.max()))
    if attributes.get("interventions"):
        yield f"The model was edited while it was measured, by {len(attributes['interventions'])} hooks."
    if hooks := attributes.get("attached_hooks"):
        more = " ..." if len(hooks) > 3 else ""
        yield f"The model carried hooks of its user, which ran too: {', '.join(hooks[:3])}{more}."
