"""How far a sweep on several workers is: a bar over cells and one over prompts, and the time left."""

from collections.abc import Mapping, Sequence
from types import TracebackType

from tqdm.auto import tqdm

from mcr_lens.sweeps.cells import Cell, prompts_key

__all__ = ["SweepProgress"]


class SweepProgress:
    """Two bars on a terminal or in a notebook; nothing elsewhere.

    How many prompts there are is known of a set once a worker has read it; until then it is taken for as
    large as the others.

    Args:
        left: the cells that are to be computed.
        done: how many were before.
    """

    def __init__(self, left: Sequence[Cell], done: int, progress: bool) -> None:
        self._sets = {i: prompts_key(cell) for i, cell in enumerate(left)}
        self._sizes = {prompts_key(cell): cell.prompts.n for cell in left if cell.prompts.n is not None}
        self._unfinished, self._counted = set(self._sets), 0
        disable = None if progress else True
        total = done + len(left)
        self._cells = tqdm(total=total, initial=done, desc="sweep", unit="cell", disable=disable)
        # The mean speed since the start: what several workers do at a time comes in jumps.
        self._prompts = tqdm(desc="prompts", unit="prompt", smoothing=0, disable=disable)

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees it."""
        return not self._cells.disable

    def __enter__(self) -> "SweepProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._prompts.close()
        self._cells.close()

    def say(self, words: str) -> None:
        """What is going on, behind the bar of the cells."""
        self._cells.set_postfix_str(words)

    def learned(self, cell: int, n_prompts: int) -> None:
        """A worker has read the cell's prompts."""
        self._sizes[self._sets[cell]] = n_prompts

    def finished(self, cell: int, failed: bool) -> None:
        """A cell is done, or has failed: its prompts will not come."""
        self._unfinished.discard(cell)
        self._counted += 0 if failed else self._sizes.get(self._sets[cell], 0)
        self._cells.update()

    def running(self, begun: Mapping[int, int]) -> None:
        """How many prompts have come by in cells that are not finished."""
        if not self.is_shown:
            return
        known = list(self._sizes.values())
        usual = sum(known) / len(known) if known else 0
        left = sum(self._sizes.get(self._sets[cell], usual) for cell in self._unfinished)
        now = self._counted + sum(count for cell, count in begun.items() if cell in self._unfinished)
        self._prompts.total = max(round(self._counted + left), now) or None
        # Never back: what a lost worker had done is done once more.
        self._prompts.update(max(0, now - self._prompts.n))
        self._prompts.refresh()
