from .comovement import correlations
from .compression import (
    MIN_COMPRESSION,
    half_length,
    mass_share,
    outweighs_others,
    reach,
    sink_compression,
)
from .curves import is_raw, require_raw_estimator
from .emergence import (
    MIN_SHARE,
    Stage,
    dissipation_layers,
    dissipation_stages,
    emergence_layers,
    emergence_stages,
    ratio_changes,
)
from .intervals import PhaseIntervals, Place
from .per_prompt import constancy
from .phases import Phases, find_phases, phase_thresholds
from .segmentation import ChangePoints, change_points
from .singular_value import first_singular_value
from .sink_location import even_sink_score, locate_sink

__all__ = [
    "MIN_COMPRESSION",
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
    "even_sink_score",
    "find_phases",
    "first_singular_value",
    "half_length",
    "is_raw",
    "locate_sink",
    "mass_share",
    "outweighs_others",
    "phase_thresholds",
    "ratio_changes",
    "reach",
    "require_raw_estimator",
    "sink_compression",
]
