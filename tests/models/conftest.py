"""Every family on every model class, each check done once, and the option that renews the page about them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from families import VARIANTS, tiny_folder
from family_checks import CHECKS, Case, outcome

from mcr_lens.models.backend import has_hooked_transformer


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--renew-model-table", action="store_true", help="write what was found into docs/models.md"
    )


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[str, str | None]]:
    """What every check of a family finds on a backend; made once, the model forgotten."""
    found: dict[tuple[str, str], dict[str, str | None]] = {}

    def of(family: str, backend: str) -> dict[str, str | None]:
        if backend == "hooked_transformer" and not has_hooked_transformer():
            pytest.skip("needs HookedTransformer, which TransformerLens 4 no longer has")
        if (family, backend) not in found:
            base, changed = VARIANTS.get(family, (family, {}))
            case = Case(backend, tiny_folder(base, tmp_path_factory.mktemp(backend), **changed))
            found[family, backend] = {check: outcome(case, check) for check in CHECKS}
        return found[family, backend]

    return of
