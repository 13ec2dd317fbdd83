"""What a profile needs of memory and time, told from the configuration before anything is loaded."""

from mcr_lens.planning.chunks import auto_chunk
from mcr_lens.planning.machine import Machine
from mcr_lens.planning.memory import Memory, memory_needed, result_bytes
from mcr_lens.planning.planned import Plan
from mcr_lens.planning.predict import plan
from mcr_lens.planning.settings import Setting
from mcr_lens.planning.shape import ModelShape, model_shape

__all__ = [
    "Machine",
    "Memory",
    "ModelShape",
    "Plan",
    "Setting",
    "auto_chunk",
    "memory_needed",
    "model_shape",
    "plan",
    "result_bytes",
]
