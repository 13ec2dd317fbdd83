"""The local engine: cell after cell in this process, one model in memory at a time."""

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence

import torch
from tqdm.auto import tqdm

from mcr_lens.sweeps.cells import Cell, compute, loading_key, prompts_key
from mcr_lens.sweeps.folder import ResultFolder

__all__ = ["release_memory", "run_local"]


def run_local(cells: Sequence[Cell], folder: ResultFolder, progress: bool) -> None:
    """Compute the cells that are not in the folder; failures are recorded there, and the rest goes on.

    A model is loaded once for all its cells, if any of them is left, and freed before the next.
    """
    done = {id(cell) for cell in cells if folder.is_done(cell)}
    quiet = None if progress else True
    bar = tqdm(total=len(cells), initial=len(done), desc="sweep", unit="cell", disable=quiet)
    with bar:
        for of_one_model in _grouped(cells, loading_key):
            left = [cell for cell in of_one_model if not folder.is_done(cell)]
            # What another process has put there meanwhile.
            bar.update(sum(id(cell) not in done for cell in of_one_model) - len(left))
            if left:
                _run_model(left, folder, bar, progress)
                release_memory()


def _run_model(cells: Sequence[Cell], folder: ResultFolder, bar: tqdm, progress: bool) -> None:
    """The cells of one model, which is gone when this returns."""
    with _recorded(cells, folder, bar):
        bar.set_postfix_str(f"loading {cells[0].model.label}")
        model = cells[0].model.load(cells[0].revision)
        for of_one_set in _grouped(cells, prompts_key):
            with _recorded(of_one_set, folder, bar):
                prompts = of_one_set[0].prompts.load(model)
                for cell in of_one_set:
                    with _recorded([cell], folder, bar):
                        bar.set_postfix_str(cell.name)
                        # Another process may work on the same folder.
                        if not folder.is_done(cell):
                            cell.check_unchanged()  # before the work, and again before it is saved
                            baseline = folder.baseline(cell)
                            folder.save(cell, compute(cell, model, prompts, baseline, progress))
                        bar.update()


@contextlib.contextmanager
def _recorded(cells: Sequence[Cell], folder: ResultFolder, bar: tqdm) -> Iterator[None]:
    """Around what these cells need: when it fails, each of them has failed."""
    try:
        yield
    except Exception as error:  # a model's code, its loader and the disk raise what they like
        for cell in cells:
            folder.record(cell, error)
        bar.update(len(cells))


def _grouped(cells: Sequence[Cell], key: Callable[[Cell], str]) -> list[list[Cell]]:
    """Cells of the same key together, in the order in which the first of each comes."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())


def release_memory() -> None:
    """Give back what a model held that nobody refers to any more."""
    # Hooks and modules refer to each other: only the collector frees them.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
