"""Models: loading, the facts the rest needs, the self-check, and the seam between TransformerLens lines."""

from mcr_lens.models.attached import attached_hooks
from mcr_lens.models.backend import Hook, Model, backend_of
from mcr_lens.models.batch_cost import batch_cost
from mcr_lens.models.checkpoints import Checkpoint, checkpoints
from mcr_lens.models.facts import ModelFacts, model_facts, require
from mcr_lens.models.load import load_model
from mcr_lens.models.offloading import offload

__all__ = [
    "Checkpoint",
    "Hook",
    "Model",
    "ModelFacts",
    "attached_hooks",
    "backend_of",
    "batch_cost",
    "checkpoints",
    "load_model",
    "model_facts",
    "offload",
    "require",
]
