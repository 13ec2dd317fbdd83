"""Where attention sinks, massive activations and compression valleys begin, and what causes them.

Everything public is an attribute of this module, imported when first used: ``import mcr_lens as mcr``
alone loads neither torch nor TransformerLens.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcr_lens import experiments, hooks, metrics, models, phases, results, sweeps, viz
    from mcr_lens.engine import (
        measure,
        profile,
        record,
    )
    from mcr_lens.errors import (
        InputError,
    )
    from mcr_lens.experiments import (
        AblationStudy,
        DepthEncoder,
        PromptPairs,
        ablation_study,
        activation_patching,
        appearance,
        best_depth,
        choice_uses,
        embedding_tasks,
        fit_tuned_lens,
        input_dependence,
        kl_divergence,
        lens_perplexity,
        lens_summary,
        linear_probes,
        logit_difference,
        logit_lens,
        multiple_choice,
        perplexity_use,
        probe_uses,
        profile_training,
        quality_by_depth,
    )
    from mcr_lens.hooks import (
        LogitLens,
        Observer,
        PooledStates,
        Translators,
        TunedLens,
        ablate_attention_write,
        ablate_mlp_write,
        block_attention_to,
        clamp_norm,
        generating,
        intervention,
        mean_ablate,
        patch_activation,
        resample_ablate,
        zero_dimensions,
    )
    from mcr_lens.metrics import (
        Estimator,
    )
    from mcr_lens.models import (
        load_model,
    )
    from mcr_lens.prompts import (
        Prompts,
        library_code,
        load_labelled,
        load_prompts,
        word_problems,
    )
    from mcr_lens.results import (
        Profile,
        load,
    )
    from mcr_lens.sinks import (
        locate_sink,
    )
    from mcr_lens.sweeps import (
        read_grid,
        sweep,
        sweep_status,
    )

__all__ = [
    "AblationStudy",
    "DepthEncoder",
    "Estimator",
    "InputError",
    "LogitLens",
    "Observer",
    "PooledStates",
    "Profile",
    "PromptPairs",
    "Prompts",
    "Translators",
    "TunedLens",
    "ablate_attention_write",
    "ablate_mlp_write",
    "ablation_study",
    "activation_patching",
    "appearance",
    "best_depth",
    "block_attention_to",
    "choice_uses",
    "clamp_norm",
    "embedding_tasks",
    "experiments",
    "fit_tuned_lens",
    "generating",
    "hooks",
    "input_dependence",
    "intervention",
    "kl_divergence",
    "lens_perplexity",
    "lens_summary",
    "library_code",
    "linear_probes",
    "load",
    "load_labelled",
    "load_model",
    "load_prompts",
    "locate_sink",
    "logit_difference",
    "logit_lens",
    "mean_ablate",
    "measure",
    "metrics",
    "models",
    "multiple_choice",
    "patch_activation",
    "perplexity_use",
    "phases",
    "probe_uses",
    "profile",
    "profile_training",
    "quality_by_depth",
    "read_grid",
    "record",
    "resample_ablate",
    "results",
    "sweep",
    "sweep_status",
    "sweeps",
    "viz",
    "word_problems",
    "zero_dimensions",
]

__version__ = "0.1.0"

_HOMES = {
    "AblationStudy": "mcr_lens.experiments",
    "DepthEncoder": "mcr_lens.experiments",
    "Estimator": "mcr_lens.metrics",
    "InputError": "mcr_lens.errors",
    "LogitLens": "mcr_lens.hooks",
    "Observer": "mcr_lens.hooks",
    "PooledStates": "mcr_lens.hooks",
    "Profile": "mcr_lens.results",
    "PromptPairs": "mcr_lens.experiments",
    "Prompts": "mcr_lens.prompts",
    "Translators": "mcr_lens.hooks",
    "TunedLens": "mcr_lens.hooks",
    "ablate_attention_write": "mcr_lens.hooks",
    "ablate_mlp_write": "mcr_lens.hooks",
    "ablation_study": "mcr_lens.experiments",
    "activation_patching": "mcr_lens.experiments",
    "appearance": "mcr_lens.experiments",
    "best_depth": "mcr_lens.experiments",
    "block_attention_to": "mcr_lens.hooks",
    "choice_uses": "mcr_lens.experiments",
    "clamp_norm": "mcr_lens.hooks",
    "embedding_tasks": "mcr_lens.experiments",
    "fit_tuned_lens": "mcr_lens.experiments",
    "generating": "mcr_lens.hooks",
    "input_dependence": "mcr_lens.experiments",
    "intervention": "mcr_lens.hooks",
    "kl_divergence": "mcr_lens.experiments",
    "lens_perplexity": "mcr_lens.experiments",
    "lens_summary": "mcr_lens.experiments",
    "library_code": "mcr_lens.prompts",
    "linear_probes": "mcr_lens.experiments",
    "load": "mcr_lens.results",
    "load_labelled": "mcr_lens.prompts",
    "load_model": "mcr_lens.models",
    "load_prompts": "mcr_lens.prompts",
    "locate_sink": "mcr_lens.sinks",
    "logit_difference": "mcr_lens.experiments",
    "logit_lens": "mcr_lens.experiments",
    "mean_ablate": "mcr_lens.hooks",
    "measure": "mcr_lens.engine",
    "multiple_choice": "mcr_lens.experiments",
    "patch_activation": "mcr_lens.hooks",
    "perplexity_use": "mcr_lens.experiments",
    "probe_uses": "mcr_lens.experiments",
    "profile": "mcr_lens.engine",
    "profile_training": "mcr_lens.experiments",
    "quality_by_depth": "mcr_lens.experiments",
    "read_grid": "mcr_lens.sweeps",
    "record": "mcr_lens.engine",
    "sweep": "mcr_lens.sweeps",
    "sweep_status": "mcr_lens.sweeps",
    "resample_ablate": "mcr_lens.hooks",
    "word_problems": "mcr_lens.prompts",
    "zero_dimensions": "mcr_lens.hooks",
}
_MODULES = ("experiments", "hooks", "metrics", "models", "phases", "results", "sweeps", "viz")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"mcr_lens.{name}")
    raise AttributeError(f"module 'mcr_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
