"""From paired outcomes to words: which causal claims a model supports, by stated rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Int

from mcr_lens.experiments.ablation.arms import RANDOM_DIRECTION
from mcr_lens.experiments.ablation.outcomes import reference_of
from mcr_lens.experiments.ablation.verdicts import CANNOT, Comparison, change, holm, removed_share
from mcr_lens.phases.compression import MIN_COMPRESSION

__all__ = ["PRIMARY", "Claim", "changed", "claims_of", "primary_arms", "verdict_table"]

REST = "normalized_entropy_without_sink"
PRIMARY = ("sink_rate", "loss", REST)
CHECK = "sink_compression"
# Fewer sinks or less compression than this are nothing to remove.
_LEAST = {"sink_rate": 0.05, CHECK: MIN_COMPRESSION}
# A norm changes when it at least halves or doubles, a direction when the cosine falls below this.
_FACTOR, _COSINE = 2.0, 0.9
_THINGS = {
    "norm": "the norm alone",
    "direction": "the direction alone",
    "norm and direction": "norm and direction together",
    "not measured": "the edit (what it changed was not measured)",
}
_QUESTIONS = {
    "sink_rate": "Do the sinks go with {}?",
    REST: "Does the other tokens' own entropy move with {}?",
    "loss": "Does losing {} cost loss?",
}
CHECK_QUESTION = "Check (arithmetic): does kappa fall with the norm?"

Verdict = Literal["supported", "in part", "not supported", "cannot be said", "holds", "does not hold"]


@dataclass(frozen=True)
class Claim:
    """A question, the answer for this model, and the numbers it rests on."""

    question: str
    verdict: Verdict
    why: str

    def __str__(self) -> str:
        return f"{self.question} {self.verdict}: {self.why}"


def changed(arm: str, attributes: Mapping[str, Any]) -> str:
    """What an arm measurably changed at the sink: norm, direction, both or neither; never by its name."""
    changes = attributes.get("changes")
    if changes is None:  # a file from before it was measured
        return "not measured" if arm in attributes.get("ends_norm", []) else "neither"
    if arm not in changes:
        return "neither"
    norm, cosine = changes[arm]["norm"], changes[arm]["cosine"]
    parts = ["norm"] * (norm <= 1 / _FACTOR or norm >= _FACTOR) + ["direction"] * (cosine < _COSINE)
    return " and ".join(parts) or "neither"


def primary_arms(kinds: Mapping[str, str], attributes: Mapping[str, Any]) -> dict[str, str]:
    """The treatments that changed something at the sink, and what."""
    changes = {arm: changed(arm, attributes) for arm, kind in kinds.items() if kind == "treatment"}
    return {arm: what for arm, what in changes.items() if what != "neither"}


def verdict_table(
    outcomes: xr.Dataset,
    kinds: Mapping[str, str],
    attributes: Mapping[str, Any],
    draws: xr.Dataset | None = None,
    cluster: Int[np.ndarray, "prompt"] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """A row for each primary arm and outcome at the largest dose, with its interval and verdict.

    Primary rows are arms that changed the sink's norm or direction, times sinks, loss and the other tokens'
    own entropy: ``holm`` judges them together. Kappa stands beside them as a check, at 95 % for itself.

    Args:
        outcomes: ``(arm, dose, prompt)``, controls of equal norm included.
        draws: outcomes of each draw of the random direction, ``(draw, prompt)``.
    """
    baseline, last = outcomes.isel(arm=0, dose=0), outcomes.isel(dose=-1)
    controls = [arm for arm in attributes.get("equal_norm_controls", []) if arm in kinds]
    rows: list[dict[str, Any]] = []
    compared: list[Comparison] = []
    for arm, what in primary_arms(kinds, attributes).items():
        for outcome in (CHECK, *PRIMARY):
            # The check asks what follows from the norm's fall; it is no claim that could be unspecific.
            beside = [] if outcome == CHECK else controls
            row = _compare(outcome, baseline, [last.sel(arm=name) for name in (arm, *beside)], cluster, seed)
            texts = [
                f"{name} {_number(outcome, row.value - b)}"
                for name, b in zip(beside, row.beyond, strict=True)
            ]
            if draws is not None and RANDOM_DIRECTION in beside:
                place = beside.index(RANDOM_DIRECTION)
                ends = _spread(outcome, baseline, draws)
                texts[place] += (
                    f" ({draws.sizes['draw']} draws: {' to '.join(_number(outcome, x) for x in ends)})"
                )
            rows.append(
                {"arm": arm, "changed": what, "outcome": outcome, "nothing": _nothing(outcome, baseline)}
            )
            rows[-1] |= {"value": float(row.value), "controls": "; ".join(texts)}
            compared.append(row)
    tested = [i for i, row in enumerate(rows) if row["outcome"] != CHECK and not row["nothing"]]
    answers = dict(zip(tested, holm([compared[i] for i in tested]), strict=True))
    for i, (row, comparison) in enumerate(zip(rows, compared, strict=True)):
        verdict, confidence = answers.get(i, (CANNOT, 0.95))
        low, high = comparison.ends(confidence)
        if row["outcome"] == CHECK and not row["nothing"]:
            verdict = "holds" if low > 0.5 else "does not hold" if high < 0.5 else CANNOT
            verdict = verdict if comparison.testable(confidence) else CANNOT
        row |= {"low": float(low), "high": float(high), "confidence": confidence, "verdict": verdict}
        row["why"] = row.pop("nothing") or _why(row, comparison, bool(controls))
    columns = [
        "arm",
        "changed",
        "outcome",
        "value",
        "low",
        "high",
        "confidence",
        "verdict",
        "controls",
        "why",
    ]
    return pd.DataFrame(rows, columns=columns)


def claims_of(verdicts: pd.DataFrame) -> list[Claim]:
    """The claims of a study. Arms that change the norm, the direction or both are never pooled.

    A claim is supported when every arm of its group ends the outcome (costs loss, moves entropy), by more
    than controls of equal norm; in part when some do; not supported when none does and all are decided.
    """
    # "norm", "norm and direction" and "not measured"; not "direction".
    check = verdicts.loc[(verdicts.outcome == CHECK) & (verdicts.changed != "direction"), :]
    claims = [_check(check)]
    groups = [what for what in _THINGS if (verdicts.changed == what).any()]
    for what in groups or ["norm"]:
        for outcome, question in _QUESTIONS.items():
            rows = verdicts.loc[(verdicts.changed == what) & (verdicts.outcome == outcome), :]
            claims.append(Claim(question.format(_THINGS[what]), *_answer(rows)))
    return claims


def _answer(rows: pd.DataFrame) -> tuple[Verdict, str]:
    if not len(rows):
        return CANNOT, "no treatment of this study changed the sink's norm or direction by much"
    does = rows.verdict.isin(["ends it", "costs loss", "moves it"])
    why = "; ".join(dict.fromkeys(rows.why))
    if does.all():
        return "supported", why
    if does.any():
        return "in part", why
    return (CANNOT if (rows.verdict == CANNOT).any() else "not supported"), why


def _check(rows: pd.DataFrame) -> Claim:
    if not len(rows):
        return Claim(CHECK_QUESTION, CANNOT, "no treatment of this study changed the sink's norm by much")
    verdict = next((each for each in ("does not hold", CANNOT) if (rows.verdict == each).any()), "holds")
    return Claim(CHECK_QUESTION, verdict, "; ".join(dict.fromkeys(rows.why)))  # type: ignore[arg-type]


def _compare(
    outcome: str,
    baseline: xr.Dataset,
    arms: Sequence[xr.Dataset],
    cluster: Int[np.ndarray, "prompt"] | None,
    seed: int,
) -> Comparison:
    """The first of the arms, held against the others."""
    base = baseline[outcome].values
    changes = [arm[outcome].values - base for arm in arms]
    resampling = {"seed": seed, "cluster": cluster}
    reference = reference_of(outcome, baseline)
    if reference is None:
        kind: Literal["cost", "move"] = "cost" if outcome == "loss" else "move"
        return change(kind, changes[0], changes[1:], **resampling)
    removed = [-difference for difference in changes]
    return removed_share(removed[0], base - reference, removed[1:], **resampling)


def _spread(outcome: str, baseline: xr.Dataset, draws: xr.Dataset) -> tuple[float, float]:
    """The smallest and the largest effect of a single draw."""
    base, reference = baseline[outcome].values, reference_of(outcome, baseline)
    effects = (draws[outcome].transpose("draw", "prompt").values - base) * (1 if reference is None else -1)
    known = ~np.isnan(effects).any(0)
    means = effects[:, known].mean(1) if known.any() else np.full(len(effects), np.nan)
    if reference is not None:
        means = means / (base - reference)[known].mean()
    return float(means.min()), float(means.max())


def _nothing(outcome: str, baseline: xr.Dataset) -> str:
    """Why there is nothing that could be removed; empty where there is."""
    value = float(baseline[outcome].mean())
    if np.isnan(value):
        return "it was not measured"
    if value >= _LEAST.get(outcome, -np.inf):
        return ""
    if outcome == "sink_rate":
        return f"the baseline has no sinks to lose (sink rate {value:.2f})"
    return f"the baseline is not compressed (kappa {value:.2f})"


def _why(row: Mapping[str, Any], comparison: Comparison, controlled: bool) -> str:
    outcome, verb = (
        row["outcome"],
        {"sink_rate": "removes", CHECK: "removes", "loss": "changes nats a token by"}.get(
            row["outcome"], "changes it by"
        ),
    )
    low, high = (_number(outcome, row[end]) for end in ("low", "high"))
    text = f"{row['arm']} {verb} {_number(outcome, row['value'])} [{low}, {high}]"
    if row["controls"]:
        text += f" (at equal norm: {row['controls']})"
    if row["outcome"] == CHECK:
        return text
    if not comparison.testable(row["confidence"]):
        least, asked = 2.0 ** (1 - comparison.n_units), 1 - row["confidence"]
        text += (
            f", and {comparison.n_units} prompts or clusters can give no p below {least:.2g} where "
            f"{asked:.2g} is asked for: use more"
        )
    elif not controlled:
        text += ", and there is no control of equal norm"
    return f"{text}: {row['verdict']}"


def _number(outcome: str, value: float) -> str:
    if outcome in ("sink_rate", CHECK):
        return f"{float(value):.0%}"
    return f"{float(value):+.3f}"
