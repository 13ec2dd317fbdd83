"""Bytes that one profile holds at its worst moment, part by part.

What is held throughout (weights, KV cache, the states of a chunked run) adds up; of the moments that pass
(an attention pattern, a residual stream in float64, an MLP, the logits) only the largest counts. The
factors are counts of tensors that are alive at once, confirmed by peak resident sets of runs in which one
part dominates (``benchmarks/plan_check.py`` compares whole runs).
"""

from __future__ import annotations

from dataclasses import dataclass

from mcr_lens.models.backend import Backend
from mcr_lens.planning.shape import ModelShape

__all__ = ["Memory", "element_size", "memory_needed", "result_bytes"]

_FLOAT64 = 8
_SIZES = {"float64": _FLOAT64, "float32": 4}
_COLUMNS = 4
# Bytes of a result a prompt, a depth, a layer and a head: so many variables of eight bytes. Of the leading
# columns there are a few a layer, with a float32 for every head.
_PER_PROMPT, _PER_DEPTH = 5 * 8, 18 * 8
_PER_LAYER, _PER_HEAD = 5 * 8 + _COLUMNS * 2 * 8, 11 * 8 + _COLUMNS * 4


@dataclass(frozen=True)
class Memory:
    """Bytes, by what needs them.

    Attributes:
        weights: in the dtype of the run.
        cache: keys and values that the model keeps of a batch.
        patterns: the last pattern of every layer, which ``TransformerBridge`` keeps where queries, keys and
            values come from one matrix (GPT-2, GPT-NeoX, BLOOM).
        states: what our observers hold between chunks: rows or Gram of every prompt and depth.
        moments: what passes, by name: ``pattern``, ``residual``, ``mlp``, ``logits``.
        host: what is always in the host's memory: spectra in float64 and the result, twice.
        loading: the weights' peak on the host while they are loaded there.
        mapped: files that loading reads through the page cache and that count as resident, though the system
            takes them back when memory is short: weights that are stored in another dtype.
    """

    weights: int
    cache: int
    patterns: int
    states: int
    moments: dict[str, int]
    host: int
    loading: int
    mapped: int = 0

    @property
    def moment(self) -> int:
        """The largest of the moments that pass."""
        return max(self.moments.values())

    @property
    def work(self) -> int:
        """What a run holds besides weights and host parts, at its worst moment."""
        return self.cache + self.patterns + self.states + self.moment


def memory_needed(
    shape: ModelShape,
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
    size = element_size(dtype)
    is_bridge = backend == "bridge"
    rows = longest if chunk is None else min(chunk, longest)
    tokens, d_model = batch * rows, shape.d_model
    in_block = size if bits is None else bits / 8
    stored = int(shape.block_parameters * in_block + shape.other_parameters * size)
    weights = stored + (0 if is_bridge else shape.tied_parameters * size)
    is_long = longest > d_model
    # One prompt and depth, in float64: the smaller of rows and Gram.
    kept = batch * _FLOAT64 * (d_model**2 if is_long else longest * d_model)
    heads = shape.n_heads * shape.d_head
    pattern = batch * shape.n_heads * rows * longest
    moments = {
        # Three float32 copies of ours (pattern, masked, entropy) beside the model's own, and q, k, v.
        "pattern": pattern * (3 * 4 + size) + 3 * size * tokens * heads,
        # Five float64 copies of ours beside the model's own; a Gram that is summed up, or the rows joined.
        "residual": tokens * d_model * (5 * _FLOAT64 + (3 if is_bridge else 6) * size)
        + (kept if is_long or rows < longest else 0),
        "mlp": tokens * ((3 if is_bridge else 4) * shape.d_mlp + 2 * d_model) * size,
        # A softcap makes new logits of the old ones.
        "logits": tokens * shape.d_vocab * size * (2 if shape.softcap else 1) if is_bridge else 0,
    }
    return Memory(
        weights=weights,
        cache=_cache(shape, batch, longest, size) if is_bridge or rows < longest else 0,
        patterns=shape.n_layers * pattern * size if is_bridge and shape.joint_qkv else 0,
        states=_states(shape, batch, longest, kept) if rows < longest else 0,
        moments=moments,
        host=_spectrum(longest, d_model) + 2 * result_bytes(shape, n_prompts),
        loading=stored if is_bridge or bits else stored + _conversion(shape, size),
        mapped=0 if bits else _mapped(shape, dtype),
    )


def result_bytes(shape: ModelShape, n_prompts: int) -> int:
    """A profile's data in memory; the compressed file is at most about as large."""
    layers = shape.n_layers * (_PER_LAYER + shape.n_heads * _PER_HEAD)
    return n_prompts * (_PER_PROMPT + (shape.n_layers + 1) * _PER_DEPTH + layers)


def element_size(dtype: str) -> int:
    """Bytes of a number."""
    return _SIZES.get(dtype, 2)


def _conversion(shape: ModelShape, size: int) -> int:
    """What a ``HookedTransformer`` adds to the Hugging Face model it is made of, while both are there.

    It is built in float32 whatever the dtype, and the unembedding is transposed into a copy.
    """
    untied = shape.parameters + shape.tied_parameters
    return untied * element_size("float32") + shape.d_model * shape.d_vocab * size


def _mapped(shape: ModelShape, dtype: str) -> int:
    """Files of the run's own dtype are not copied: those pages are the weights themselves."""
    if shape.stored_dtype in ("", dtype):
        return 0
    return shape.parameters * element_size(shape.stored_dtype)


def _states(shape: ModelShape, batch: int, longest: int, kept: int) -> int:
    """Between chunks: rows or Gram and medians of every depth, column sums of every head."""
    columns = batch * longest * _FLOAT64
    return (shape.n_layers + 1) * (kept + columns) + shape.n_layers * shape.n_heads * columns


def _cache(shape: ModelShape, batch: int, longest: int, size: int) -> int:
    """Keys and values; a layer with a sliding window keeps that many."""
    kept = sum(longest if window is None else min(window, longest) for window in shape.windows)
    return 2 * size * batch * kept * shape.n_key_value_heads * shape.d_head


def _spectrum(longest: int, d_model: int) -> int:
    """One prompt on the host: the Gram and its work space, and rows joined with the sink first."""
    n = min(longest, d_model)
    return 2 * _FLOAT64 * (n * n + (longest * d_model if longest <= d_model else 0))
