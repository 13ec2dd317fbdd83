"""What a report says and shows of studies, lenses, patching, training runs and tasks.

Each function returns the title of a section, what was found in words, and the blocks of the section.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mcr_lens.errors import InputError
from mcr_lens.results import describe
from mcr_lens.viz._dose_response import dose_response
from mcr_lens.viz._lens_curves import lens_curves
from mcr_lens.viz._patching_map import patching_map
from mcr_lens.viz._report.gather import Run, naming
from mcr_lens.viz._report.html import Block, with_interval
from mcr_lens.viz._task_depth import task_depth
from mcr_lens.viz._training import training

__all__ = ["lenses", "patching", "study", "tasks", "training_run"]

Part = tuple[str, list[Block], list[Block]]


def study(run: Run) -> Part:
    """The claims with their verdicts; dose and response; the arms."""
    effects = run.content.effects()
    claims = [(claim.verdict, claim.question, claim.why) for claim in run.content.claims()]
    smallest, n = effects.attrs["smallest_p"], effects.attrs["comparisons"]
    paired = effects.assign(effect=with_interval(effects, "effect", "low", "high"))
    paired = paired.drop(columns=["low", "high", "reference"]).set_index("arm")
    tests = (
        f"Sign-flip permutation tests over prompts, which give no p below {smallest:.2g}; p adjusted for "
        f"{n} comparisons (Benjamini-Yekutieli). Removed: 0 as in the baseline, 1 as before emergence."
    )
    means = (
        "Means over prompts with 95 % bootstrap intervals; controls are grey and dotted. Norm ratio and "
        "entropy over the depths where the baseline is compressed, sink rate over the layers that read them."
    )
    arms = [f"{arm}: {what}." for arm, what in run.attributes["arms"].items()]
    blocks: list[Block] = [
        {"note": f"{run.content.headline}."},
        {"figure": dose_response(run.content), "caption": means},
        {"heading": f"Outcomes at dose {effects.attrs['dose']:g}"},
        {"table": run.content.outcome_table(), "caption": "Loss is the model's own, in nats a token."},
        {"heading": "Arms, at dose 1"},
        {"words": arms},
        {"more": "Paired effects", "blocks": [{"table": paired, "caption": tests}]},
    ]
    return f"Ablation: {run.label}", _words(run, claims), blocks


def lenses(runs: Sequence[Run]) -> Part:
    """All lenses in one figure."""
    from mcr_lens.experiments import lens_summary

    words: list[Block] = []
    tables: list[Block] = []
    for run in runs:
        with naming(run.source):
            summary = lens_summary(run.content)
            caption = "Every token counts the same; loss, entropy and KL in nats."
            tables += [{"heading": run.label}, {"table": summary, "caption": caption}]
            words += _words(run, [f"{run.label}: {each}" for each in describe.lens(summary)])
    one = len(runs) == 1
    with naming(runs[0].source if one else "the lenses"):
        figure = lens_curves(runs[0].content if one else {run.label: run.content for run in runs})
    caption = "What each depth would predict: means over prompts, bands the middle half of the prompts."
    blocks = [{"figure": figure, "caption": caption}, {"more": "Every depth in numbers", "blocks": tables}]
    return "Lenses", words, blocks


def patching(run: Run) -> Part:
    """The map of a sweep, and its largest place."""
    sentences = [f"{run.label}: {each}" for each in run.content.sentences()]
    n = run.content.data.sizes["prompt"]
    caption = f"Mean over {n} pair{'s' * (n != 1)}. 1: all of the difference, 0: the patch did nothing."
    blocks = [{"figure": patching_map(run.content), "caption": caption}]
    return f"Patching: {run.label}", _words(run, sentences), blocks


def training_run(run: Run) -> Part:
    """When what appeared; steps by depth; what each step reaches."""
    from mcr_lens.experiments.appearances import appearance, levels_by_step

    profile = run.content
    several = profile.data.sizes["step"] > 1
    caption = "Means over prompts. Steps stand side by side, whatever lies between them."
    blocks: list[Block] = [
        {"note": f"{profile.headline}."},
        {"figure": training(profile), "caption": caption},
        {"heading": "What each step reaches"},
        {"table": levels_by_step(profile)},
    ]
    words = _words(run, str(appearance(profile)).split("\n") if several else [])
    return f"Training: {run.label}", words, blocks


def tasks(run: Run, profiles: Sequence[Run]) -> Part:
    """The best depth for each use; quality by depth over the phases of a profile of the same model."""
    same = [
        each.content
        for each in profiles
        if all(each.attributes.get(key) == run.attributes.get(key) for key in ("model", "revision"))
        and not each.attributes.get("interventions")
    ]
    profile = same[0] if same else None
    quality, best = run.content
    if not {"best_depth", "last_depth", "best_quality", "last_quality"} <= set(best.columns):
        raise InputError("best_depth.csv is no table of best depths")
    ends = {"best_depth": "best", "gain": "gain", "exit_depth": "exit"}
    intervals = {
        name: with_interval(best, name, f"{short}_low", f"{short}_high") for name, short in ends.items()
    }
    columns = "kind metric best_depth best_quality last_quality last_depth gain exit_depth".split()
    phases = "" if profile is None else " Shaded: the phases of the model's profile in this report."
    means = "Means over units with 95 % bootstrap intervals; a star marks the best depth, probes are dashed."
    gain = "The gain over the last depth is measured on units that did not choose the depth."
    blocks: list[Block] = [
        {"figure": task_depth(quality, profile), "caption": means + phases},
        {"heading": "Best depth for each use"},
        {"table": best.assign(**intervals)[columns], "caption": gain},
    ]
    return f"Tasks: {run.label}", _words(run, [_best(use, row) for use, row in best.iterrows()]), blocks


def _best(use: object, row: pd.Series) -> str:
    text = (
        f"{use}: best at depth {row.best_depth} [{row.best_low}, {row.best_high}] of {row.last_depth} "
        f"({row.metric} {float(row.best_quality):.3f}; {float(row.last_quality):.3f} at the last depth)"
    )
    share = float(row.exit_kept)
    # Where one could stop, if that is not the end.
    if share == share and row.exit_depth != row.last_depth:
        text += f"; {share:.0%} of that is there at depth {row.exit_depth}"
    return f"{text}."


def _words(run: Run, sentences: Sequence[object]) -> list[Block]:
    """What was found, and below it which states hold Inf or NaN."""
    return [{"words": sentences}, *({"note": f"{run.label}: {note}"} for note in run.cautions)]
