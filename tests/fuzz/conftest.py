"""The count of a test's examples travels with its report, from whichever process ran it."""

from collections.abc import Callable, Iterator

import pytest
from fuzz.counted import PROPERTY, Fuzzed


@pytest.fixture
def fuzzed(record_property: Callable[[str, object], None]) -> Iterator[Fuzzed]:
    """What the test counts in."""
    counted = Fuzzed()
    yield counted
    record_property(PROPERTY, [counted.read, counted.refused])
