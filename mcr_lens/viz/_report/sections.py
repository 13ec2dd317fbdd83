"""What a report shows of each kind of result: numbers come from here, words and order from its template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from mcr_lens.phases import Phases
from mcr_lens.phases.curves import is_raw
from mcr_lens.results import Profile, findings
from mcr_lens.thresholds import SINK_THRESHOLD
from mcr_lens.viz._report.gather import Run, naming
from mcr_lens.viz._report.html import template

_STRONGEST = 10
_SCORES = ["sink_score", "identity_score", "previous_token_score", "mixing_score"]
_TEMPLATES = {"ablation study": "study.html", "activation patching": "patching.html"}


def sections(runs: Sequence[Run]) -> Iterator[Any]:
    """A section (``title``, ``words``, ``body``) for the profiles, one for the lenses, others by run."""
    profiles = [run for run in runs if run.kind == "profile"]
    lenses = [run for run in runs if run.kind == "lens"]
    if profiles:
        yield _profiles(profiles)
    if lenses:
        contents = {run.label: run.content for run in lenses}
        name = lenses[0].source if len(lenses) == 1 else "the lenses"
        only = lenses[0].content if len(lenses) == 1 else contents
        yield section("lenses.html", name, runs=lenses, lenses=only)
    for kind, name in _TEMPLATES.items():
        yield from (section(name, run.source, run=run) for run in runs if run.kind == kind)
    for run in runs:
        if run.kind == "training":
            yield _training(run)
    for run in runs:
        if run.kind == "tasks":
            yield section("tasks.html", run.source, run=run, profile=_profile_of(run, profiles))


def section(name: str, source: str, **values: Any) -> Any:
    """A template with these values; what goes wrong in it is told of ``source``."""
    with naming(source):
        return template(name).make_module(values)


def _training(run: Run) -> Any:
    from mcr_lens.experiments.appearances import appearance, levels_by_step

    with naming(run.source):
        profile = run.content
        sentences = str(appearance(profile)).split("\n") if profile.data.sizes["step"] > 1 else []
        levels = levels_by_step(profile)
        return section("training.html", run.source, run=run, sentences=sentences, levels=levels)


def _profile_of(run: Run, profiles: Sequence[Run]) -> Profile | None:
    """A profile of the same model, untouched."""
    names = ("model", "revision")
    same = (
        each.content
        for each in profiles
        if all(each.attributes.get(name) == run.attributes.get(name) for name in names)
        and not each.attributes.get("interventions")
    )
    return next(same, None)


def _profiles(runs: Sequence[Run]) -> Any:
    """One profile by itself, or several compared."""
    from mcr_lens.metrics import MIXING_THRESHOLD

    parts, facts = {}, {}
    for run in runs:
        with naming(run.source):
            profile = run.content
            phases = profile.phases() if profile.has_phases else None
            facts[run.label] = _facts(profile, phases)
            parts[run.label] = section(
                "profile.html",
                run.source,
                phases=phases,
                sentences=_sentences(profile, phases),
                run=run,
                is_raw=is_raw(profile.data),
                strongest=_strongest(profile) if "sink_score" in profile else None,
                sink_threshold=SINK_THRESHOLD,
                mixing_threshold=MIXING_THRESHOLD,
            )
    table = pd.DataFrame(facts).fillna("not measured")
    if len(runs) == 1:
        table.columns = [""]
    profiles = {run.label: run.content for run in runs}
    return section("profiles.html", "these profiles", parts=parts, facts=table, profiles=profiles)


def _facts(profile: Profile, phases: Phases | None) -> dict[str, str]:
    """A few quantities by name: what is compared between profiles."""
    sizes, summary = profile.data.sizes, profile.summary()
    facts = {
        "layers × heads": f"{sizes['depth'] - 1} × {sizes.get('head', '–')}",
        "prompts": f"{sizes['prompt']:,} of up to {int(profile.data.n_tokens.max()):,} tokens",
        "phases": profile.sentences()[0] if phases is None else phases.headline,
    }
    for name in ("emergence", "dissipation"):
        stages = getattr(phases, name, None)
        if stages is not None:
            intervals = phases.intervals if phases else None
            places = getattr(intervals, name, None) or [stage.layer for stage in stages]
            facts[f"{name} layers"] = ", ".join(map(str, places)) or "no single layer"
    ratio = summary["norm_ratio"].dropna()
    if len(ratio):
        facts["largest norm ratio"] = f"{ratio.max():,.1f} at depth {ratio.idxmax()}"
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


def _sentences(profile: Profile, phases: Phases | None) -> list[str]:
    """What was found, a sentence per finding, the phases first."""
    *others, headline = findings(profile)
    if phases is None:
        return [headline, *others]
    first, *rest = str(phases.intervals).split("\n")
    intervals = f"{first[:1].upper()}{first[1:]} {'; '.join(line.strip() for line in rest)}".strip()
    return [headline, *others, f"{intervals}."]


def _strongest(profile: Profile) -> pd.DataFrame:
    """The heads with the largest sink scores, means over prompts."""
    import torch

    from mcr_lens.metrics import ROLES, head_roles

    scores = profile.data[[name for name in _SCORES if name in profile.data]]
    above = f"prompts from {SINK_THRESHOLD}"
    means = scores.assign({above: scores["sink_score"] >= SINK_THRESHOLD}).mean("prompt")
    table = means.to_dataframe(dim_order=["layer", "head"]).reset_index().nlargest(_STRONGEST, "sink_score")
    table[above] = table[above].map("{:.0%}".format)
    # A score that could not be measured is NaN.
    sink, identity, previous, mixing = torch.tensor(table.reindex(columns=_SCORES).to_numpy(dtype=float).T)
    table["role"] = [ROLES[int(role)] for role in head_roles(sink, identity, previous, mixing)]
    return table.set_index("layer").round(3)
