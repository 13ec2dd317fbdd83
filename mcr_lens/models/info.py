"""What the rest of the package needs to know of a model: looked up once a model and state of its weights."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from mcr_lens.doubts import doubts, warn_of_doubts
from mcr_lens.errors import InputError
from mcr_lens.models.backend import Backend, Model, as_module, backend_of
from mcr_lens.models.boundaries import attention_spans, checked_lengths, rotary_limit
from mcr_lens.models.load_checks import refuse_unsuited
from mcr_lens.models.self_check import cache_check, self_check
from mcr_lens.models.user_hooks import torch_hooks

__all__ = [
    "ModelFacts",
    "cache_fault",
    "model_facts",
    "one_measurement",
    "record_origin",
    "require",
    "require_cache",
]

# Options of loading that are not recorded: secrets, and what says nothing of the model.
_NOT_RECORDED = (
    "token", "use_auth_token", "proxies", "cache_dir", "local_files_only", "trust_remote_code",
    "move_to_device", "n_devices", "max_memory", "offload_folder",
)  # fmt: skip
_PACKAGES = ("mcr-lens", "transformer-lens", "torch", "transformers", "numpy")
# Recorded where they are loaded: they place, adapt or quantise weights.
_IN_USE = ("accelerate", "peft", "bitsandbytes")


@dataclass(frozen=True)
class ModelFacts:
    """What a profile records of a model, and what the hooks need to read it rightly.

    Attributes:
        windows: keys a query may see in each layer; ``None`` where attention is global.
        attention_chunk: tokens of the chunks that attention stays within in some layers (Llama 4).
        max_positions: longest prompt by the model's own configuration (TransformerLens may allow fewer:
            ``n_ctx``); ``None`` where it is not known.
        rotary_limit: longest call with the rotary factors of short ones; ``None`` where all have the same.
        unchecked_lengths: windows and the like that the self-check was too short to reach.
        failed_checks: what the self-check found wrong, by the name of the check; empty when all is well.
        learned_sink: True when patterns sum to less than one because a learned sink logit was dropped.
        processing: ``"raw"``, or what has been done to the weights.
        load_options: what else ``load_model`` was given, in words; a changed configuration is another model.
    """

    name: str
    revision: str | None
    backend: Backend
    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int
    n_ctx: int
    windows: tuple[int | None, ...]
    dtype: str
    device: str
    processing: str
    learned_sink: bool = False
    failed_checks: Mapping[str, str] = field(default_factory=dict)
    load_options: Mapping[str, str] = field(default_factory=dict)
    attention_chunk: int | None = None
    max_positions: int | None = None
    rotary_limit: int | None = None
    unchecked_lengths: tuple[int, ...] = ()

    def require(self, check: str, call: str) -> None:
        """Refuse a call whose assumption the self-check found broken on this model.

        Raises:
            InputError: naming the call, the check and what is wrong.
        """
        if check in self.failed_checks:
            self.distrust(call, self.failed_checks[check])

    def mixes_rotary(self, chunk: int, longest: int) -> bool:
        """Would the KV cache hold keys with rotary factors that a whole prompt does not have?"""
        return self.rotary_limit is not None and chunk <= self.rotary_limit < longest

    def distrust(self, call: str, reason: str) -> NoReturn:
        """Refuse a call that this model makes meaningless."""
        raise InputError(f"{call} cannot be trusted on {self.name} ({self.backend}): {reason}")

    def attributes(self) -> dict[str, Any]:
        """What a result stores about its model."""
        names = (
            "revision",
            "d_vocab",
            "d_model",
            "max_positions",
            "backend",
            "processing",
            "dtype",
            "device",
        )
        return {
            "model": self.name,
            **{name: getattr(self, name) for name in names},
            **({"load_options": dict(self.load_options)} if self.load_options else {}),
            "learned_sink": self.learned_sink,
            "windows": list(self.windows),
            "failed_checks": dict(self.failed_checks),
            **({"unchecked_lengths": list(self.unchecked_lengths)} if self.unchecked_lengths else {}),
            "versions": {
                package: version(package)
                for package in (*_PACKAGES, *(name for name in _IN_USE if name in sys.modules))
            },
        }


@dataclass(frozen=True)
class _Record:
    """Facts of one model, and PyTorch's hooks that it had when they were looked up."""

    facts: ModelFacts
    torch_hooks: list[str]
    cache_faults: list[str | None] = field(default_factory=list)  # empty until somebody asks


_KNOWN: WeakKeyDictionary[Any, _Record] = WeakKeyDictionary()
_MEASURED: ContextVar[tuple[Model, ModelFacts] | None] = ContextVar("mcr_lens_measured", default=None)


def record_origin(model: Model, name: str, revision: str | None, options: Mapping[str, Any]) -> ModelFacts:
    """Check a model that was just loaded, and remember from where: its class forgets the revision."""
    words = {option: _in_words(value) for option, value in options.items() if option not in _NOT_RECORDED}
    return _check(model, name, revision, words)


