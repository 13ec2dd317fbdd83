"""``Result``: a labelled dataset that shows itself and lives in one file; ``load`` opens any of them."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import ClassVar, Self

import pandas as pd
import xarray as xr

from mcr_lens.doubts import doubts
from mcr_lens.errors import InputError
from mcr_lens.not_finite import not_finite_note
from mcr_lens.results import tables
from mcr_lens.results.io import load_dataset, save_dataset
from mcr_lens.validate import did_you_mean

__all__ = ["Result", "as_result", "load"]

# Where the class of a kind of result stands; imported when such a file is opened.
_CLASSES = {
    "profile": "mcr_lens.results.profile:Profile",
    "generation": "mcr_lens.experiments:GenerationResult",
    "lens": "mcr_lens.experiments:LensResult",
    "ablation study": "mcr_lens.experiments:AblationStudy",
    "activation patching": "mcr_lens.experiments:PatchingResult",
    "lens perplexity": "mcr_lens.experiments:PerplexityResult",
    "multiple choice": "mcr_lens.experiments:ChoiceResult",
    "linear probes": "mcr_lens.experiments:ProbeResult",
    "embedding tasks": "mcr_lens.experiments:EmbeddingResult",
}


class Result:
    """What a measurement gave.

    A subclass names its ``kind`` and the dimensions it needs, and says what its ``summary`` is.

    Attributes:
        data: an ``xarray.Dataset``; how it was made stands in ``attrs``.
    """

    kind: ClassVar[str] = "result"
    dims: ClassVar[tuple[str, ...]] = ()

    def __init__(self, data: xr.Dataset) -> None:
        missing = [dim for dim in self.dims if dim not in data.dims]
        if missing:
            raise InputError(
                f"not {_a(self.kind)}: dimension {', '.join(missing)} is missing; "
                "mcr_lens.load opens any result"
            )
        self.data = data if type(self) is Result else data.assign_attrs(result=self.kind)

    @property
    def headline(self) -> str:
        """What was measured, in one line."""
        sizes = ", ".join(tables.count(size, str(dim)) for dim, size in self.data.sizes.items())
        return f"{self.data.attrs.get('result', self.kind).capitalize()} of {self.model_name}: {sizes}"

    @property
    def model_name(self) -> str:
        """Of the model that was measured."""
        return str(self.data.attrs.get("model", "a model"))

    def summary(self) -> pd.DataFrame:
        """Means over prompts of every variable; a row for each place along the other dimensions."""
        numbers = self.data[[name for name, values in self.data.items() if values.dtype.kind in "fiub"]]
        return (
            numbers.reset_coords(drop=True).mean("prompt" if "prompt" in numbers.dims else []).to_dataframe()
        )

    def table(self) -> pd.DataFrame:
        """``summary()`` as it is shown in a terminal, a notebook and a report."""
        return self.summary()

    def sentences(self) -> list[str]:
        """What the result shows, one sentence each."""
        return []

    def caveats(self) -> list[str]:
        """What to beware of, one sentence each: prompts that hold Inf or NaN, and doubts about the model."""
        note = not_finite_note(self.data, self.data.attrs.get("dtype"))
        lengths = self.data.coords.get("n_tokens")
        return [
            *([note] if note else []),
            *doubts(self.data.attrs, None if lengths is None else int(lengths.max())),
        ]

    def save(self, path: str | Path) -> Path:
        """Write one netCDF 4 file, whole or not at all; xarray can edit it, ``mcr_lens.load`` opens it.

        Raises:
            InputError: when the place cannot be written; nothing is left behind.
        """
        return save_dataset(self.data, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that ``save`` wrote.

        Raises:
            InputError: for a file that is missing, locked, unreadable, damaged, or holds another result.
        """
        result = load(path)
        if not isinstance(result, cls):
            raise InputError(f"{path}: not {_a(cls.kind)} but {_a(result.kind)}; mcr_lens.load opens it")
        return result

    def __getitem__(self, name: str) -> xr.DataArray:
        """A stored variable."""
        if name not in self.data.variables:
            names = list(map(str, self.data))
            guess = did_you_mean(str(name), names) or f"; there are {', '.join(names)}"
            raise InputError(f"no variable {name!r} in this {self.kind}{guess}")
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        return name in self.data.variables

    def __repr__(self) -> str:
        lines = [self.headline, *self.sentences(), *(f"Beware: {each}" for each in self.caveats())]
        return "\n".join([*lines, "", tables.to_text(self.table())])

    def _repr_html_(self) -> str:
        return self._html()

    def _html(self, curves: pd.DataFrame | None = None) -> str:
        from mcr_lens.results.html import result_html

        return result_html(self, curves)


def load(path: str | Path) -> Result:
    """Open a result that was saved: a ``Profile``, an ``AblationStudy``, or whatever it is.

    Neither torch nor TransformerLens is imported to open a profile. A file that xarray has changed opens too.

    Raises:
        InputError: for a file that is missing, locked, unreadable, damaged, or no result.

    Example::

        mcr.viz.depth_curves(mcr.load("run.nc"))
    """
    data = load_dataset(path)
    try:
        return as_result(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def as_result(data: xr.Dataset) -> Result:
    """A dataset as the result that it says it is; as a plain ``Result`` where it says nothing.

    Raises:
        InputError: when it lacks the dimensions of such a result.
    """
    kind = data.attrs.get("result")
    if kind is None and {"norm_ratio", "depth", "prompt"} <= set(data.variables):
        kind = "profile"  # before schema 2 only other results said what they are
    result_class = pkgutil.resolve_name(_CLASSES[kind]) if kind in _CLASSES else Result
    return result_class(data)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
