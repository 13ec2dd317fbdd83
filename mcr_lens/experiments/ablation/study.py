"""``AblationStudy``: every dose of every arm by prompt and depth, and what the paired comparison says."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.experiments.ablation.claims import Claim, claims_of
from mcr_lens.results import Result
from mcr_lens.results.tables import count
from mcr_lens.stats import PairedEffect, adjusted, bootstrap_interval, paired_effect
from mcr_lens.thresholds import SINK_THRESHOLD

__all__ = ["AblationStudy"]

OUTCOMES = (
    "norm_ratio",
    "normalized_entropy",
    "normalized_entropy_without_sink",
    "sink_rate",
    "sink_score",
    "loss",
)
OTHER_TOKEN = "control: other token"
_NO_EFFECT = PairedEffect(*[float("nan")] * 5, smallest_p=0.0, n=0, left_out=0)


class AblationStudy(Result):
    """Doses x arms x prompts of an ablation.

    Attributes:
        data: an ``xarray.Dataset`` with dimensions ``arm``, ``dose``, ``prompt``, ``depth``, ``layer`` and
            ``head``; dose 0 is the baseline in every arm. ``kind`` tells treatments from controls,
            ``attrs["arms"]`` says what each arm does.
    """

    kind = "ablation study"
    dims = ("arm", "depth", "dose", "prompt")

    def outcomes(self) -> xr.Dataset:
        """One number an outcome, (arm, dose, prompt).

        Norm ratio and entropies are means over the depths where the baseline is compressed (the depth of
        the largest norm ratio where it has no compression phase), sink rate and sink score means over the
        layers that read these depths and their heads; the loss (nats a token) is that of the last depth,
        the model's own. A prompt whose states hold Inf or NaN at one of these depths has no outcome but
        NaN: half a mean is left out of every comparison.
        """
        depths = self.data.attrs["compressed_depths"]
        layers = [depth for depth in depths if depth in self.data.layer] or [int(self.data.layer[-1])]
        at_depths, at_layers = self.data.sel(depth=depths), self.data.sel(layer=layers)
        score = at_layers["sink_score"]
        rate = (score > SINK_THRESHOLD).where(score.notnull())
        outcomes = {name: at_depths[name].mean("depth") for name in OUTCOMES[:3]}
        outcomes |= {"sink_rate": rate.mean(["layer", "head"]), "sink_score": score.mean(["layer", "head"])}
        outcomes["loss"] = self.data["lens_loss"].isel(depth=-1, drop=True)
        begins = self.data.coords.get("not_finite_depth")
        data = xr.Dataset(outcomes)
        return data if begins is None else data.where((begins < 0) | (begins > depths[-1]))

    def dose_curves(self, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
        """Mean over prompts of every outcome with its bootstrap interval, (arm, dose, estimate)."""
        outcomes = self.outcomes()
        curves = {}
        for name in OUTCOMES:
            values = outcomes[name].transpose("prompt", "arm", "dose")
            low, high = bootstrap_interval(values.values, confidence=confidence, seed=seed)
            stacked = np.stack([values.mean("prompt").values, low, high], axis=-1)
            curves[name] = (("arm", "dose", "estimate"), stacked)
        coords = {"arm": outcomes.arm, "dose": outcomes.dose, "estimate": ["mean", "low", "high"]}
        return xr.Dataset(curves, coords=coords)

    def effects(self, dose: float | None = None, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """Paired effects of every arm at a dose (the largest by default), a row an arm and outcome.

        Every arm is held against the baseline; treatments also against the matched control at another
        token. ``effect`` is the mean difference over prompts with its bootstrap interval ``low``, ``high``;
        ``standardized`` that mean over the standard deviation of the differences; ``p`` a sign-flip
        permutation test, ``p_adjusted`` corrected for all rows of the table (Benjamini-Yekutieli).
        ``removed`` is the share of the phenomenon that is gone: 0 as in the baseline, 1 as before emergence
        (sinks: none at all). ``attrs["smallest_p"]`` is the smallest p that the test can give with so many
        prompts. The numbers of a row are of the prompts that have the outcome on both sides; NaN without any.
        """
        dose = float(self.data.dose[-1]) if dose is None else dose
        if dose not in self.data.dose.values:
            raise InputError(
                f"dose {dose}: this study has {', '.join(f'{d:g}' for d in self.data.dose.values)}"
            )
        outcomes = self.outcomes()
        baseline = outcomes.isel(arm=0).sel(dose=0)
        kinds = self._kinds()
        comparisons = [(arm, "baseline") for arm in kinds]
        if OTHER_TOKEN in kinds:
            comparisons += [(arm, OTHER_TOKEN) for arm, kind in kinds.items() if kind == "treatment"]
        rows, smallest = [], 0.0
        for (arm, versus), outcome in product(comparisons, OUTCOMES):
            other = baseline if versus == "baseline" else outcomes.sel(arm=versus, dose=dose)
            there, against = outcomes[outcome].sel(arm=arm, dose=dose).values, other[outcome].values
            both = ~np.isnan(there) & ~np.isnan(against)
            effect = _NO_EFFECT
            if both.any():
                effect = paired_effect(there, against, confidence=confidence, seed=seed)
            smallest = max(smallest, effect.smallest_p)
            row = {"arm": arm, "versus": versus, "outcome": outcome}
            row |= {"there": _mean(there[both]), "against": _mean(against[both]), "effect": effect.mean}
            row |= {name: getattr(effect, name) for name in ("low", "high", "standardized", "p")}
            removed = self._removed(outcomes[outcome], arm, dose)
            rows.append(row | {"reference": self._reference(outcome), "removed": removed})
        table = pd.DataFrame(rows)
        table.insert(list(table).index("p") + 1, "p_adjusted", adjusted(table["p"].to_numpy()))
        table.attrs = {"smallest_p": smallest, "comparisons": len(table), "dose": dose}
        return table

    def outcome_table(self) -> pd.DataFrame:
        """Mean of every outcome over prompts at the largest dose: a row an arm, the baseline first.

        Of the prompts that have the outcome in every row, so that rows can be compared.
        """
        outcomes = self.outcomes()
        both = xr.concat([outcomes.isel(dose=-1), outcomes.isel(dose=0)], "dose", join="override")
        means = outcomes.where(both.notnull().all(["arm", "dose"])).mean("prompt")
        baseline = means.isel(arm=0, dose=0).to_array().to_series().rename("baseline")
        treated = means.isel(dose=-1).to_array().transpose("arm", "variable")
        table = pd.DataFrame(treated.values, index=treated.arm.values, columns=list(baseline.index))
        return pd.concat([baseline.to_frame().T, table]).rename_axis(index="arm", columns=None)

    summary = outcome_table

    def claims(self) -> list[Claim]:
        """Which of the paper's causal claims this model supports, at the largest dose, in words."""
        return claims_of(self.effects(), self.data.attrs, self._kinds())

    def sentences(self) -> list[str]:
        """The claims, and what speaks for or against each."""
        return [str(claim) for claim in self.claims()]

    @property
    def headline(self) -> str:
        """What was studied, in one line."""
        sizes = self.data.sizes
        return (
            f"Ablation study of {self.model_name}, {count(sizes['prompt'], 'prompt')}, "
            f"{count(sizes['arm'], 'arm')}, doses {', '.join(f'{dose:g}' for dose in self.data.dose.values)}"
        )

    def _kinds(self) -> dict[str, str]:
        return dict(zip(self.data.arm.values.tolist(), self.data.kind.values.tolist(), strict=True))

    def _reference(self, name: str, prompts: np.ndarray | slice = slice(None)) -> float:
        """What an outcome is where nothing is massive: its value before emergence; no sinks; NaN for loss."""
        if name in ("sink_rate", "sink_score"):
            return 0.0
        if name == "loss":
            return float("nan")
        before = self.data[name].sel(depth=self.data.attrs["before_depth"], dose=0)
        return float(before.isel(arm=0, prompt=prompts).mean())

    def _removed(self, outcome: xr.DataArray, arm: str, dose: float) -> float:
        """Share of the baseline's phenomenon that is gone; NaN where there was none."""
        of_arm = outcome.sel(arm=arm, dose=[0, dose]).transpose("dose", "prompt")
        both = of_arm.notnull().all("dose").values
        base, there = (_mean(values[both]) for values in of_arm.values)
        whole = base - self._reference(str(outcome.name), both)
        return (base - there) / whole if abs(whole) > 1e-6 else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
