"""Lists of ``(hook name, function)``: observers that read, interventions that edit, and their context."""

from mcr_lens.hooks.context import BatchContext, current_context, running
from mcr_lens.hooks.observe import (
    AttentionObserver,
    Observer,
    ResidualObserver,
    WriteObserver,
    depth_hook_name,
)
from mcr_lens.hooks.prompt_table import PromptTable

__all__ = [
    "AttentionObserver",
    "BatchContext",
    "Observer",
    "PromptTable",
    "ResidualObserver",
    "WriteObserver",
    "current_context",
    "depth_hook_name",
    "running",
]
