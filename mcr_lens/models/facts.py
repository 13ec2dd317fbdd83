"""The few facts about a model that the rest of the package needs, looked up once a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from mcr_lens.errors import InputError
from mcr_lens.models.attached import torch_hooks
from mcr_lens.models.backend import Backend, Model, as_module, backend_of
from mcr_lens.models.self_check import SelfCheck, self_check
from mcr_lens.models.suited import refuse_unsuited

__all__ = ["ModelFacts", "model_facts", "record_origin", "require"]


@dataclass(frozen=True)
class ModelFacts:
    """What a profile records of a model, and what the hooks need to read it rightly.

    Attributes:
        windows: keys a query may see in each layer; ``None`` where attention is global.
        attention_chunk: tokens of the chunks that attention stays within in some layers (Llama 4).
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

    def attributes(self) -> dict[str, Any]:
        """What a result stores about its model."""
        return {
            "model": self.name,
            "revision": self.revision,
            "d_vocab": self.d_vocab,
            "backend": self.backend,
            "processing": self.processing,
            "dtype": self.dtype,
            "device": self.device,
            **({"load_options": dict(self.load_options)} if self.load_options else {}),
            "learned_sink": self.learned_sink,
            "failed_checks": dict(self.failed_checks),
            "versions": {
                package: version(package)
                for package in ("mcr-lens", "transformer-lens", "torch", "transformers", "numpy")
            },
        }


class _Origin(NamedTuple):
    name: str
    revision: str | None
    load_options: Mapping[str, str]


class _Checked(NamedTuple):
    """The outcome of the self-check, with the state of the model that it was done on."""

    state: tuple[str, str, str]
    torch_hooks: list[str]
    outcome: SelfCheck


_CHECKS: WeakKeyDictionary[Any, _Checked] = WeakKeyDictionary()
_ORIGINS: WeakKeyDictionary[Any, _Origin] = WeakKeyDictionary()
# What is not told of loading: secrets, and what says nothing of the model.
_UNTOLD = (
    "token", "use_auth_token", "proxies", "cache_dir", "local_files_only", "trust_remote_code",
    "move_to_device", "n_devices", "max_memory", "offload_folder",
)  # fmt: skip


def record_origin(model: Model, source: str, revision: str | None, options: Mapping[str, Any]) -> None:
    """Remember where ``load_model`` got a model from, and how: its class forgets the revision."""
    told = {name: _in_words(value) for name, value in options.items() if name not in _UNTOLD}
    _ORIGINS[model] = _Origin(source, revision, told)


def model_facts(model: Model) -> ModelFacts:
    """Facts about a model; runs the self-check the first time a model is seen.

    Raises:
        InputError: for an object that is neither of the two model classes, an encoder, or a model without
            its weights.
    """
    backend = backend_of(model)
    weights = next(as_module(model).parameters())
    state = (_processing(model, backend), str(weights.dtype).removeprefix("torch."), str(weights.device))
    if _is_new(model, state):
        refuse_unsuited(model, _origin(model).name)
        _CHECKS[model] = _Checked(state, torch_hooks(model), self_check(model))
    return _facts(model, backend, *state, _CHECKS[model].outcome)


def _is_new(model: Model, state: tuple[str, str, str]) -> bool:
    """Folding, centring or casting weights makes another model of it: it is checked again.

    So it is when hooks of PyTorch's have gone that were there then; they may have been what was found.
    """
    checked = _CHECKS.get(model)
    if checked is None or checked.state != state:
        return True
    return bool(checked.torch_hooks) and torch_hooks(model) != checked.torch_hooks


def require(model: Model, check: str, call: str) -> None:
    """Refuse a call whose assumption the self-check found broken on this model.

    Raises:
        InputError: naming the call, the check and what was found.
    """
    facts = model_facts(model)
    if check in facts.failed_checks:
        raise InputError(
            f"{call} cannot be trusted on {facts.name} ({facts.backend}): {facts.failed_checks[check]}"
        )


def _facts(
    model: Model, backend: Backend, processing: str, dtype: str, device: str, checked: SelfCheck
) -> ModelFacts:
    cfg = model.cfg
    name, revision, load_options = _origin(model)
    return ModelFacts(
        name=name,
        revision=revision,
        backend=backend,
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        windows=_windows(model, backend),
        dtype=dtype,
        device=device,
        processing=processing,
        learned_sink=checked.learned_sink,
        failed_checks=checked.failed,
        load_options=load_options,
        attention_chunk=_attention_chunk(model, backend),
    )


def _origin(model: Model) -> _Origin:
    return _ORIGINS.get(model) or _Origin(str(model.cfg.model_name), None, {})


def _in_words(value: Any) -> str:
    """Plain values as they are written; of an object its kind, whose own words may go on for pages."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_in_words(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_in_words, value))}]"
    return str(value) if value is None or isinstance(value, str | int | float) else type(value).__name__


def _windows(model: Model, backend: Backend) -> tuple[int | None, ...]:
    """Sliding window of each layer, from the layer's own configuration."""
    n_layers = model.cfg.n_layers
    if backend == "hooked_transformer":
        types = model.cfg.attn_types or ["global"] * n_layers
        return tuple(model.cfg.window_size if kind == "local" else None for kind in types)
    config = model.original_model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if types is None:
        types = ["sliding_attention" if window else "full_attention"] * n_layers
    local = ("sliding_attention", "local")
    return tuple(window if kind in local else None for kind in types)


def _attention_chunk(model: Model, backend: Backend) -> int | None:
    if backend == "hooked_transformer":
        return None
    config = model.original_model.config.get_text_config(decoder=True)
    has_chunks = "chunked_attention" in (getattr(config, "layer_types", None) or ())
    return getattr(config, "attention_chunk_size", None) if has_chunks else None


def _processing(model: Model, backend: Backend) -> str:
    """What can be seen of it: folded norms and centred writes change the norms that are measured."""
    if backend == "bridge":
        return "compatibility mode" if getattr(model, "compatibility_mode", False) else "raw"
    done = ["folded norms"] if str(model.cfg.normalization_type).endswith("Pre") else []
    # Centring is done to every row alike: a few tell, and a large vocabulary is not read each time.
    rows = model.W_E[:64].detach().float()
    if bool((rows.mean(-1).abs() <= 1e-3 * rows.std(-1)).all()):
        done.append("centred writes")
    return ", ".join(done) or "raw"
