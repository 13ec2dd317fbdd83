"""What a report says and shows of profiles: one by itself, several side by side."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from mcr_lens.errors import InputError
from mcr_lens.metrics.roles import MIXING_THRESHOLD, ROLES, head_roles
from mcr_lens.phases import Phases
from mcr_lens.results import Profile, findings
from mcr_lens.thresholds import SINK_THRESHOLD
from mcr_lens.viz.bound_curves import bounds
from mcr_lens.viz.curves import depth_curves
from mcr_lens.viz.head_maps import head_map
from mcr_lens.viz.lenses import lens_curves
from mcr_lens.viz.report_page.content import (
    Block,
    Figure,
    Heading,
    More,
    Note,
    Section,
    Table,
    Words,
    listed,
    table,
)
from mcr_lens.viz.report_page.runs import Run, whole

__all__ = ["ProfileReport", "compared", "profile_section"]

_STRONGEST = 10
_SCORES = ("sink_score", "identity_score", "previous_token_score", "mixing_score")
_OTHER_MAPS = ("mixing_score", "previous_token_score", "identity_score", "col_sum_max")
_FEW_PROMPTS = 8


class ProfileReport:
    """One profile, as words, figures and tables."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.profile: Profile = run.data

    @cached_property
    def phases(self) -> Phases:
        """With intervals, where there is more than one prompt."""
        return self.profile.phases()

    def facts(self) -> dict[str, str]:
        """A few quantities by name: what is compared between profiles."""
        sizes, phases = self.profile.data.sizes, self.phases
        summary = self.profile.summary()
        entropy = summary["normalized_entropy"]
        facts = {
            "layers × heads": f"{sizes['depth'] - 1} × {sizes.get('head', '–')}",
            "prompts": f"{sizes['prompt']:,} of up to {int(self.profile.data.n_tokens.max()):,} tokens",
            "phases": phases.headline,
            **self._layers(),
            "largest norm ratio": f"{phases.peak_norm_ratio:,.1f} at depth {phases.peak_depth}",
            "norm ratio at the last depth": f"{summary['norm_ratio'].iloc[-1]:,.1f}",
        }
        if len(entropy.dropna()):
            low = entropy.idxmin()
            without = summary["normalized_entropy_without_sink"][low]
            facts["lowest normalized entropy"] = (
                f"{entropy[low]:.2f} at depth {low} ({without:.2f} without the sink token)"
            )
        if "sink_rate" in summary and len(summary["sink_rate"].dropna()):
            rate = summary["sink_rate"]
            facts["largest sink rate"] = f"{rate.max():.2f} in layer {rate.idxmax()}"
            layer, head, score = self.strongest().iloc[0][["layer", "head", "sink_score"]]
            facts["strongest sink"] = f"layer {layer:.0f}, head {head:.0f}: {score:.2f}"
        return facts

    def _layers(self) -> dict[str, str]:
        phases = self.phases
        if phases.emergence is None or phases.dissipation is None:
            return {}
        named = phases.intervals
        written = named.emergence if named and named.emergence else [s.layer for s in phases.emergence]
        removed = named.dissipation if named and named.dissipation else [s.layer for s in phases.dissipation]
        return {
            "emergence layers": listed(written, "no single layer"),
            "dissipation layers": listed(removed, "no single layer"),
        }

    def words(self) -> list[str]:
        """What was found, a sentence a finding, the phases first."""
        *others, phases = findings(self.profile)
        first, *rest = str(self.phases.intervals).split("\n")
        intervals = f"{first[:1].upper()}{first[1:]} {'; '.join(line.strip() for line in rest)}".strip()
        return [phases, *others, f"{intervals}."]

    def cautions(self) -> list[str]:
        """What to mind when reading these numbers."""
        made, n = self.run.attributes, self.profile.data.sizes["prompt"]
        notes = [*self.run.broken]
        if n < _FEW_PROMPTS:
            notes.append(
                f"Only {n} prompt{'s' * (n > 1)}: intervals over so few cover too seldom, or are none."
            )
        if made.get("interventions"):
            notes.append(f"Measured under interventions: {listed(made['interventions'], '')}.")
        if made.get("processing", "raw") != "raw":
            notes.append(f"The weights were processed ({made['processing']}): norms are not the model's own.")
        if not _is_raw(made):
            notes.append(f"Entropies are of another estimator than the paper's: {made['estimator']}.")
        notes += [
            f"Check {name} failed: {what}." for name, what in dict(made.get("failed_checks") or {}).items()
        ]
        return notes

    def strongest(self) -> pd.DataFrame:
        """The heads with the largest sink scores, means over prompts."""
        data = self.profile.data
        known = [name for name in _SCORES if name in data]
        means = {name: data[name].mean("prompt").transpose("layer", "head").values for name in known}
        unknown = np.full_like(means["sink_score"], np.nan)
        sink, identity, previous, mixing = (torch.as_tensor(means.get(name, unknown)) for name in _SCORES)
        roles = head_roles(sink, identity, previous, mixing)
        above = (data["sink_score"] > SINK_THRESHOLD).mean("prompt").transpose("layer", "head").values
        order = np.argsort(-np.nan_to_num(means["sink_score"].ravel(), nan=-1.0), kind="stable")[:_STRONGEST]
        rows, columns = np.unravel_index(order, unknown.shape)
        return pd.DataFrame(
            {
                "layer": data["layer"].values[rows],
                "head": data["head"].values[columns],
                **{name: means[name][rows, columns].round(3) for name in known},
                f"prompts above {SINK_THRESHOLD}": [f"{share:.0%}" for share in above[rows, columns]],
                "role": [ROLES[int(role)] for role in roles.numpy()[rows, columns]],
            }
        )

    def figures(self, with_curves: bool = True) -> list[Block]:
        """Curves over depth, bounds, heads; a lens where one took part."""
        data = self.profile.data
        drawn: list[Block] = []
        if with_curves:
            drawn.append(Figure(depth_curves(self.profile), _CURVES))
        if _is_raw(self.run.attributes) and {"entropy_bound", "dominance_bound"} <= set(data):
            drawn.append(Figure(bounds(self.profile), _BOUNDS))
        if "sink_score" in data:
            drawn.append(Figure(head_map(self.profile, "sink_score"), _HEADS))
            others = [name for name in _OTHER_MAPS if name in data]
            maps = [Figure(head_map(self.profile, name), "Means over prompts.") for name in others]
            drawn.append(More("Maps of the heads' other scores", maps))
        if "lens_loss" in data:
            drawn.append(Figure(lens_curves(self.profile), _LENS))
        return drawn

    def tables(self) -> list[Block]:
        """The strongest sinks, boundaries with their intervals, every depth, correlations."""
        shown: list[Block] = []
        if "sink_score" in self.profile.data:
            heads = table(self.strongest().set_index("layer"), _ROLES)
            shown += [Heading("Strongest sinks"), heads]
        boundaries = self.phases.table()
        if len(boundaries):
            n = self.phases.intervals.n_resamples if self.phases.intervals else 0
            caption = (
                f"95 % bootstrap intervals over prompts. Named: share of the {n} resamples in which it is "
                "exactly there; found: in which there is one at all. Boundaries are depths, stages layers."
            )
            shown += [Heading("Where the phases begin and end"), table(boundaries, caption)]
        depths = table(
            self.profile.summary(), "Means over prompts; what belongs to a layer stands at its depth."
        )
        shown.append(More("Every depth in numbers", [depths]))
        return shown


