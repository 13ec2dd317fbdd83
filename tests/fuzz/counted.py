"""How many files were drawn, read and refused: counted here, told at the end of the run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.ugly import Draw

import mcr_lens as mcr

PROPERTY = "fuzzed inputs"


@dataclass
class Fuzzed:
    """Of one test."""

    read: int = 0
    refused: int = 0

    def read_or_refuse(self, reader: Callable[..., None], draw: Draw, *given: Any) -> None:
        """One example: a folder of its own, and nothing but one line of our own error."""
        told = ""
        with tempfile.TemporaryDirectory() as folder:
            try:
                reader(draw, Path(folder), *given)
            except mcr.InputError as error:
                told = str(error)
                self.refused += 1
            else:
                self.read += 1
        assert "\n" not in told
