from . import (
    experiments,
    hooks,
    metrics,
    models,
    phases,
    prompts,
    results,
    sweeps,
    viz,
)
from .engine import measure, profile
from .errors import InputError
from .experiments import (
    PromptPairs,
    ablation_study,
    activation_patching,
    logit_lens,
    profile_generation,
    tasks,
)
from .hooks import (
    LogitLens,
    TunedLens,
    ablate_attention_write,
    ablate_mlp_write,
    block_attention_to,
    clamp_norm,
    generating,
    intervention,
    observe,
    patch_activation,
    zero_dimensions,
)
from .models import load_model
from .prompts import Prompts, load_prompts
from .recording import record
from .results import Profile, load

__all__ = [
    "InputError",
    "LogitLens",
    "Profile",
    "PromptPairs",
    "Prompts",
    "TunedLens",
    "ablate_attention_write",
    "ablate_mlp_write",
    "ablation_study",
    "activation_patching",
    "block_attention_to",
    "clamp_norm",
    "experiments",
    "generating",
    "hooks",
    "intervention",
    "load",
    "load_model",
    "load_prompts",
    "logit_lens",
    "measure",
    "metrics",
    "models",
    "observe",
    "patch_activation",
    "phases",
    "profile",
    "profile_generation",
    "prompts",
    "record",
    "results",
    "sweeps",
    "tasks",
    "viz",
    "zero_dimensions",
]

__version__: str
