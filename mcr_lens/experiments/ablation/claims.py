"""From paired effects to words: which causal claims a model supports, by stated rules."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

__all__ = ["Claim", "claims_of"]

# The rules. An arm ends a phenomenon when it removes at least half of it, beyond chance after correction.
SHARE = 0.5
ALPHA = 0.05
# A valley or sinks below this are nothing to remove.
MIN_DEPTH_OF_VALLEY = 0.1
MIN_SINK_RATE = 0.05

Verdict = Literal["supported", "in part", "not supported", "cannot be said"]
Answer = tuple[Verdict, str]


@dataclass(frozen=True)
class Claim:
    """A question, the answer for this model, and the numbers it rests on."""

    question: str
    verdict: Verdict
    why: str

    def __str__(self) -> str:
        return f"{self.question} {self.verdict}: {self.why}"


def claims_of(effects: pd.DataFrame, attributes: Mapping[str, Any], kinds: Mapping[str, str]) -> list[Claim]:
    """The four claims of a study at one dose.

    An arm ends a phenomenon when ``removed`` is at least 0.5 and ``p_adjusted`` at most 0.05. A claim that B
    follows the norm is supported when every treatment that ends the norm ends B and no control does; in part
    when some do; not supported when none does, or when a control does as well.

    Args:
        effects: from ``AblationStudy.effects``.
        attributes: those of the study.
        kinds: arm to ``"treatment"`` or ``"control"``.
    """
    table = effects[effects.versus == "baseline"].set_index(["arm", "outcome"])
    meant = [arm for arm in attributes["ends_norm"] if arm in kinds]
    ending = [arm for arm in meant if _ends(table, arm, "norm_ratio")]
    controls = [arm for arm, kind in kinds.items() if kind == "control"]
    answers = {
        "Does the valley follow the norm?": _follows(table, "normalized_entropy", meant, ending, controls),
        "Do sinks follow the norm?": _follows(table, "sink_rate", meant, ending, controls),
        "Are there sinks without the valley?": _sinks_without_valley(table, ending, kinds),
        "Does it cost loss?": _loss(table, kinds),
    }
    return [Claim(question, *answer) for question, answer in answers.items()]


def _ends(table: pd.DataFrame, arm: str, outcome: str) -> bool:
    row = table.loc[(arm, outcome)]
    return bool(row.removed >= SHARE and row.p_adjusted <= ALPHA)


def _follows(
    table: pd.DataFrame, outcome: str, meant: list[str], ending: list[str], controls: list[str]
) -> Answer:
    if nothing := _nothing_there(table, outcome):
        return "cannot be said", nothing
    if not ending:
        return "cannot be said", _why_none(table, meant, "norm_ratio", "norm")
    effective = [arm for arm in ending if _ends(table, arm, outcome)]
    controls_too = [arm for arm in controls if _ends(table, arm, outcome)]
    why = "; ".join(_change(table, arm, outcome) for arm in [*ending, *controls])
    if controls_too:
        return "not supported", f"a control ends it too ({', '.join(controls_too)}); {why}"
    return _verdict(effective, ending), why


def _verdict(do: list[str], arms: list[str]) -> Verdict:
    return "supported" if len(do) == len(arms) else "in part" if do else "not supported"


def _sinks_without_valley(table: pd.DataFrame, ending: list[str], arms: Collection[str]) -> Answer:
    if nothing := _nothing_there(table, "normalized_entropy") or _nothing_there(table, "sink_rate"):
        return "cannot be said", nothing
    ended = [arm for arm in ending if _ends(table, arm, "normalized_entropy")]
    keep = [arm for arm in ended if table.loc[(arm, "sink_rate")].removed < SHARE]
    why = [f"{_change(table, arm, 'sink_rate')}, where the valley is gone" for arm in keep or ended]
    if (blocking := "blocked sink") in arms:
        left = 1 - table.loc[(blocking, "normalized_entropy")].removed
        why.append(f"the converse, {_change(table, blocking, 'sink_rate')}, leaves {left:.0%} of the valley")
    if not ended:
        none = _why_none(table, ending, "normalized_entropy", "valley")
        return "cannot be said", "; ".join([none, *why])
    return "supported" if keep else "not supported", "; ".join(why)


def _loss(table: pd.DataFrame, kinds: Mapping[str, str]) -> Answer:
    rows = {arm: table.loc[(arm, "loss")] for arm in kinds}
    treatments = [arm for arm, kind in kinds.items() if kind == "treatment"]
    costly = [arm for arm in treatments if rows[arm].low > 0 and rows[arm].p_adjusted <= ALPHA]
    why = "; ".join(
        f"{arm}: {row.effect:+.3f} nats a token [{row.low:+.3f}, {row.high:+.3f}]"
        for arm, row in rows.items()
    )
    if not treatments:
        return "cannot be said", "there is no treatment"
    return _verdict(costly, treatments), why


def _nothing_there(table: pd.DataFrame, outcome: str) -> str | None:
    """Why there is nothing that could be removed."""
    row = table.xs(outcome, level="outcome").iloc[0]
    if outcome == "sink_rate" and row.against < MIN_SINK_RATE:
        return f"the baseline has no sinks to lose (sink rate {row.against:.2f})"
    if outcome == "normalized_entropy" and row.reference - row.against < MIN_DEPTH_OF_VALLEY:
        before = f"{row.reference:.2f} before emergence"
        return f"the baseline has no valley (normalized entropy {row.against:.2f}, {before})"
    return None


def _why_none(table: pd.DataFrame, arms: list[str], outcome: str, thing: str) -> str:
    """Why no arm ended something: none did, or none beyond chance with so few prompts."""
    if not arms:
        return "no arm of this study ended the norm, or none was meant to"
    rows = [table.loc[(arm, outcome)] for arm in arms]
    unsure = [row.p_adjusted for row in rows if row.removed >= SHARE]
    if not unsure:
        return f"no treatment ended half of the {thing}"
    return (
        f"{len(unsure)} of {len(arms)} treatments ended half of the {thing}, but not beyond chance: p "
        f"{min(unsure):.2g} after correction, {ALPHA:g} is asked for; use more prompts"
    )


def _change(table: pd.DataFrame, arm: str, outcome: str) -> str:
    row = table.loc[(arm, outcome)]
    name = {"normalized_entropy": "entropy", "sink_rate": "sink rate"}.get(outcome, outcome)
    return f"{arm}: {name} {row.against:.2f} -> {row.there:.2f}"
