"""A profile in words: each sentence states numbers that the profile holds."""

import torch

from mcr_lens.metrics.residual import is_massive
from mcr_lens.phases import MIN_NORM_RATIO, MIN_SHARE, Stage, dissipation_stages, emergence_stages
from mcr_lens.result import Profile
from mcr_lens.thresholds import SINK_THRESHOLD

__all__ = ["findings"]


def findings(profile: Profile) -> list[str]:
    """What a profile shows, one sentence a finding."""
    return [
        *_norm(profile),
        _stages(profile),
        *_sinks(profile),
        _valley(profile),
        f"Phases: {profile.phases(confidence=None).headline}.",
    ]


def _norm(profile: Profile) -> list[str]:
    ratio = profile["norm_ratio"].mean("prompt")
    if ratio.isnull().all():
        return ["The sink token's norm against the others' is not known at any depth."]
    peak = int(ratio.fillna(-float("inf")).values.argmax())
    position = int(profile.data.attrs.get("sink_position", 0))
    token = f"token at position {position}" if position else "first token"
    top, median = (
        torch.tensor(profile[name].isel(depth=peak).values)
        for name in ("top_activation", "median_activation")
    )
    known = ~(top.isnan() | median.isnan())
    massive = float(is_massive(top, median)[known].double().mean())
    return [
        f"The {token}'s norm is {float(ratio[0]):.1f} times the mean of the others at depth 0 and "
        f"peaks at {float(ratio[peak]):.1f} times at depth {peak}; at the last depth it is "
        f"{float(ratio[-1]):.1f} times.",
        f"Largest activation there: {float(top.nanmean()):.0f}, {float((top / median).nanmean()):.0f} times "
        f"the median; massive (above 100 and 1,000 times the median) in {massive:.0%} of the prompts.",
    ]


def _stages(profile: Profile) -> str:
    if "mlp_write_along" not in profile.data:
        return "The writes could not be read on this model (see failed_checks)."
    written, removed = emergence_stages(profile.data), dissipation_stages(profile.data)
    if profile["mlp_write_along"].isnull().all():
        return "What the layers write is not known."
    if not written and float(profile["norm_ratio"].mean("prompt").max()) < MIN_NORM_RATIO:
        return f"No layer makes the sink token massive: its norm ratio stays below {MIN_NORM_RATIO:g}."
    if not written:
        return f"No single layer writes {MIN_SHARE:.0%} of its peak norm: it grows in small stages."
    text = f"It is written by {', '.join(map(_stage, written))}"
    return text + (f" and taken back by {', '.join(map(_stage, removed))}." if removed else ".")


def _stage(stage: Stage) -> str:
    name = {"mlp": "MLP", "attention": "attention"}[stage.write]
    return f"the {name} of layer {stage.layer} ({stage.share:+.0%} of the peak norm)"


def _sinks(profile: Profile) -> list[str]:
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
        f"Sink rate (heads with a sink score above {SINK_THRESHOLD}): at most {float(rate.max()):.2f} (layer "
        f"{int(rate.fillna(-1.0).values.argmax())}); at least half of the heads in {where}. Strongest sink: "
        f"layer {layer}, head {head}, score {float(strongest.max()):.2f}."
    ]


def _valley(profile: Profile) -> str:
    entropy = profile["normalized_entropy"].mean("prompt")
    without = profile["normalized_entropy_without_sink"].mean("prompt")
    if entropy.isnull().all():
        return "Normalized entropy is not known at any depth."
    low = int(entropy.fillna(float("inf")).values.argmin())
    return (
        f"Normalized entropy is {float(entropy[0]):.2f} at depth 0 and lowest at depth {low}: "
        f"{float(entropy[low]):.2f}. Without the sink token it is {float(without[0]):.2f} and "
        f"{float(without[low]):.2f} at the same depths."
    )
