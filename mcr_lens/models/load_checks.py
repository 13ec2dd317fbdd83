"""Whether there is room for what a configuration asks for, told before anything of it is made."""

import contextlib
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from mcr_lens.errors import InputError
from mcr_lens.host import free_memory, host_memory, in_words, swap_space
from mcr_lens.models.written import written_config

__all__ = ["refuse_too_deep", "refuse_too_large"]

# Options with which weights need not all be in memory, or are there already.
_ELSEWHERE = ("device_map", "hf_model", "quantization_config", "load_in_4bit", "load_in_8bit", "max_memory")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# No more blocks than this are made to be counted; of what has more, two sizes tell.
_BLOCKS = 256
# Modules and hook points of a block, whatever its size; they are made even where nothing is loaded.
_BYTES_OF_A_BLOCK = 50_000
# The least that a quantised weight takes.
_QUANTISED = 0.125


def refuse_too_large(folder: Path, config: PreTrainedConfig, options: Mapping[str, Any]) -> None:
    """Refuse a folder whose configuration asks for more memory than the machine has free, all in all.

    The weights' own files tell nothing: what is missing in them is made up by the loader. Parameters are
    counted on torch's meta device, which takes milliseconds and no memory. What cannot be counted (code of
    its own, sizes that make no model) is left to the loader, and so is what is placed by ``device_map``.

    Raises:
        InputError: with what it needs and what there is.
    """
    if any(options.get(name) is not None for name in _ELSEWHERE) or options.get("trust_remote_code"):
        return
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(layers, int) or layers < 1:
        return
    is_quantised = getattr(config, "quantization_config", None) is not None
    size = _QUANTISED if is_quantised else options["dtype"].itemsize
    needed = layers * _BYTES_OF_A_BLOCK + (_bytes(config, layers, size) or 0)
    there = _there()
    if needed > there:
        dtype = str(options["dtype"]).removeprefix("torch.")
        raise InputError(
            f"{folder}: its config.json asks for {layers:,} layers that need at least {in_words(needed)} in "
            f"{dtype}, and {in_words(there)} are free here: mend the file, or use a smaller dtype or "
            "device_map='auto'"
        )


def refuse_too_deep(folder: Path) -> None:
    """Refuse a folder by the bare number of layers in its ``config.json``: some configurations list them all.

    Raises:
        InputError: where blocks without any weights would need more than there is.
    """
    written = written_config(folder)
    tables = [table for table in (written, *written.values()) if isinstance(table, dict)]
    layers = max((n for table in tables for n in _written_layers(table) if isinstance(n, int)), default=0)
    if layers * _BYTES_OF_A_BLOCK > (there := _there()):
        raise InputError(
            f"{folder}: its config.json asks for {layers:,} layers that need at least "
            f"{in_words(layers * _BYTES_OF_A_BLOCK)}, and {in_words(there)} are free here: mend the file"
        )


def _written_layers(table: Mapping[str, Any]) -> list[Any]:
    """Whatever stands where a configuration says how many layers there are."""
    numbers = [table.get(name) for name in _LAYERS]
    # GPT-Neo lists kinds of attention, each with how often they come.
    kinds = table.get("attention_types")
    listed = kinds if isinstance(kinds, list) else []
    return numbers + [each[-1] for each in listed if isinstance(each, list) and each]


def _there() -> int:
    """Free bytes of all memory that a model could be put into."""
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return host_memory() + swap_space() + sum(map(free_memory, devices))


def _bytes(config: PreTrainedConfig, layers: int, size: float) -> float | None:
    """Of a model whose parameters take ``size`` bytes each; ``None`` where they cannot be counted."""
    if layers <= _BLOCKS:
        return _counted(config, size)
    one, two = (_counted(_with_layers(config, n), size) for n in (1, 2))
    return None if one is None or two is None else one + (layers - 1) * (two - one)


def _counted(config: PreTrainedConfig, size: float) -> float | None:
    # Sizes that fit no architecture make libraries raise what they like; the loader tells of it.
    with contextlib.suppress(Exception), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        # A buffer can be the largest of all: a causal mask of context x context.
        masks = sum(buffer.nbytes for buffer in model.buffers())
        return size * sum(parameter.numel() for parameter in model.parameters()) + masks
    return None


def _with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    fewer = copy.deepcopy(config)
    sizes = fewer.get_text_config(decoder=True)
    with contextlib.suppress(Exception):
        kinds = getattr(sizes, "layer_types", None)
        sizes.num_hidden_layers = layers
        if isinstance(kinds, list):
            sizes.layer_types = kinds[:layers]
    return fewer
