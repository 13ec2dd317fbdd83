"""``AblationStudy``: every dose of every arm by prompt and depth, and what the paired comparison says."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import xarray as xr

from mcr_lens.errors import InputError
from mcr_lens.experiments.ablation.arms import OTHER_TOKEN, RANDOM_DIRECTION
from mcr_lens.experiments.ablation.claims import PRIMARY, Claim, claims_of, primary_arms, verdict_table
from mcr_lens.experiments.ablation.clusters import SHARED, cluster_labels
from mcr_lens.experiments.ablation.outcomes import OUTCOMES, outcomes_of, reference_of
from mcr_lens.results import Result
from mcr_lens.results.tables import count
from mcr_lens.stats import PairedEffect, adjusted, bootstrap_interval, paired_effect
from mcr_lens.stats.bootstrap import bootstrap_ratio, cluster_numbers

__all__ = ["AblationStudy"]

_NO_EFFECT = PairedEffect(*[float("nan")] * 5, smallest_p=0.0, n=0, left_out=0)


class AblationStudy(Result):
    """Doses x arms x prompts of an ablation.

    Attributes:
        data: an ``xarray.Dataset`` with dimensions ``arm``, ``dose``, ``prompt``, ``depth``, ``layer`` and
            ``head``; dose 0 is the baseline in every arm. ``kind`` tells treatments from controls,
            ``attrs["arms"]`` says what each arm does and ``attrs["changes"]`` what it measurably changed at
            the sink token. ``random_direction`` has the outcomes of each draw of that control.
    """

    kind = "ablation study"
    dims = ("arm", "depth", "dose", "prompt")

    def by_cluster(self, cluster: object) -> AblationStudy:
        """The same study with prompts in clusters, which every interval and test then goes by.

        Prompts of one template or document are near-copies: drawn singly, they make intervals far too short.

        Args:
            cluster: a label for each prompt, or the name of a coordinate of the prompts.
        """
        labels = cluster_labels(cluster, self.data)
        return AblationStudy(self.data.assign_coords(cluster=("prompt", labels)))

    def outcomes(self) -> xr.Dataset:
        """One number for each outcome, (arm, dose, prompt); see ``outcomes_of``.

        The control in random directions is the mean of its draws; it has the largest dose and no other.
        """
        outcomes = outcomes_of(self.data, self.data.attrs)
        draws = self._draws()
        if draws is None:
            return outcomes
        # A column for every dose: that of the baseline, nothing between, and the mean of the draws.
        random = outcomes.isel(arm=[0]).transpose("arm", "dose", ...).copy(deep=True)
        for name, values in random.items():
            values[:, 1:] = np.nan
            values[:, -1] = draws[name].mean("draw")
        random = random.assign_coords(
            arm=np.array([RANDOM_DIRECTION], dtype=object), kind=("arm", ["control"])
        )
        names = np.array(outcomes.arm.values.tolist(), dtype=object)
        return xr.concat([outcomes.assign_coords(arm=names), random], "arm")

    def dose_curves(self, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
        """Mean over prompts of every outcome with its bootstrap interval, (arm, dose, estimate)."""
        outcomes = self.outcomes()
        curves, cluster = {}, self._cluster()
        for name in OUTCOMES:
            values = outcomes[name].transpose("prompt", "arm", "dose")
            low = high = np.full(values.shape[1:], np.nan)
            if values.notnull().any():
                low, high = bootstrap_interval(
                    values.values, confidence=confidence, seed=seed, cluster=cluster
                )
            stacked = np.stack([values.mean("prompt").values, low, high], axis=-1)
            curves[name] = (("arm", "dose", "estimate"), stacked)
        coords = {"arm": outcomes.arm, "dose": outcomes.dose, "estimate": ["mean", "low", "high"]}
        return xr.Dataset(curves, coords=coords)

    def effects(self, dose: float | None = None, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """Paired effects of every arm at a dose (the largest by default), a row an arm and outcome.

        Every arm is held against the baseline; treatments also against the controls of equal norm.
        ``effect`` is the mean difference over prompts with its bootstrap interval ``low``, ``high``;
        ``standardized`` that mean over the standard deviation of the differences; ``p`` a sign-flip
        permutation test, whose null is that differences are symmetric about 0; ``p_adjusted`` the same
        corrected for the primary rows of a study (Holm), NaN in the others. ``removed`` is the share of the
        phenomenon that is gone, a ratio of means over prompts with its interval: 0 as in the baseline, 1
        where the sink plays no role (no kappa, no sinks, the entropy without it at the same depths). The
        other tokens' own entropy and the loss have none. ``attrs["smallest_p"]`` is the smallest p that the
        test can give with so many prompts. The numbers of a row are of the prompts that have the outcome on
        both sides; NaN without any.
        """
        dose = float(self.data.dose[-1]) if dose is None else dose
        if dose not in self.data.dose.values:
            raise InputError(
                f"dose {dose}: this study has {', '.join(f'{d:g}' for d in self.data.dose.values)}"
            )
        outcomes = self.outcomes()
        baseline = outcomes.isel(arm=0).sel(dose=0)
        kinds = self.kinds()
        comparisons = [(arm, "baseline") for arm in kinds]
        controls = self.data.attrs.get("equal_norm_controls", [OTHER_TOKEN])
        comparisons += [
            (arm, control)
            for control in controls
            if control in kinds
            for arm, kind in kinds.items()
            if kind == "treatment"
        ]
        rows, smallest = [], 0.0
        for (arm, versus), outcome in product(comparisons, OUTCOMES):
            other = baseline if versus == "baseline" else outcomes.sel(arm=versus, dose=dose)
            there, against = outcomes[outcome].sel(arm=arm, dose=dose).values, other[outcome].values
            both = ~np.isnan(there) & ~np.isnan(against)
            effect = _NO_EFFECT
            if both.any():
                effect = paired_effect(
                    there, against, confidence=confidence, seed=seed, cluster=self._cluster()
                )
            smallest = max(smallest, effect.smallest_p)
            row = {"arm": arm, "versus": versus, "outcome": outcome}
            row |= {"there": _mean(there[both]), "against": _mean(against[both]), "effect": effect.mean}
            row |= {name: getattr(effect, name) for name in ("low", "high", "standardized", "p")}
            rows.append(row | self._removed(outcomes, outcome, arm, dose, confidence, seed))
        table = pd.DataFrame(rows)
        primary = table.arm.isin(list(primary_arms(kinds, self.data.attrs))) & table.outcome.isin(PRIMARY)
        primary &= table.versus == "baseline"
        corrected = adjusted(table["p"].where(primary).to_numpy(), "holm")
        table.insert(list(table).index("p") + 1, "p_adjusted", corrected)
        table.attrs = {"smallest_p": smallest, "comparisons": int(primary.sum()), "dose": dose}
        return table

    def outcome_table(self) -> pd.DataFrame:
        """Mean of every outcome over prompts at the largest dose: a row an arm, the baseline first.

        Of the prompts that have the outcome in every row, so that rows can be compared; an arm of which no
        prompt has it is NaN.
        """
        outcomes = self.outcomes()
        both = xr.concat([outcomes.isel(dose=-1), outcomes.isel(dose=0)], "dose", join="override")
        missing = both.isnull() & ~both.isnull().all("prompt")
        means = outcomes.where(~missing.any(["arm", "dose"])).mean("prompt")
        baseline = means.isel(arm=0, dose=0).to_array().to_series().rename("baseline")
        treated = means.isel(dose=-1).to_array().transpose("arm", "variable")
        table = pd.DataFrame(treated.values, index=treated.arm.values, columns=list(baseline.index))
        return pd.concat([baseline.to_frame().T, table]).rename_axis(index="arm", columns=None)

    summary = outcome_table

    def verdicts(self, seed: int = 0) -> pd.DataFrame:
        """What can be said of each arm that changed the sink, by outcome: see ``verdict_table``."""
        return verdict_table(
            self.outcomes(), self.kinds(), self.data.attrs, self._draws(), self._cluster(), seed
        )

    def claims(self) -> list[Claim]:
        """Which causal claims this model supports, at the largest dose, in words."""
        return claims_of(self.verdicts())

    def sentences(self) -> list[str]:
        """The claims, and what speaks for or against each."""
        return [str(claim) for claim in self.claims()]

    def caveats(self) -> list[str]:
        """What to beware of: nothing to remove, near-copies among the prompts, and what any result has."""
        attributes = self.data.attrs
        notes = [attributes["below_gate"]] if attributes.get("below_gate") else []
        shared = attributes.get("shared_tokens", 0.0)
        if shared > SHARED and self._cluster() is None:
            notes.append(
                f"a prompt shares {shared:.0%} of its tokens with another one (median): near-copies make "
                "intervals too short and verdicts too sure; give cluster=, one label for each template or "
                "document"
            )
        return [*notes, *super().caveats()]

    @property
    def headline(self) -> str:
        """What was studied, in one line."""
        sizes = self.data.sizes
        return (
            f"Ablation study of {self.model_name}, {count(sizes['prompt'], 'prompt')}, "
            f"{count(sizes['arm'], 'arm')}, doses {', '.join(f'{dose:g}' for dose in self.data.dose.values)}"
        )

    def kinds(self) -> dict[str, str]:
        """Arm to ``"treatment"`` or ``"control"``, in order."""
        kinds = dict(zip(self.data.arm.values.tolist(), self.data.kind.values.tolist(), strict=True))
        return kinds | ({RANDOM_DIRECTION: "control"} if "random_direction" in self.data else {})

    def _draws(self) -> xr.Dataset | None:
        """Outcomes of each draw of the random direction, (draw, prompt)."""
        if "random_direction" not in self.data:
            return None
        draws = self.data["random_direction"].reset_coords(drop=True)
        return draws.assign_coords(prompt=self.data.prompt).to_dataset("outcome")

    def _cluster(self) -> np.ndarray | None:
        labels = self.data.coords.get("cluster")
        return None if labels is None else cluster_numbers(labels.values, self.data.sizes["prompt"])

    def _removed(
        self, outcomes: xr.Dataset, name: str, arm: str, dose: float, confidence: float, seed: int
    ) -> dict[str, float]:
        """Share of the baseline's phenomenon that is gone, with its interval; NaN where there was none."""
        names = ("reference", "removed", "removed_low", "removed_high")
        row: dict[str, float] = {name: float("nan") for name in names}
        baseline = outcomes.isel(arm=0).sel(dose=0)
        reference = reference_of(name, baseline)
        base, there = baseline[name].values, outcomes[name].sel(arm=arm, dose=dose).values
        if reference is None:
            return row
        known = ~np.isnan(base + there + reference)
        row["reference"] = _mean(reference[known])
        whole, removed = (base - reference)[known], (base - there)[known]
        if not known.any() or abs(whole.mean()) <= 1e-6:
            return row
        cluster = self._cluster()
        low, high = bootstrap_ratio(
            removed[:, None], whole[:, None], confidence=confidence, seed=seed,
            cluster=None if cluster is None else cluster[known],
        )  # fmt: skip
        share = float(removed.mean() / whole.mean())
        return row | {"removed": share, "removed_low": float(low[0]), "removed_high": float(high[0])}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
