from .backend import Hook, Model, backend_of
from .batching import batch_cost
from .info import ModelFacts, model_facts, require
from .load import load_model
from .memory import auto_chunk
from .memory_plan import Plan, plan
from .offloading import offload
from .training_run import Checkpoint, checkpoints
from .user_hooks import attached_hooks

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
