from .boundaries import MIN_ENTROPY_DROP, MIN_NORM_RATIO, MIN_SHARE
from .comovement import correlations
from .emergence import (
    Stage,
    dissipation_layers,
    dissipation_stages,
    emergence_layers,
    emergence_stages,
)
from .intervals import PhaseIntervals, Place
from .per_prompt import constancy
from .phases import Phases, find_phases
from .segmentation import ChangePoints, change_points
from .singular_value import first_singular_value
from .sink_location import locate_sink

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
    "locate_sink",
]
