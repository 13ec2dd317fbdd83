"""docs/models.md says what the checks of every family find.

To renew the page, once in an environment with TransformerLens 3 and once in one with TransformerLens 4:

    python -m pytest tests/models/test_family_table.py --renew-model-table
"""

from __future__ import annotations

from typing import Any

import pytest
from backends import BACKENDS
from families import ALL_FAMILIES, VARIANTS
from family_table import rendered, renew, written


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_page_says_what_was_found(outcomes: Any, backend: str, request: pytest.FixtureRequest) -> None:
    found = rendered({family: outcomes(family, backend) for family in (*ALL_FAMILIES, *VARIANTS)})
    if request.config.getoption("--renew-model-table", default=False):
        renew(backend, found)
    assert written(backend) == found, (
        "renew it by: python -m pytest tests/models/test_family_table.py --renew-model-table"
    )
