"""The observer that finds each prompt's massive tokens."""

from torch import Tensor

from mcr_lens.hooks.observers.base import BlockObserver, PromptTable, depth_points
from mcr_lens.hooks.observers.rows import Rows
from mcr_lens.metrics.massive_rows import LargestRows, MassiveRows
from mcr_lens.models import Model, model_facts
from mcr_lens.thresholds import MIN_COMPRESSION

__all__ = ["MassiveTokens"]


class MassiveTokens(BlockObserver[LargestRows]):
    """The set of massive tokens of each prompt, at the depth where leaving them out tells most.

    That is the depth of the largest kappa_S, of at most 32 rows (see ``metrics.massive_rows``). A set of
    which even this is below 0.1 is none: among so few rows a sink compresses more than in the whole prompt.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(depth_points(model_facts(model).n_layers), PromptTable("depth", 0))
        self._largest: dict[int, MassiveRows] = {}

    def begin(self, model: Model) -> None:
        """A new measurement begins: what was read before is forgotten."""
        super().begin(model)
        self._largest = {}

    def sets(self) -> list[tuple[int, ...]]:
        """Positions of the massive tokens of each prompt, the largest first."""
        return [self._largest[prompt].positions for prompt in sorted(self._largest)]

    def _fold(self, state: LargestRows | None, block: Tensor, rows: Rows, place: int) -> LargestRows:
        state = LargestRows(rows.host_lengths) if state is None else state
        state.update(block, rows.context.offset)
        return state

    def _finish(self, state: LargestRows, rows: Rows, place: int) -> None:
        for prompt, found in zip(rows.prompts, state.massive(), strict=True):
            least = MassiveRows((), MIN_COMPRESSION)
            if found.compression > self._largest.setdefault(prompt, least).compression:
                self._largest[prompt] = found
