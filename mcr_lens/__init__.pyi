from . import (
    experiments,
    hooks,
    metrics,
    models,
    phases,
    prompts,
    sweeps,
    viz,
)
from .engine import measure, profile, record
from .errors import InputError
from .experiments import PromptPairs, ablation_study, activation_patching, logit_lens, tasks
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
from .result import Profile
from .result_files import read_dataset, write_dataset
from .sinks import locate_sink

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
    "load_model",
    "load_prompts",
    "locate_sink",
    "logit_lens",
    "measure",
    "metrics",
    "models",
    "observe",
    "patch_activation",
    "phases",
    "profile",
    "prompts",
    "read_dataset",
    "record",
    "sweeps",
    "tasks",
    "viz",
    "write_dataset",
    "zero_dimensions",
]

__version__: str
