"""``plan``: memory and time of a profile from the model's configuration, and the settings that fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from transformers import AutoTokenizer, PreTrainedConfig

from mcr_lens.errors import InputError, one_line
from mcr_lens.models.backend import Backend, check_backend, has_hooked_transformer
from mcr_lens.models.hooked_transformer import supports_name
from mcr_lens.models.hub import hub_or_cache
from mcr_lens.numeric import is_number, is_whole
from mcr_lens.planning.machine import Machine
from mcr_lens.planning.memory import result_bytes
from mcr_lens.planning.planned import Plan
from mcr_lens.planning.seconds import Seconds, seconds_needed
from mcr_lens.planning.settings import Setting, batches_of, fitting, placements
from mcr_lens.planning.shape import ModelShape, model_shape
from mcr_lens.planning.speed import SpectrumSpeed, Speed
from mcr_lens.prompts import Prompts, load_prompts
from mcr_lens.tiny import weights_folder

__all__ = ["plan"]

# Bytes a second at which offloaded weights are brought in: PCIe 4 x16 in practice, a fast SSD. Assumed.
_FROM_CPU, _FROM_DISK = 20e9, 2e9
_DTYPES = ("float32", "bfloat16", "float16")


def plan(
    model: str | Path | PreTrainedConfig,
    prompts: Prompts | str | Path | Sequence[Any],
    *,
    backend: Literal["auto", "hooked_transformer", "bridge"] = "auto",
    dtype: str | None = None,
    revision: str | None = None,
    memory: str | None = None,
    host_memory: str | None = None,
    batch_size: int | Literal["auto"] | None = None,
    chunk: int | Literal["auto"] | None = None,
    bits: float | None = None,
    flops: float | None = None,
    **options: Any,
) -> Plan:
    """Predict memory and time of ``profile`` from a model's configuration alone; no weight is loaded.

    Args:
        model: ``"tiny"``, a name, a folder that holds at least a ``config.json``, or a configuration.
        prompts: what ``load_prompts`` takes (then the model's tokenizer is read), ``Prompts``, or the number
            of tokens of each prompt, such as ``[512] * 64``.
        backend: as in ``load_model``.
        dtype: only this one; else float32 and bfloat16 are both tried.
        memory: of the accelerators: ``"80GB"``, ``"8x80GB"``, ``"cpu"`` for none; what is free here if
            left out.
        host_memory: ``"512GB"``; what is free here if left out.
        batch_size: this one; else ``"auto"`` is tried first, then 1.
        chunk: this one; else, as for ``"auto"``, whole prompts are tried first, then chunks.
        bits: bits a weight of the blocks, for a quantised model that you will load yourself.
        flops: operations a second of the accelerators that are meant, or of the CPU where there are none;
            measured here if left out, whatever ``memory`` says.
        **options: for ``load_prompts``: ``field``, ``n``, ``seed``, ``max_tokens`` and so on.

    Raises:
        InputError: for a model without a configuration, prompts that cannot be read, or a size that is none.

    Example:
        >>> import mcr_lens as mcr
        >>> planned = mcr.planning.plan("tiny", [128] * 64, memory="cpu", flops=50e9)
        >>> planned.chosen.dtype, planned.chosen.placement, planned.chosen.batch
        ('float32', 'cpu', 32)
    """
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r}: use one of {', '.join(_DTYPES)}")
    check_backend(backend)
    if bits is not None and not (is_number(bits) and 1 <= bits <= 32):
        raise InputError(f"bits {bits!r}: a weight takes 1 to 32")
    if flops is not None and not (is_number(flops) and 1e6 <= flops < 1e21):
        raise InputError(f"flops {flops!r}: operations a second, such as 4e14 for an accelerator")
    for name, value in (("batch_size", batch_size), ("chunk", chunk)):
        if value not in (None, "auto") and not is_whole(value, 1):
            raise InputError(f"{name} {value!r}: use a number from 1")
    machine = Machine.told(memory, host_memory)
    shape = model_shape(model, revision)
    lengths = _lengths(model, prompts, revision, options)
    if max(lengths) > shape.n_ctx:
        raise InputError(
            f"a prompt has {max(lengths)} tokens, the context of {shape.name} is {shape.n_ctx}: "
            f"use max_tokens={shape.n_ctx}"
        )
    kind = _backend(shape.name, backend)
    made = [
        fitting(
            shape,
            lengths,
            machine,
            dtype=each,
            placement=placement,
            backend=kind,
            batch_size=batch_size,
            chunk=None if chunk == "auto" else chunk,
            bits=bits,
        )
        for each in ([dtype] if dtype else ["float32", "bfloat16"])
        for placement in placements(machine)
    ]
    # What fits and is fast first: the placements are in that order, the dtypes within them.
    settings = tuple(sorted(made, key=lambda setting: placements(machine).index(setting.placement)))
    seconds = _times(shape, lengths, settings, machine, kind, flops, is_told=memory is not None)
    result = result_bytes(shape, len(lengths))
    return Plan(shape, kind, tuple(lengths), machine, settings, seconds, result, flops is None, bits)


def _lengths(
    model: str | Path | PreTrainedConfig, prompts: Any, revision: str | None, options: dict[str, Any]
) -> tuple[int, ...]:
    """Tokens of every prompt."""
    if isinstance(prompts, Prompts):
        return prompts.lengths
    if not isinstance(prompts, str | Path):
        prompts = list(prompts) if isinstance(prompts, Iterable) else [prompts]
        if prompts and all(map(is_whole, prompts)):
            if options:
                raise InputError(
                    f"{', '.join(options)}: for prompts that are read; these are numbers of tokens"
                )
            if min(prompts) < 2:
                raise InputError("a prompt of less than 2 tokens: a prompt needs at least 2")
            return tuple(int(each) for each in prompts)
    if isinstance(model, PreTrainedConfig):
        raise InputError("a configuration has no tokenizer: give the number of tokens of each prompt")
    tokenizer = _tokenizer(str(model), revision)
    return load_prompts(prompts, SimpleNamespace(tokenizer=tokenizer), **options).lengths


def _tokenizer(name: str, revision: str | None) -> Any:
    where = weights_folder() if name == "tiny" else Path(name).expanduser()
    try:
        if where.is_dir():
            return AutoTokenizer.from_pretrained(where, local_files_only=True, trust_remote_code=False)
        with hub_or_cache():
            return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # missing, broken, behind no network
        raise InputError(
            f"{name}: no tokenizer to count the prompts' tokens with ({one_line(error, 120)}); give the "
            "number of tokens instead (mcr-lens plan MODEL --tokens 512 --n 64)"
        ) from error


def _backend(name: str, backend: str) -> Backend:
    """Which of the two ``load_model`` would take."""
    if backend == "hooked_transformer" and not has_hooked_transformer():
        raise InputError("HookedTransformer was removed in TransformerLens 4: use backend='bridge'")
    if backend == "bridge" or not has_hooked_transformer():
        return "bridge"
    is_folder = Path(name).expanduser().is_dir()
    wanted = backend == "hooked_transformer" or name == "tiny" or (not is_folder and supports_name(name))
    return "hooked_transformer" if wanted else "bridge"


def _times(
    shape: ModelShape,
    lengths: Sequence[int],
    settings: Sequence[Setting],
    machine: Machine,
    backend: Backend,
    flops: float | None,
    *,
    is_told: bool,
) -> tuple[Seconds, ...]:
    """``flops`` speaks of the accelerators where there are any; the host's own speed is always measured."""
    device = "cuda" if machine.devices and not is_told else "cpu"
    spectrum = SpectrumSpeed.here(min(sum(lengths) // len(lengths), shape.d_model))
    speeds: dict[tuple[str, bool], Speed] = {}
    times = []
    for setting in settings:
        on_host = setting.placement == "cpu" and bool(machine.devices)
        key = (setting.dtype, on_host)
        if key not in speeds:
            speeds[key] = Speed.here(
                shape,
                batch=setting.batch,
                rows=min(setting.chunk or max(lengths), max(lengths)),
                dtype=setting.dtype,
                backend=backend,
                flops=None if on_host else flops,
                device="cpu" if on_host else device,
            )
        times.append(_seconds(shape, lengths, setting, speeds[key], spectrum, backend))
    return tuple(times)


def _seconds(
    shape: ModelShape,
    lengths: Sequence[int],
    setting: Setting,
    speed: Speed,
    spectrum: SpectrumSpeed,
    backend: Backend,
) -> Seconds:
    batches = batches_of(lengths, setting.batch_size)
    moved = 0.0
    if setting.is_offloaded:
        passes = sum(-(-longest // (setting.chunk or longest)) for _, longest in batches)
        blocks = setting.memory.weights * shape.block_parameters / shape.parameters
        moved = passes * blocks / (_FROM_DISK if setting.disk_bytes else _FROM_CPU)
    return seconds_needed(
        shape,
        batches,
        lengths,
        speed,
        spectrum,
        backend=backend,
        chunk=setting.chunk,
        on_device=bool(setting.device_bytes),
        moved=moved,
    )