def model_facts(model: Model) -> ModelFacts:
    """Facts about a model; runs the self-check the first time a model is seen.

    Folding, centring or casting its weights makes another model of it, which is checked again.

    Raises:
        InputError: for an object that is neither of the two model classes, an encoder, or a model without
            its weights.
    """
    measured = _MEASURED.get()
    if measured is not None and measured[0] is model:
        return measured[1]
    backend_of(model)
    record = _KNOWN.get(model)
    if record is None:
        return _check(model, str(model.cfg.model_name))
    facts = record.facts
    is_changed = (facts.processing, facts.dtype, facts.device) != _state(model)
    # Hooks of PyTorch's that have gone may have been what the check found.
    if is_changed or (record.torch_hooks and record.torch_hooks != torch_hooks(model)):
        return _check(model, facts.name, facts.revision, facts.load_options)
    return facts


@contextlib.contextmanager
def one_measurement(model: Model) -> Iterator[ModelFacts]:
    """Around a measurement, which leaves the model as it is: its facts are looked up once, here."""
    facts = model_facts(model)
    token = _MEASURED.set((model, facts))
    try:
        yield facts
    finally:
        _MEASURED.reset(token)


def require(model: Model, check: str, call: str) -> None:
    """``ModelFacts.require`` of a model's facts."""
    model_facts(model).require(check, call)


def cache_fault(model: Model) -> str | None:
    """What goes wrong when a model is fed in chunks, asked once; ``None`` when all is well."""
    model_facts(model)
    faults = _KNOWN[model].cache_faults
    if not faults:
        faults.append(cache_check(model))
    return faults[0]


def require_cache(model: Model, call: str, *, chunk: int | None = None, longest: int = 0) -> None:
    """Refuse a call that feeds a model in chunks where that makes another function of it.

    Args:
        chunk: tokens of the first chunk, and ``longest`` of the longest prompt.
    """
    facts = model_facts(model)
    if chunk is not None and facts.mixes_rotary(chunk, longest):
        limit = facts.rotary_limit or 0
        facts.distrust(
            call,
            f"its rotary factors are others in calls that reach beyond {limit} tokens, and a prompt has "
            f"{longest}; give whole prompts, or chunk={limit + 1} or more",
        )
    if (fault := cache_fault(model)) is not None:
        facts.distrust(call, f"{fault}; give whole prompts, or try another version of transformer-lens")


def _check(
    model: Model,
    name: str,
    revision: str | None = None,
    load_options: Mapping[str, str] | None = None,
) -> ModelFacts:
    refuse_unsuited(model, name)
    hooks, (failed, learned_sink) = torch_hooks(model), self_check(model)
    windows, attention_chunk = attention_spans(model)
    processing, dtype, device = _state(model)
    facts = ModelFacts(
        name=name,
        revision=revision,
        backend=backend_of(model),
        **{size: getattr(model.cfg, size) for size in ("n_layers", "n_heads", "d_model", "d_vocab", "n_ctx")},
        windows=windows,
        processing=processing,
        dtype=dtype,
        device=device,
        learned_sink=learned_sink,
        failed_checks=failed,
        load_options=load_options or {},
        attention_chunk=attention_chunk,
        max_positions=_max_positions(model),
        rotary_limit=rotary_limit(model),
        unchecked_lengths=checked_lengths(model).unchecked,
    )
    _KNOWN[model] = _Record(facts, hooks)
    warn_of_doubts(doubts(facts.attributes()))
    return facts


def _state(model: Model) -> tuple[str, str, str]:
    """Processing, dtype and device of the weights: what makes another model of a model when it changes."""
    weights = next(as_module(model).parameters())
    return _processing(model), str(weights.dtype).removeprefix("torch."), str(weights.device)


def _processing(model: Model) -> str:
    """What has been done to the weights: folding and centring change the norms that are measured."""
    if backend_of(model) == "bridge":
        return "compatibility mode" if getattr(model, "compatibility_mode", False) else "raw"
    done = ["folded norms"] if str(model.cfg.normalization_type).endswith("Pre") else []
    # Centring is done to every row alike: a few tell, and a large vocabulary is not read each time.
    rows = model.W_E[:64].detach().float()
    if bool((rows.mean(-1).abs() <= 1e-3 * rows.std(-1)).all()):
        done.append("centred writes")
    return ", ".join(done) or "raw"


def _max_positions(model: Model) -> int | None:
    """What the configuration names; HookedTransformer keeps only what it allows itself."""
    if backend_of(model) == "hooked_transformer":
        return None
    config = model.original_model.config.get_text_config(decoder=True)
    return getattr(config, "max_position_embeddings", None)


def _in_words(value: Any) -> str:
    """Plain values as they are written; of an object its kind, whose own words may go on for pages."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_in_words(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_in_words, value))}]"
    return str(value) if value is None or isinstance(value, str | int | float) else type(value).__name__
