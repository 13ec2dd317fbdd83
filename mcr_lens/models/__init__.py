"""Models: loading, the facts the rest needs, the self-check, and the seam between TransformerLens lines."""

from mcr_lens.models.backend import Hook, Model, backend_of
from mcr_lens.models.checkpoints import Checkpoint, checkpoints
from mcr_lens.models.info import ModelFacts, model_facts, require
from mcr_lens.models.load import load_model
from mcr_lens.models.offload import offload
from mcr_lens.models.user_hooks import attached_hooks

__all__ = [
    "Checkpoint",
    "Hook",
    "Model",
    "ModelFacts",
    "attached_hooks",
    "backend_of",
    "checkpoints",
    "load_model",
    "model_facts",
    "offload",
    "require",
]
