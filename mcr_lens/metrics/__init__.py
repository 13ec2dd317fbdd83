"""Pure functions on tensors: no model, no hooks, no files.

Each quantity of a profile is one function here, for tensors at hand; ``ResidualState`` and
``AttentionState`` compute the same from blocks of rows, so that nothing quadratic is ever kept.
"""

from mcr_lens.metrics.attention import (
    col_sum_argmax,
    col_sum_concentration,
    col_sum_max,
    col_sum_rate,
    identity_score,
    later_attention,
    learned_sink_mass,
    mixing_entropy,
    mixing_score,
    previous_token_score,
    sink_attention,
    sink_rate,
    sink_score,
    sink_value_ratio,
    sink_versus_identity,
    top_columns,
    visible_queries,
)
from mcr_lens.metrics.attention_state import AttentionState, TopColumns
from mcr_lens.metrics.bounds import (
    Masses,
    alignment,
    anisotropy_bound,
    dominance_bound,
    entropy_bound,
    masses,
    norm_mass_ratio,
)
from mcr_lens.metrics.estimator import Estimator
from mcr_lens.metrics.residual import (
    TopActivation,
    is_massive,
    median_activation,
    norm_ratio,
    rest_norm,
    sink_norm,
    top_activation,
    write_along,
)
from mcr_lens.metrics.residual_state import ResidualState
from mcr_lens.metrics.roles import MIXING_THRESHOLD, ROLES, head_roles
from mcr_lens.metrics.spectrum import (
    Spectra,
    anisotropy,
    dominance,
    matrix_entropy,
    normalized_entropy,
    spectra,
)
from mcr_lens.metrics.value_state import ValueState

__all__ = [
    "MIXING_THRESHOLD",
    "ROLES",
    "AttentionState",
    "Estimator",
    "Masses",
    "ResidualState",
    "Spectra",
    "TopActivation",
    "TopColumns",
    "ValueState",
    "alignment",
    "anisotropy",
    "anisotropy_bound",
    "col_sum_argmax",
    "col_sum_concentration",
    "col_sum_max",
    "col_sum_rate",
    "dominance",
    "dominance_bound",
    "entropy_bound",
    "head_roles",
    "identity_score",
    "is_massive",
    "later_attention",
    "learned_sink_mass",
    "masses",
    "matrix_entropy",
    "median_activation",
    "mixing_entropy",
    "mixing_score",
    "norm_mass_ratio",
    "norm_ratio",
    "normalized_entropy",
    "previous_token_score",
    "rest_norm",
    "sink_attention",
    "sink_norm",
    "sink_rate",
    "sink_score",
    "sink_value_ratio",
    "sink_versus_identity",
    "spectra",
    "top_activation",
    "top_columns",
    "visible_queries",
    "write_along",
]
