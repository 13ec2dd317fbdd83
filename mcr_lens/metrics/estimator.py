"""The ways in which the matrix entropy is estimated."""

from dataclasses import asdict, dataclass
from typing import Literal

from mcr_lens.errors import InputError

__all__ = ["Estimator"]


@dataclass(frozen=True)
class Estimator:
    """How the matrix entropy is estimated; stored with every result.

    Attributes:
        center: subtract the mean row first (default: raw, as in the paper).
        unit_rows: scale every row to norm 1 first.
        alpha: Renyi order; 1 is the von Neumann (Shannon) entropy.
        preset: ``"raw"``, or ``"layer-by-layer"`` for the other estimator in the literature
            (Skean et al. 2025): centre, unit rows, the smaller Gram clamped at 0 elementwise, its
            positive eigenvalues renormalised.

    Centring needs every row at once, so such estimators refuse chunks (``needs_whole_prompt``).
    """

    center: bool = False
    unit_rows: bool = False
    alpha: float = 1.0
    preset: Literal["raw", "layer-by-layer"] = "raw"

    def __post_init__(self) -> None:
        if self.preset not in ("raw", "layer-by-layer"):
            raise InputError(f"estimator preset {self.preset!r}: use 'raw' or 'layer-by-layer'")
        if not self.alpha > 0:
            raise InputError(f"Renyi order alpha = {self.alpha}: use a number above 0")

    @property
    def is_raw(self) -> bool:
        """True for the Shannon entropy of the untouched ``X``, which the theorem speaks of."""
        return self.preset == "raw" and not (self.center or self.unit_rows) and self.alpha == 1.0

    @property
    def needs_whole_prompt(self) -> bool:
        """True when the estimator cannot be accumulated over chunks of a prompt."""
        return self.center or self.preset == "layer-by-layer"

    def as_dict(self) -> dict[str, object]:
        """The options as plain values, for the attributes of a result."""
        return asdict(self)
