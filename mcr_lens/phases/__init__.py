"""Mix, Compress, Refine: where the phases begin and end, how sure that is, and what moves with what.

Everything here reads a profile (or its dataset) against thresholds that are arguments and are stored in
the answer; "no compression phase" is one of the answers. The unit of every interval is the prompt.
"""

from mcr_lens.phases.boundaries import MIN_ENTROPY_DROP, MIN_NORM_RATIO, MIN_SHARE
from mcr_lens.phases.change_points import ChangePoints, change_points
from mcr_lens.phases.correlations import correlations
from mcr_lens.phases.emergence import (
    Stage,
    dissipation_layers,
    dissipation_stages,
    emergence_layers,
    emergence_stages,
)
from mcr_lens.phases.intervals import PhaseIntervals, Place
from mcr_lens.phases.per_prompt import constancy
from mcr_lens.phases.phases import Phases, find_phases
from mcr_lens.phases.singular_value import first_singular_value

__all__ = [
    "MIN_ENTROPY_DROP",
    "MIN_NORM_RATIO",
    "MIN_SHARE",
    "ChangePoints",
    "PhaseIntervals",
    "Phases",
    "Place",
    "Stage",
    "change_points",
    "constancy",
    "correlations",
    "dissipation_layers",
    "dissipation_stages",
    "emergence_layers",
    "emergence_stages",
    "find_phases",
    "first_singular_value",
]
