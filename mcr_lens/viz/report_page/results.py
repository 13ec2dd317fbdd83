"""What a report says and shows of studies, lenses, patching, training runs and tasks."""

from collections.abc import Mapping, Sequence

import pandas as pd

from mcr_lens.errors import InputError
from mcr_lens.experiments.appearance import appearance
from mcr_lens.experiments.lenses import lens_summary
from mcr_lens.experiments.study import AblationStudy
from mcr_lens.results import Profile
from mcr_lens.viz.doses import dose_response
from mcr_lens.viz.lenses import lens_curves
from mcr_lens.viz.maps import patching_map
from mcr_lens.viz.report_page.content import (
    Block,
    Figure,
    Heading,
    More,
    Note,
    Section,
    Table,
    Words,
    number,
    table,
    with_interval,
)
from mcr_lens.viz.report_page.runs import Run, Tasks, whole
from mcr_lens.viz.tasks import task_depth
from mcr_lens.viz.training_maps import training

__all__ = ["Found", "lenses", "patching", "study", "tasks", "training_run"]

Sentence = str | tuple[str, str, str]
# What was found, in words, and the section that shows it.
Found = tuple[list[Sentence], Section]

_BEST = (
    "kind",
    "metric",
    "best_depth",
    "best_low",
    "best_high",
    "best_quality",
    "last_depth",
    "last_quality",
)
_EXIT = ("gain", "gain_low", "gain_high", "exit_depth", "exit_low", "exit_high", "blocks_saved", "units")


def study(run: Run) -> Found:
    """The claims with their verdicts; dose and response; the arms."""
    with whole(run.source):
        found: AblationStudy = run.data
        effects, claims = found.effects(), found.claims()
        words: list[Sentence] = [(claim.verdict, claim.question, claim.why) for claim in claims]
        dose = effects.attrs["dose"]
        arms: Mapping[str, str] = run.attributes["arms"]
        blocks: list[Block] = [
            Note(f"{found.headline}."),
            Figure(
                dose_response(found),
                "Means over prompts with 95 % bootstrap intervals; controls are grey and dotted. Norm ratio "
                "and entropy over the depths where the baseline is compressed, sink rate over the layers "
                "that read them.",
            ),
            Heading(f"Outcomes at dose {dose:g}"),
            table(found.outcome_table(), "Loss is the model's own, in nats a token."),
            Heading("Arms, at dose 1"),
            Words([f"{arm}: {what}." for arm, what in arms.items()]),
            More("Paired effects", [_effects(effects)]),
        ]
        return words, Section(f"Ablation: {run.label}", blocks)


def _effects(effects: pd.DataFrame) -> Table:
    smallest, n = effects.attrs["smallest_p"], effects.attrs["comparisons"]
    shown = pd.DataFrame(effects, columns=["arm", "versus", "outcome", "there", "against"])
    shown["effect"] = with_interval(effects, "effect", "low", "high")
    columns = ["standardized", "p", "p_adjusted", "removed"]
    shown[columns] = effects[columns]
    caption = (
        f"Sign-flip permutation tests over prompts, which give no p below {smallest:.2g}; p adjusted for {n} "
        "comparisons (Benjamini-Yekutieli). Removed: 0 as in the baseline, 1 as before emergence."
    )
    return table(shown.set_index("arm"), caption)


def lenses(runs: Sequence[Run]) -> Found:
    """All lenses in one figure."""
    words: list[Sentence] = []
    tables: list[Block] = []
    for run in runs:
        with whole(run.source):
            summary = lens_summary(run.data)
            tables += [
                Heading(run.label),
                table(summary, "Every token counts the same; loss, entropy and KL in nats."),
            ]
            loss = summary["loss"].dropna() if "loss" in summary else pd.Series(dtype=float)
            if len(loss):
                steepest = (-loss.diff()).idxmax() if len(loss) > 1 else loss.index[0]
                words.append(
                    f"{run.label}: the loss on the next token is {number(loss.iloc[0])} nats at depth "
                    f"{loss.index[0]} and {number(loss.iloc[-1])} at depth {loss.index[-1]}; it falls most "
                    f"on the way to depth {steepest}."
                )
    with whole(runs[0].source if len(runs) == 1 else "the lenses"):
        drawn = lens_curves(runs[0].data if len(runs) == 1 else {run.label: run.data for run in runs})
    caption = "What each depth would predict: means over prompts, bands the middle half of the prompts."
    return words, Section("Lenses", [Figure(drawn, caption), More("Every depth in numbers", tables)])


