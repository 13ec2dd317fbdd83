"""The strip shows the phase that each threshold gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from profiles import made_profile

import mcr_lens as mcr
from mcr_lens.viz import phase_strip


def test_each_row_is_the_phase_of_its_threshold() -> None:
    profile = made_profile([1] * 4, [0.9, 0.68, 0.72, 0.9])  # kappa 0, .244, .2, 0
    figure: Any = phase_strip(profile)
    (strip,) = figure.data
    assert strip.y[0] == 0.02 and strip.y[-1] == 0.5
    for threshold, cells in zip(strip.y, strip.z, strict=True):
        span = profile.phases(min_compression=threshold, confidence=None).compress
        depths = np.flatnonzero(~np.isnan(np.array(cells, dtype=float))).tolist()
        assert depths == (list(range(span[0], span[1] + 1)) if span else [])


def test_another_estimator_is_refused() -> None:
    with pytest.raises(mcr.InputError, match="raw estimator"):
        phase_strip(made_profile([1, 200, 1], estimator={"center": True}))
