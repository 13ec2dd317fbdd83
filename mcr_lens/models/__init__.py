"""Models: loading, what is known of them, their memory, and the seam between TransformerLens lines."""

from mcr_lens.models.backend import Hook, Model, backend_of
from mcr_lens.models.batch_cost import batch_cost
from mcr_lens.models.checkpoints import Checkpoint, checkpoints
from mcr_lens.models.info import ModelFacts, model_facts, require
from mcr_lens.models.load import load_model
from mcr_lens.models.memory import auto_chunk
from mcr_lens.models.memory_plan import Plan, plan
from mcr_lens.models.offload import offload
from mcr_lens.models.user_hooks import attached_hooks

__all__ = [
    "Checkpoint",
    "Hook",
    "Model",
    "ModelFacts",
    "Plan",
    "attached_hooks",
    "auto_chunk",
    "backend_of",
    "batch_cost",
    "checkpoints",
    "load_model",
    "model_facts",
    "offload",
    "plan",
    "require",
]
