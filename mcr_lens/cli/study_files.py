"""The files of an ablation study: everything, the effects, the claims in words, the figure."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from mcr_lens.experiments import AblationStudy

__all__ = ["FILES", "about_p", "arms_in_words", "write_study"]

# What is written, and what it is for.
FILES = {
    "study.nc": "every number (read it back with mcr_lens.load)",
    "effects.csv": "paired effects at the largest dose, with intervals and p-values",
    "claims.md": "what this model supports, in words",
    "dose_response.html": "the curves over the dose, for a browser",
}


def write_study(study: "AblationStudy", effects: "pd.DataFrame", folder: Path) -> None:
    """All of ``FILES`` into a folder that is there."""
    from mcr_lens import viz
    from mcr_lens.results import atomic_write

    study.save(folder / "study.nc")
    with atomic_write(folder / "effects.csv") as partial:
        effects.to_csv(partial, index=False)
    with atomic_write(folder / "claims.md") as partial:
        partial.write_text(_claims_page(study, effects), encoding="utf-8")
    with atomic_write(folder / "dose_response.html") as partial:
        # With the whole of plotly in it: it opens without a network.
        viz.dose_response(study).write_html(partial, include_plotlyjs=True)


def arms_in_words(study: "AblationStudy") -> list[str]:
    """What each arm does at dose 1, a sentence an arm."""
    return [f"{arm}: {what}" for arm, what in study.data.attrs["arms"].items()]


def about_p(study: "AblationStudy", effects: "pd.DataFrame") -> str:
    """What stands behind the p-values, and how small they could have become."""
    from mcr_lens.experiments.ablation.claims import ALPHA

    floor, compared = effects.attrs["smallest_p"], effects.attrs["comparisons"]
    reached = float(effects["p_adjusted"].to_numpy().min())
    text = (
        f"p-values: sign-flip permutations over {study.data.sizes['prompt']} prompts, which give no less "
        f"than {floor:.2g}, corrected for {compared} comparisons (Benjamini-Yekutieli); the smallest here "
        f"is {reached:.2g}."
    )
    # With few prompts the largest effect stays above it: then "no treatment ended ..." says little.
    return text if reached <= ALPHA else f"{text} None reaches the {ALPHA:g} that a claim asks for."


def _claims_page(study: "AblationStudy", effects: "pd.DataFrame") -> str:
    from mcr_lens.results.tables import to_markdown

    made = study.data.attrs
    depths = made["compressed_depths"]
    lines = [
        f"# {study.headline}",
        "",
        f"Prompts: {made['prompts']['source']} (digest {made['prompts']['digest']}).",
        f"Made with mcr-lens {made['versions']['mcr-lens']}, seed of the controls {made['seed']}.",
        "",
        f"## Claims, at dose {effects.attrs['dose']:g}",
        "",
        *(f"- {claim.question} **{claim.verdict}**: {claim.why}" for claim in study.claims()),
        "",
        *(f"Beware: {note}\n" for note in [study.not_finite_note()] if note),
        about_p(study, effects),
        "",
        f"## Outcomes, at dose {effects.attrs['dose']:g}",
        "",
        to_markdown(study.outcome_table()),
        "",
        f"Means over prompts and over depths {depths[0]} to {depths[-1]}; the loss (nats a token) is the "
        "model's own.",
        "",
        "## Arms, at dose 1",
        "",
        *(f"- {sentence}" for sentence in arms_in_words(study)),
    ]
    return "\n".join(lines) + "\n"
