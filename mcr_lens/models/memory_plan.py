"""``plan``: does a profile fit? Answered from the model's configuration; no weight is loaded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from mcr_lens import host
from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Backend, check_backend, has_hooked_transformer
from mcr_lens.models.hooked_transformer import supports_name
from mcr_lens.models.hub import hub_or_cache
from mcr_lens.models.info import layer_windows
from mcr_lens.models.load_checks import empty_model, model_folder, refuse_encoder, refuse_too_many_layers
from mcr_lens.models.memory import CHUNKS, Memory, ModelSizes, batches_of, memory_needed
from mcr_lens.numeric import check_count, is_number, is_whole

__all__ = ["Plan", "Setting", "configured_sizes", "plan"]

# Python and the libraries, in the host's memory, measured (`benchmarks/plan_check.py`); the context of an
# accelerator, in its own, assumed.
LIBRARIES, CONTEXT = 600 * 10**6, 600 * 10**6
# Freed blocks that glibc keeps for later, up to 32 MB each: what its settings were measured to make.
ALLOCATOR = 250 * 10**6
# Free memory is never all usable: allocators leave gaps.
USABLE = 0.92
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Setting:
    """One dtype, with the first batch size and chunk that fit, or the smallest where none does.

    Attributes:
        batch_size: ``"auto"`` or a number of prompts; ``batch`` is what the largest batch holds.
        device_bytes: on each accelerator; 0 on the CPU.
        host_bytes: in the host's memory, while it runs.
        loading_bytes: in the host's memory, while the weights are loaded: they come to the host first, and
            with several devices go on to them one by one.
        shortage: what is short: ``"device"``, ``"host"``, both, or nothing where it fits.
    """

    dtype: str
    batch_size: int | Literal["auto"]
    batch: int
    chunk: int | None
    device_bytes: int
    host_bytes: int
    loading_bytes: int
    memory: Memory
    shortage: str


@dataclass(frozen=True)
class Plan:
    """What memory a profile needs, and what there is.

    Attributes:
        lengths: tokens of every prompt.
        devices: number of accelerators; ``device_memory``: bytes of each.
        settings: one a dtype, fitting or not; ``best``: the first that fits.
        note: what is to be said of the weights.
    """

    name: str
    sizes: ModelSizes
    lengths: tuple[int, ...]
    devices: int
    device_memory: int
    host_memory: int
    settings: tuple[Setting, ...]
    note: str = ""

    @property
    def best(self) -> Setting | None:
        """The most exact dtype that fits."""
        return next((setting for setting in self.settings if not setting.shortage), None)

    def table(self) -> pd.DataFrame:
        """A row a dtype: whether it fits, prompts a batch, tokens a chunk, memory needed."""
        rows = {
            setting.dtype: {
                "fits": f"no: {setting.shortage}" if setting.shortage else "yes",
                "batch": f"{setting.batch:,}",
                "chunk": f"{setting.chunk:,}" if setting.chunk else "whole prompts",
                "each device": host.in_words(setting.device_bytes) if self.devices else "none",
                "host": host.in_words(max(setting.host_bytes, setting.loading_bytes)),
            }
            for setting in self.settings
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dtype")

    def parts(self) -> pd.DataFrame:
        """Where the memory goes in the best setting, or in the last where none fits.

        Of the moments, which pass, only the largest counts.
        """
        memory = (self.best or self.settings[-1]).memory
        sizes = {
            "weights": memory.weights,
            "KV cache": memory.cache,
            "patterns the bridge keeps": memory.patterns,
            "states between chunks": memory.states,
            **{f"moment: {name}": size for name, size in memory.moments.items()},
            "host: spectra and result": memory.host,
            "host: weights while loading": memory.loading,
        }
        words = {part: host.in_words(size) for part, size in sizes.items() if size}
        return pd.DataFrame({"size": words}).rename_axis("part")

    @property
    def headline(self) -> str:
        """Model and prompts in one line."""
        sizes, n = self.sizes, self.sizes.parameters
        parameters = f"{n / 1e9:.3g} billion" if n >= 999.5e6 else f"{n / 1e6:.3g} million"
        return (
            f"{self.name}: {parameters} parameters, {sizes.n_layers} layers x {sizes.n_heads} heads, "
            f"d_model {sizes.d_model}; {len(self.lengths)} prompts of up to {max(self.lengths)} tokens, "
            f"{sum(self.lengths):,} in all"
        )

    def sentences(self) -> list[str]:
        """What there is to say beside the table."""
        devices = (
            f"{self.devices} x {host.in_words(self.device_memory)}" if self.devices else "no accelerator"
        )
        memory = (
            f"Memory: {devices}, {host.in_words(self.host_memory)} on the host; {1 - USABLE:.0%} of each is "
            "left free. Weights come to the host first: its memory is the larger of loading and running."
        )
        if self.best is None:
            advice = (
                "Nothing fits: use fewer or shorter prompts, a smaller dtype, more memory, or "
                "mcr_lens.models.offload, which keeps one block at a time on a device."
            )
            return [memory, *filter(None, [self.note]), advice]
        load = [f'dtype="{self.best.dtype}"'] + ['device_map="auto"'] * (self.devices > 1)
        run = [] if self.best.batch_size == "auto" else [f"batch_size={self.best.batch_size}"]
        run += [f"chunk={self.best.chunk}"] if self.best.chunk else []
        advice = (
            f"Take load_model(..., {', '.join(load)}) and profile({', '.join(['model, prompts', *run])})."
        )
        result = f"The result takes about {host.in_words(self.best.memory.result)}."
        return [memory, *filter(None, [self.note]), advice, result]

    def __repr__(self) -> str:
        return "\n- ".join([f"{self.headline}\n{self.table().to_string()}", *self.sentences()])


def plan(
    model: str | Path | PreTrainedConfig,
    lengths: Sequence[int],
    *,
    backend: Literal["auto", "hooked_transformer", "bridge"] = "auto",
    dtype: str | None = None,
    revision: str | None = None,
    devices: int | None = None,
    memory: str | None = None,
    host_memory: str | None = None,
    batch_size: int | Literal["auto"] | None = None,
    chunk: int | Literal["auto"] | None = None,
    bits: float | None = None,
) -> Plan:
    """Predict the memory of ``profile`` from a model's configuration alone; no weight is loaded.

    Args:
        model: ``"tiny"``, a name, a folder that holds at least a ``config.json``, or a configuration.
        lengths: the number of tokens of each prompt, such as ``[512] * 64``, or ``Prompts``.
        backend: as in ``load_model``.
        dtype: only this one; else float32 and bfloat16 are both tried.
        devices: number of accelerators, over which the layers are spread evenly; 0 for the CPU. What is
            here if left out, one where ``memory`` is given.
        memory: of each accelerator, such as ``"80GB"``; what is free here if left out.
        host_memory: such as ``"512GB"``; what is free here if left out.
        batch_size: this one; else ``"auto"`` is tried first, then 1.
        chunk: this one; else whole prompts are tried first, then chunks.
        bits: bits a weight of the blocks, for a quantised model that you will load yourself.

    Raises:
        InputError: for a model without a configuration, or a size or number that cannot be.

    Example:
        >>> import mcr_lens as mcr
        >>> found = mcr.models.plan("tiny", [128] * 64, devices=0, host_memory="8GB")
        >>> found.best.dtype, found.best.batch
        ('float32', 32)
    """
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r}: use one of {', '.join(_DTYPES)}")
    check_backend(backend)
    if bits is not None and not (is_number(bits) and 1 <= bits <= 32):
        raise InputError(f"bits {bits!r}: a weight takes 1 to 32")
    for option, value in (("batch_size", batch_size), ("chunk", chunk)):
        if value not in (None, "auto"):
            check_count(option, value)
    count, each = _devices(devices, memory)
    on_host = host.host_memory() if host_memory is None else host.number_of_bytes(host_memory, "host memory")
    name, config, sizes = _read(model, revision)
    tokens = _tokens(lengths, sizes, name)
    # Batch sizes and chunks, the plainest first; chunks only where smaller batches do not do.
    batch_sizes: list[Any] = ["auto", 1] if batch_size is None else [batch_size]
    ways = [(size, None if chunk == "auto" else chunk) for size in batch_sizes]
    if chunk in (None, "auto"):
        ways += [(batch_sizes[-1], rows) for rows in CHUNKS if rows < max(tokens)]
    settings = []
    for precision in [dtype] if dtype else _DTYPES[:2]:
        setting = None
        for size, rows in ways:
            batch = max(n for n, _ in batches_of(tokens, size))
            need = memory_needed(
                sizes,
                batch=batch,
                longest=max(tokens),
                n_prompts=len(tokens),
                chunk=rows,
                dtype=precision,
                backend=_backend(name, backend, count),
                bits=bits,
            )
            on_device, running, loading = _places(sizes, need, count)
            places = {"device": (on_device, each), "host": (max(running, loading), on_host)}
            short = " and ".join(place for place, (bytes_, room) in places.items() if bytes_ > USABLE * room)
            setting = Setting(precision, size, batch, rows, on_device, running, loading, need, short)
            if not short:
                break
        settings.append(cast("Setting", setting))
    note = ""
    if getattr(config, "quantization_config", None) and bits is None:
        note = (
            "The configuration is of quantised weights, planned here in full: bits (--bits) plans them as "
            "they are stored, loaded by you and handed in."
        )
    return Plan(name, sizes, tokens, count, each, on_host, tuple(settings), note)


def _devices(devices: int | None, memory: str | None) -> tuple[int, int]:
    """Number of accelerators, and bytes of each."""
    if devices is not None:
        check_count("devices", devices, 0)
    if memory is not None:
        return (1 if devices is None else devices), host.number_of_bytes(memory)
    here = [torch.device("cuda", i) for i in range(torch.cuda.device_count())][:devices]
    if devices is not None and len(here) < devices:
        raise InputError(
            f"devices {devices}: there are {len(here)} here; give the memory of each, such as 80GB"
        )
    return len(here), min(map(host.free_memory, here), default=0)


def _places(sizes: ModelSizes, memory: Memory, devices: int) -> tuple[int, int, int]:
    """Bytes on each device, on the host while it runs, and on the host while the weights are loaded."""
    base = LIBRARIES + ALLOCATOR
    if not devices:
        return 0, base + memory.host + memory.weights + memory.work, base + memory.loading
    if devices == 1:
        return CONTEXT + memory.weights + memory.work, base + memory.host, base + memory.loading
    # Blocks are not cut: a device may have one more than its share. Caches and states lie with them.
    block = memory.weights * sizes.largest_block // sizes.parameters
    outside_blocks = memory.weights * sizes.other_parameters // sizes.parameters
    share = (memory.weights + memory.work - memory.moment) // devices
    on_device = CONTEXT + share + block + memory.moment
    return on_device, base + memory.host, base + 2 * max(block, outside_blocks)


def _tokens(lengths: Any, sizes: ModelSizes, name: str) -> tuple[int, ...]:
    """Tokens of every prompt, checked."""
    lengths = getattr(lengths, "lengths", lengths)
    tokens = tuple(lengths) if isinstance(lengths, Iterable) else ()
    if not tokens or not all(is_whole(length, 2) for length in tokens):
        raise InputError("lengths: give the number of tokens of each prompt, at least 2, such as [512] * 64")
    if max(tokens) > sizes.n_ctx:
        raise InputError(
            f"a prompt has {max(tokens)} tokens, the context of {name} is {sizes.n_ctx}: "
            f"use max_tokens={sizes.n_ctx}"
        )
    return tuple(map(int, tokens))


def _backend(name: str, backend: str, devices: int) -> Backend:
    """Which of the two ``load_model`` would take; several devices need the bridge."""
    if backend == "bridge" or devices > 1 or not has_hooked_transformer():
        return "bridge"
    is_official = not Path(name).expanduser().is_dir() and supports_name(name)
    return "hooked_transformer" if backend != "auto" or name == "tiny" or is_official else "bridge"


def _read(model: Any, revision: str | None) -> tuple[str, PreTrainedConfig, ModelSizes]:
    """Name, configuration and sizes."""
    if isinstance(model, PreTrainedConfig):
        name, folder = str(model.name_or_path or model.model_type), None
    elif isinstance(model, str | Path):
        name, folder = str(model), model_folder(str(model), revision)
    else:
        raise InputError(f"give a model's name, folder or configuration, not a {type(model).__name__}")
    try:
        if isinstance(model, PreTrainedConfig):
            config = model
        elif folder is not None:
            refuse_too_many_layers(folder)
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        else:
            with hub_or_cache():
                config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        refuse_encoder(config, name)
        return name, config, configured_sizes(config)
    except InputError:
        raise
    except Exception as error:  # missing, broken, of an unknown type, behind no network, of no possible size
        raise InputError(
            f"{name}: no decoder language model can be made of its configuration ({one_line(error, 160)}); "
            "give the name of a model that can be reached, or a folder with its config.json"
        ) from error


def configured_sizes(config: PreTrainedConfig) -> ModelSizes:
    """Sizes of the model of a Hugging Face configuration, whose weights need not exist.

    The parameters are counted on a model without storage.
    """
    sizes: Any = config.get_text_config(decoder=True)
    model: Any = empty_model(config)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == sizes.num_hidden_layers]
    blocks = [_count(block) for block in max(lists, key=_count, default=[])]
    if not (sum(blocks) and sizes.num_attention_heads):
        raise ValueError("it has no parameters, layers or attention heads")
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    tied = (
        0 if unembedding is None or unembedding.weight is not embedding.weight else embedding.weight.numel()
    )
    experts = _first(sizes, "num_local_experts", "num_experts", "n_routed_experts")
    width = _first(
        sizes, "moe_intermediate_size", "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"
    )
    joint = ("query_key_value", "c_attn", "qkv_proj", "Wqkv")
    return ModelSizes(
        n_layers=len(blocks),
        n_heads=sizes.num_attention_heads,
        n_key_value_heads=_first(sizes, "num_key_value_heads", "num_attention_heads"),
        d_model=sizes.hidden_size,
        d_head=_first(sizes, "head_dim") or sizes.hidden_size // sizes.num_attention_heads,
        d_mlp=(width or 4 * sizes.hidden_size)
        * (_first(sizes, "num_experts_per_tok", "experts_per_token", "top_k") if experts else 1),
        d_vocab=sizes.vocab_size,
        n_ctx=_first(sizes, "max_position_embeddings") or 2**31,
        windows=layer_windows(sizes, len(blocks)),
        joint_qkv=any(part in name for name, _ in model.named_parameters() for part in joint),
        softcap=bool(_first(sizes, "final_logit_softcapping")),
        block_parameters=sum(blocks),
        largest_block=max(blocks),
        other_parameters=_count(model) - sum(blocks),
        tied_parameters=tied,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None))), None)
