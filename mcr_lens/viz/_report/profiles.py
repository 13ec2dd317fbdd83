"""What a report says and shows of profiles: one by itself, several side by side."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mcr_lens.phases import Phases
from mcr_lens.results import Profile, caveats, findings
from mcr_lens.thresholds import SINK_THRESHOLD
from mcr_lens.viz._bounds import bounds
from mcr_lens.viz._depth_curves import depth_curves
from mcr_lens.viz._head_map import head_map
from mcr_lens.viz._lens_curves import lens_curves
from mcr_lens.viz._report.gather import Run, naming
from mcr_lens.viz._report.html import Block

__all__ = ["profiles"]

_STRONGEST = 10
_SCORES = ("sink_score", "identity_score", "previous_token_score", "mixing_score")
_OTHER_MAPS = ("mixing_score", "previous_token_score", "identity_score", "col_sum_max")


def profiles(runs: Sequence[Run]) -> tuple[str, list[Block], list[Block]]:
    """Title, what was found, and the section of one profile, or of several compared."""
    facts, curves, words, details = {}, {}, {}, {}
    for run in runs:
        with naming(run.source):
            phases = run.content.phases()
            facts[run.label] = _facts(run.content, phases)
            curves[run.label] = {"figure": depth_curves(run.content), "caption": _CURVES}
            notes = ({"note": note} for note in _cautions(run))
            words[run.label] = [{"words": _words(run.content, phases)}, *notes]
            details[run.label] = [*_figures(run.content), *_tables(run.content, phases)]
    names = dict.fromkeys(name for each in facts.values() for name in each)
    columns = {label: [each.get(name, "not measured") for name in names] for label, each in facts.items()}
    if len(runs) == 1:
        (label,) = facts
        table = {"table": pd.DataFrame({"": columns[label]}, list(names)), "prose": True}
        return f"Profile: {label}", [curves[label], table, *words[label]], details[label]
    with naming("these profiles"):
        together = depth_curves({run.label: run.content for run in runs})
    blocks: list[Block] = [{"figure": together, "caption": _CURVES}]
    for label in facts:
        inside = [*words[label], curves[label], *details[label]]
        blocks.append({"more": f"{label}: words, figures and tables", "blocks": inside})
    side_by_side = {"table": pd.DataFrame(columns, list(names)), "prose": True}
    return f"{len(runs)} profiles, side by side", [side_by_side], blocks


def _facts(profile: Profile, phases: Phases) -> dict[str, str]:
    """A few quantities by name: what is compared between profiles."""
    sizes, summary = profile.data.sizes, profile.summary()
    facts = {
        "layers × heads": f"{sizes['depth'] - 1} × {sizes.get('head', '–')}",
        "prompts": f"{sizes['prompt']:,} of up to {int(profile.data.n_tokens.max()):,} tokens",
        "phases": phases.headline,
    }
    for name in ("emergence", "dissipation"):
        stages = getattr(phases, name)
        if stages is not None:
            places = getattr(phases.intervals, name, None) or [stage.layer for stage in stages]
            facts[f"{name} layers"] = ", ".join(map(str, places)) or "no single layer"
    facts["largest norm ratio"] = f"{phases.peak_norm_ratio:,.1f} at depth {phases.peak_depth}"
    facts["norm ratio at the last depth"] = f"{summary['norm_ratio'].iloc[-1]:,.1f}"
    entropy = summary["normalized_entropy"].dropna()
    if len(entropy):
        low = entropy.idxmin()
        without = summary["normalized_entropy_without_sink"][low]
        facts["lowest normalized entropy"] = (
            f"{entropy[low]:.2f} at depth {low} ({without:.2f} without the sink token)"
        )
    rate = pd.Series(summary.get("sink_rate"), dtype=float).dropna()
    if len(rate):
        facts["largest sink rate"] = f"{rate.max():.2f} in layer {rate.idxmax()}"
        strongest = _strongest(profile).iloc[0]
        facts["strongest sink"] = (
            f"layer {strongest.name}, head {strongest['head']}: {strongest.sink_score:.2f}"
        )
    return facts


def _words(profile: Profile, phases: Phases) -> list[str]:
    """What was found, a sentence per finding, the phases first."""
    *others, headline = findings(profile)
    first, *rest = str(phases.intervals).split("\n")
    intervals = f"{first[:1].upper()}{first[1:]} {'; '.join(line.strip() for line in rest)}".strip()
    return [headline, *others, f"{intervals}."]


def _cautions(run: Run) -> list[str]:
    """What to mind when reading these numbers."""
    made, notes = run.attributes, caveats(run.content)
    if made.get("interventions"):
        notes.append(f"Measured under interventions: {', '.join(map(str, made['interventions']))}.")
    if made.get("processing", "raw") != "raw":
        notes.append(f"The weights were processed ({made['processing']}): norms are not the model's own.")
    if not _is_raw(run.content):
        notes.append(f"Entropies are of another estimator than the paper's: {made['estimator']}.")
    return notes


def _figures(profile: Profile) -> list[Block]:
    """Bounds and heads; a lens where one took part."""
    data = profile.data
    blocks: list[Block] = []
    if _is_raw(profile) and {"entropy_bound", "dominance_bound"} <= set(data):
        blocks.append({"figure": bounds(profile), "caption": _BOUNDS})
    if "sink_score" in data:
        maps = [
            {"figure": head_map(profile, name), "caption": "Means over prompts."}
            for name in _OTHER_MAPS
            if name in data
        ]
        blocks += [
            {
                "figure": head_map(profile),
                "caption": "Means over prompts. Point at a cell for its layer and head.",
            },
            {"more": "Maps of the heads' other scores", "blocks": maps},
        ]
    if "lens_loss" in data:
        caption = "What each depth would predict, read out by the lens that took part in the profile."
        blocks.append({"figure": lens_curves(profile), "caption": caption})
    return blocks


def _tables(profile: Profile, phases: Phases) -> list[Block]:
    """The strongest sinks, boundaries with their intervals, every depth."""
    from mcr_lens.metrics import MIXING_THRESHOLD

    blocks: list[Block] = []
    if "sink_score" in profile.data:
        caption = (
            "Means over prompts. The role names the largest of the sink, identity and previous-token "
            f"scores if it is above {SINK_THRESHOLD}; else a head mixes whose mixing score is above "
            f"{MIXING_THRESHOLD}."
        )
        blocks += [{"heading": "Strongest sinks"}, {"table": _strongest(profile), "caption": caption}]
    boundaries = phases.table()
    if len(boundaries):
        n = phases.intervals.n_resamples if phases.intervals else 0
        caption = (
            f"95 % bootstrap intervals over prompts. Named: share of the {n} resamples in which it is "
            "exactly there; found: in which there is one at all. Boundaries are depths, stages layers."
        )
        blocks += [{"heading": "Where the phases begin and end"}, {"table": boundaries, "caption": caption}]
    caption = "Means over prompts; what belongs to a layer stands at its depth."
    depths = {"table": profile.summary(), "caption": caption}
    return [*blocks, {"more": "Every depth in numbers", "blocks": [depths]}]


def _strongest(profile: Profile) -> pd.DataFrame:
    """The heads with the largest sink scores, means over prompts."""
    import torch

    from mcr_lens.metrics import ROLES, head_roles

    scores = profile.data[[name for name in _SCORES if name in profile.data]]
    above = f"prompts above {SINK_THRESHOLD}"
    means = scores.assign({above: scores["sink_score"] > SINK_THRESHOLD}).mean("prompt")
    table = means.to_dataframe(dim_order=["layer", "head"]).reset_index().nlargest(_STRONGEST, "sink_score")
    table[above] = [f"{share:.0%}" for share in table[above]]
    # A score that could not be measured is NaN.
    known = table.reindex(columns=_SCORES).to_numpy(dtype=float)
    sink, identity, previous, mixing = torch.tensor(known.T)
    table["role"] = [ROLES[int(role)] for role in head_roles(sink, identity, previous, mixing)]
    return table.set_index("layer").round(3)


def _is_raw(profile: Profile) -> bool:
    from mcr_lens.metrics import Estimator

    return Estimator(**profile.data.attrs.get("estimator") or {}).is_raw


_CURVES = (
    "Lines are means over prompts, bands the middle half of the prompts; dashed: without the sink token. "
    "What belongs to a layer stands at the depth that the layer reads. Shaded: the phases, of several "
    "profiles those of the first. Models with different numbers of layers are drawn over relative depth: "
    "0 are the embeddings, 1 is the last depth. Click a name in the legend to hide it."
)
_BOUNDS = (
    "One massive token forces a dominant singular value: entropy cannot lie above its bound, anisotropy and "
    "dominance not below theirs. Where the bound is met (tightness 1), the sink token alone explains the "
    "compression."
)
