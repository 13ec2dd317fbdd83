"""Which revisions a model has: names on the hub have them, a folder none, the bundled one its checkpoints."""

from pathlib import Path

from mcr_lens.errors import InputError
from mcr_lens.tiny import checkpoint_steps

__all__ = ["bundled_step", "refuse_revision"]


def refuse_revision(source: str, folder: Path, revision: str | None) -> None:
    """Refuse a revision of a model that has none of that name, as far as it can be known without the hub.

    Args:
        source: as for ``load_model``.
        folder: the source as a path, there or not.
    """
    if revision is None:
        return
    if source == "tiny":
        bundled_step(revision)
    elif folder.exists():
        raise InputError(f"revision {revision!r}: {source} has none; revisions are those of names on the hub")


def bundled_step(revision: str) -> int:
    """The training step of a revision ``"step<N>"`` of the bundled model.

    Raises:
        InputError: for a step of which no checkpoint is bundled.
    """
    there = {f"step{step}": step for step in checkpoint_steps()}
    if revision not in there:
        raise InputError(f"revision {revision!r}: tiny has {', '.join(there)}")
    return there[revision]