def patching(run: Run) -> Found:
    """The map of a sweep, and its largest place."""
    with whole(run.source):
        name = "lost" if "lost" in run.data else "recovered"
        mean = run.data[name].mean("prompt")
        places = mean.stack(place=mean.dims).to_series().dropna()
        words: list[Sentence] = []
        if len(places):
            at = places.idxmax()
            at = at if isinstance(at, tuple) else (at,)
            where = ", ".join(f"{dim} {place}" for dim, place in zip(mean.dims, at, strict=True))
            words = [f"{run.label}: the patch that does most ({name} {places.max():.2f}) is at {where}."]
        pairs = run.data.sizes["prompt"]
        caption = (
            f"Mean over {pairs} pair{'s' * (pairs != 1)}. 1: all of the difference, 0: the patch did nothing."
        )
        return words, Section(f"Patching: {run.label}", [Figure(patching_map(run.data), caption)])


def training_run(run: Run) -> Found:
    """When what appeared; steps by depth; what each step reaches."""
    with whole(run.source):
        found: Profile = run.data
        several = found.data.sizes["step"] > 1
        words: list[Sentence] = [*str(appearance(found)).split("\n")] if several else []
        levels = pd.DataFrame(
            {
                "largest norm ratio": found["norm_ratio"].mean("prompt").max("depth").to_series(),
                "lowest entropy": found["normalized_entropy"].mean("prompt").min("depth").to_series(),
                "largest sink rate": found.sink_rate().mean("prompt").max("layer").to_series(),
            }
        ).rename_axis("step")
        blocks: list[Block] = [
            Note(f"{found.headline}."),
            Figure(
                training(found), "Means over prompts. Steps stand side by side, whatever lies between them."
            ),
            Heading("What each step reaches"),
            table(levels),
        ]
        return words, Section(f"Training: {run.label}", blocks)


def tasks(run: Run, profile: Profile | None) -> Found:
    """The best depth for each use; quality by depth over the phases of a profile of the same model."""
    with whole(run.source):
        found: Tasks = run.data
        if not {"best_depth", "last_depth", "best_quality", "last_quality"} <= set(found.best.columns):
            raise InputError("best_depth.csv is no table of best depths")
        words: list[Sentence] = []
        for use, row in found.best.iterrows():
            text = (
                f"{use}: best at depth {row.best_depth} [{row.best_low}, {row.best_high}] of "
                f"{row.last_depth} ({row.metric} {float(row.best_quality):.3f}; "
                f"{float(row.last_quality):.3f} at the last depth)"
            )
            kept, early = float(row.exit_kept), row.exit_depth
            # Where one could stop, if that is not the end.
            saves = kept == kept and early != row.last_depth
            words.append(f"{text}; {kept:.0%} of that is there at depth {early}." if saves else f"{text}.")
        shaded = " Shaded: the phases of the model's profile in this report." if profile is not None else ""
        best = pd.DataFrame(
            found.best, columns=["kind", "metric", "best_quality", "last_quality", "last_depth"]
        )
        best.insert(2, "best_depth", with_interval(found.best, "best_depth", "best_low", "best_high"))
        best["gain"] = with_interval(found.best, "gain", "gain_low", "gain_high")
        best["exit_depth"] = with_interval(found.best, "exit_depth", "exit_low", "exit_high")
        blocks: list[Block] = [
            Figure(
                task_depth(found.quality, profile),
                "Means over units with 95 % bootstrap intervals; a star marks the best depth, probes are "
                f"dashed.{shaded}",
            ),
            Heading("Best depth for each use"),
            table(best, "The gain over the last depth is measured on units that did not choose the depth."),
        ]
        return words, Section(f"Tasks: {run.label}", blocks)
