"""The two TransformerLens model classes as test parameters; what needs a missing one is skipped by name."""

from __future__ import annotations

import pytest

from mcr_lens.models.backend import has_hooked_transformer

__all__ = ["BACKENDS", "needs_hooked_transformer"]

needs_hooked_transformer = pytest.mark.skipif(
    not has_hooked_transformer(), reason="HookedTransformer was removed in TransformerLens 4"
)
BACKENDS = ["bridge", pytest.param("hooked_transformer", marks=needs_hooked_transformer)]
