"""The configuration of a model folder as it is written, before any library makes something of it."""

import json
from pathlib import Path
from typing import Any

__all__ = ["written_config"]


def written_config(folder: Path) -> dict[str, Any]:
    """What stands in ``config.json``; empty where there is no table to be read, which the loader tells of."""
    try:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return written if isinstance(written, dict) else {}
