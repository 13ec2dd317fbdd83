"""What a model from elsewhere may do on this machine: be read as tensors, and run code only if asked to."""

import contextlib
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from mcr_lens.errors import InputError
from mcr_lens.models.backend import has_hooked_transformer
from mcr_lens.models.written import written_config

__all__ = ["refuse_pickles", "tensors_only"]

_SAFE = ("model.safetensors", "model.safetensors.index.json")


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder whose weights are pickled: reading such a file can run whatever its author put in.

    Raises:
        InputError: naming the file, and how to convert it.
    """
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled and not any((folder / name).is_file() for name in _SAFE):
        raise InputError(
            f"{folder}: could not be loaded safely: its weights are pickled ({pickled[0]}), which can run "
            f"code when read; if you trust them, convert them to {_SAFE[0]} (save_pretrained of transformers)"
        )
    # The file that transformers is told to read in place of the usual ones.
    chosen = written_config(folder).get("transformers_weights")
    if chosen is not None and chosen not in _SAFE and not _is_tensor_file(str(chosen)):
        raise InputError(
            f"{folder}: could not be loaded safely: its config.json names the weights {str(chosen)!r}; they "
            "must be .safetensors files of this folder"
        )
    for index in [] if (folder / _SAFE[0]).is_file() else sorted(folder.glob("*.index.json")):
        for name in _named_by(index):
            if not _is_tensor_file(name):
                raise InputError(
                    f"{folder}: could not be loaded safely: {index.name} names {name!r}; weights must be "
                    ".safetensors files of this folder"
                )


def _is_tensor_file(name: str) -> bool:
    """Whether it is safetensors, and of the folder itself."""
    return name.endswith(".safetensors") and Path(name).name == name


def _named_by(index: Path) -> list[str]:
    """The files that an index of weights names; none where it is no index, which the loader tells."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return sorted({str(name) for name in named})


@contextlib.contextmanager
def tensors_only() -> Iterator[None]:
    """Around the loaders of other libraries: no file is unpickled beyond plain tensors, no code is fetched.

    Two things they do without being asked. TransformerLens reads the weights of some names with
    ``torch.load(weights_only=False)``; and for a list of names, most of which transformers has had code of
    its own for since, its ``HookedTransformer`` sets ``trust_remote_code=True``.
    """
    changes: list[Any] = [mock.patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"})]
    if has_hooked_transformer():
        names = importlib.import_module("transformer_lens.loading_from_pretrained")
        changes.append(mock.patch.object(names, "NEED_REMOTE_CODE_MODELS", ()))
    with contextlib.ExitStack() as stack:
        for change in changes:
            stack.enter_context(change)
        # Torch takes only one of the two.
        os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
        yield