def profile_section(report: ProfileReport, title: str) -> Section:
    """Everything about one profile."""
    with whole(report.run.source):
        return Section(title, [*report.figures(), *report.tables()])


def compared(reports: Sequence[ProfileReport]) -> tuple[Table, Section]:
    """Several profiles: the table of findings side by side, and the section that overlays their curves."""
    every: dict[str, dict[str, str]] = {}
    for report in reports:
        with whole(report.run.source):
            every[report.run.label] = report.facts()
    names = list(dict.fromkeys(name for facts in every.values() for name in facts))
    rows = [[name, *(facts.get(name, "not measured") for facts in every.values())] for name in names]
    side_by_side = Table(["", *every], rows, prose=True)
    blocks: list[Block] = [Figure(_overlaid({r.run.label: r.profile for r in reports}), _OVERLAID)]
    for report in reports:
        with whole(report.run.source):
            inside: list[Block] = [Words([*report.words()]), *map(Note, report.cautions())]
            inside += [*report.figures(), *report.tables()]
        blocks.append(More(f"{report.run.label}: words, figures and tables", inside))
    return side_by_side, Section("Profiles, side by side", blocks)


def _overlaid(profiles: Mapping[str, Profile]) -> Any:
    try:
        return depth_curves(profiles)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"these profiles cannot be drawn together ({type(error).__name__})") from error


def _is_raw(made: Mapping[str, Any]) -> bool:
    from mcr_lens.metrics.estimator import Estimator

    return Estimator(**made.get("estimator") or {}).is_raw


_CURVES = (
    "Lines are means over prompts, bands the middle half of the prompts. What belongs to a layer stands at "
    "the depth that the layer reads. Shaded: the phases Mix, Compress and Refine."
)
_OVERLAID = (
    "Over relative depth: 0 are the embeddings, 1 is the last depth. Lines are means over prompts, bands the "
    "middle half of the prompts; dashed: without the sink token. Click a name in the legend to hide it."
)
_BOUNDS = (
    "One massive token forces a dominant singular value: entropy cannot lie above its bound, anisotropy and "
    "dominance not below theirs. Where the bound is met (tightness 1), the sink token alone explains the "
    "compression."
)
_HEADS = "Means over prompts. Point at a cell for its layer and head."
_LENS = "What each depth would predict, read out by the lens that took part in the profile."
_ROLES = (
    "Means over prompts. The role names the largest of the sink, identity and previous-token scores if it is "
    f"above {SINK_THRESHOLD}; else a head mixes if its mixing score is above {MIXING_THRESHOLD}."
)
