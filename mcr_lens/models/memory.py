"""Bytes that one profile holds at its worst moment, part by part; and the chunk that fits what is free.

What is held throughout (weights, KV cache, the states of a chunked run) adds up; of the moments that pass
(an attention pattern, a residual stream in float64, an MLP, the logits) only the largest counts. The
factors are counts of tensors that are alive at once, confirmed by peak resident sets of runs in which one
part dominates (``benchmarks/plan_check.py`` compares whole runs).
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from mcr_lens.host import free_memory, host_memory
from mcr_lens.models.backend import Backend, Model, as_module
from mcr_lens.models.info import cache_fault, model_facts
from mcr_lens.models.model_sizes import ModelSizes, loaded_sizes

__all__ = ["CHUNKS", "Memory", "Sharing", "auto_chunk", "batches_of", "memory_needed"]

# Tokens a chunk, the largest first.
CHUNKS = (4096, 2048, 1024, 512, 256, 128)
_BATCH_TOKENS = 4096  # the most that models.batch_cost allows
# Of what is free. Other programs and observers want memory, too, and chunks cost little time: so half.
_SHARE = 0.5
_FLOAT64 = 8


@dataclass(frozen=True)
class Memory:
    """Bytes, by what needs them.

    Attributes:
        weights: in the dtype of the run.
        cache: keys and values that the model keeps of a batch.
        patterns: of every layer, where ``TransformerBridge`` keeps them.
        states: what our observers hold between chunks: rows or Gram of every prompt and depth.
        moments: what passes, by name: ``pattern``, ``residual``, ``mlp``, ``logits``.
        result: a profile's data; the compressed file is at most about as large.
        host: what is always in the host's memory: spectra in float64 and the result, twice.
        loading: the weights' peak on the host while they are loaded there.
    """

    weights: int
    cache: int
    patterns: int
    states: int
    moments: dict[str, int]
    result: int
    host: int
    loading: int

    @property
    def moment(self) -> int:
        """The largest of the moments that pass."""
        return max(self.moments.values())

    @property
    def work(self) -> int:
        """What a run holds besides weights and host parts, at its worst moment."""
        return self.cache + self.patterns + self.states + self.moment

    def parts(self) -> dict[str, int]:
        """The same with words for names."""
        return {
            "weights": self.weights,
            "KV cache": self.cache,
            "patterns the bridge keeps": self.patterns,
            "states between chunks": self.states,
            **{f"moment: {name}": size for name, size in self.moments.items()},
            "host: spectra and result": self.host,
        }


def memory_needed(
    sizes: ModelSizes,
    *,
    batch: int,
    longest: int,
    n_prompts: int,
    chunk: int | None,
    dtype: str,
    backend: Backend,
    bits: float | None = None,
) -> Memory:
    """Memory of a profile whose largest batch holds ``batch`` prompts of ``longest`` tokens.

    Args:
        chunk: tokens a chunk, ``None`` for whole prompts.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``.
        bits: bits a weight of the blocks, for a quantised model; embeddings stay in ``dtype``.
    """
    size = getattr(torch, dtype).itemsize
    is_bridge = backend == "bridge"
    rows = min(chunk or longest, longest)
    tokens, d_model, n_heads = batch * rows, sizes.d_model, sizes.n_heads
    stored = int(sizes.block_parameters * (bits / 8 if bits else size) + sizes.other_parameters * size)
    # A HookedTransformer is built in float32 whatever the dtype, while the model it is made of is still
    # there, and the unembedding is transposed into a copy.
    conversion = 4 * (sizes.parameters + sizes.tied_parameters) + size * d_model * sizes.d_vocab
    is_long, is_chunked = longest > d_model, rows < longest
    # One prompt and depth in float64: the smaller of rows and Gram. Of a head and token: a column's sum.
    gram = batch * _FLOAT64 * (d_model**2 if is_long else longest * d_model)
    columns = batch * longest * _FLOAT64
    pattern = batch * n_heads * rows * longest
    keys = sum(longest if window is None else min(window, longest) for window in sizes.windows)
    moments = {
        # Three float32 copies of ours (pattern, masked, entropy) beside the model's own, and q, k, v.
        "pattern": pattern * (3 * 4 + size) + 3 * size * tokens * n_heads * sizes.d_head,
        # Five float64 copies of ours beside the model's own; a Gram that is summed up, or the rows joined.
        "residual": tokens * d_model * (5 * _FLOAT64 + (3 if is_bridge else 6) * size)
        + (gram if is_long or is_chunked else 0),
        "mlp": tokens * ((3 if is_bridge else 4) * sizes.d_mlp + 2 * d_model) * size,
        # A softcap makes new logits of the old ones.
        "logits": tokens * sizes.d_vocab * size * (2 if sizes.softcap else 1) if is_bridge else 0,
    }
    # Variables of a prompt, a depth, a layer and a head, eight bytes each; the four leading columns of a
    # layer, with a float32 for every head.
    of_layers = sizes.n_layers * (5 * 8 + 4 * 2 * 8 + n_heads * (12 * 8 + 4 * 4))
    result = n_prompts * (9 * 8 + (sizes.n_layers + 1) * 22 * 8 + of_layers)
    # One prompt on the host: the Gram and its work space, and rows joined with the sink first.
    n = min(longest, d_model)
    spectrum = 2 * _FLOAT64 * (n * n + (0 if is_long else longest * d_model))
    return Memory(
        weights=stored + (0 if is_bridge else sizes.tied_parameters * size),
        cache=2 * size * batch * keys * sizes.n_key_value_heads * sizes.d_head
        if is_bridge or is_chunked
        else 0,
        patterns=sizes.n_layers * pattern * size if is_bridge and sizes.joint_qkv else 0,
        states=(sizes.n_layers + 1) * (gram + columns) + sizes.n_layers * n_heads * columns
        if is_chunked
        else 0,
        moments=moments,
        result=result,
        host=spectrum + 2 * result,
        loading=stored + (0 if is_bridge or bits else conversion),
    )


def batches_of(lengths: Sequence[int], batch_size: int | Literal["auto"]) -> list[tuple[int, int]]:
    """``(prompts, tokens of the longest)`` of each batch; of ``"auto"`` the largest that there may be.

    Example:
        >>> batches_of([3000, 1000, 1000, 10], "auto")
        [(1, 3000), (3, 1000)]
    """
    order, batches, start = sorted(lengths, reverse=True), [], 0
    while start < len(order):
        size = max(1, _BATCH_TOKENS // order[start]) if batch_size == "auto" else batch_size
        batches.append((len(order[start : start + size]), order[start]))
        start += size
    return batches


class Sharing(NamedTuple):
    """How many processes count on the same free memory, on this machine and on one accelerator."""

    host: int = 1
    device: int = 1

    @contextlib.contextmanager
    def of_memory(self) -> Iterator[None]:
        """What ``auto_chunk`` counts with for the time of the block."""
        token = _SHARING.set(self)
        try:
            yield
        finally:
            _SHARING.reset(token)


_SHARING: ContextVar[Sharing] = ContextVar("sharing", default=Sharing())  # noqa: B039  (immutable)


def auto_chunk(
    model: Model, lengths: Sequence[int], batch_size: int | Literal["auto"] = "auto"
) -> int | None:
    """The chunk that ``profile(..., chunk="auto")`` takes now: ``None`` for whole prompts where they fit.

    Else the largest of 4096, 2048, ... 128 tokens whose memory, as ``memory_needed`` counts it without the
    weights, which are there, is at most half of what is free on the model's devices and the host. Where none
    fits it is the smallest. A model that cannot be fed in chunks gets whole prompts. Where workers of a sweep
    share a machine, each counts with its part (``Sharing``).

    Args:
        model: from ``load_model``.
        lengths: tokens of every prompt.
        batch_size: prompts a batch, as ``profile`` takes it.

    Example:
        >>> import mcr_lens as mcr
        >>> mcr.models.auto_chunk(mcr.load_model("tiny"), [128, 64]) is None
        True
    """
    facts, sizes, devices, sharing = model_facts(model), loaded_sizes(model), _devices(model), _SHARING.get()
    device_room = _SHARE * min(map(free_memory, devices), default=0) / sharing.device
    host_room = _SHARE * host_memory() / sharing.host
    batches = set(batches_of(lengths, batch_size))
    kinds = {"n_prompts": len(lengths), "dtype": facts.dtype, "backend": facts.backend}

    def fits(chunk: int | None) -> bool:
        needs = [memory_needed(sizes, batch=n, longest=t, chunk=chunk, **kinds) for n, t in batches]
        if not devices:
            return all(need.host + need.work <= host_room for need in needs)
        # Caches and states lie with the layers that they are of.
        on_device = [(need.work - need.moment) / len(devices) + need.moment for need in needs]
        return max(on_device) <= device_room and all(need.host <= host_room for need in needs)

    longest = max(lengths)
    chunks = [each for each in CHUNKS if each < longest and not facts.mixes_rotary(each, longest)]
    if fits(None) or not chunks or cache_fault(model) is not None:
        return None
    return next(filter(fits, chunks), chunks[-1])


def _devices(model: Model) -> list[torch.device]:
    """The CUDA devices that the model runs on; weights that are offloaded are elsewhere."""
    places = {parameter.device for parameter in as_module(model).parameters()}
    places.add(torch.device(model.cfg.device))
    cuda = {torch.empty(0, device=place).device for place in places if place.type == "cuda"}
    return sorted(cuda, key=lambda device: device.index)
