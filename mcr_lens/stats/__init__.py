"""Statistics over prompts: bootstrap intervals, paired effects, shifts along depth."""

from mcr_lens.stats.bootstrap import bootstrap_interval
from mcr_lens.stats.paired import PairedEffect, adjusted, paired_effect
from mcr_lens.stats.shift_test import shift_test

__all__ = ["PairedEffect", "adjusted", "bootstrap_interval", "paired_effect", "shift_test"]
