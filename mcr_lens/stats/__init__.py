"""Statistics over prompts: bootstrap intervals and paired effects."""

from mcr_lens.stats.bootstrap import bootstrap_interval
from mcr_lens.stats.paired import PairedEffect, adjusted, paired_effect

__all__ = ["PairedEffect", "adjusted", "bootstrap_interval", "paired_effect"]
