"""The few facts about a model that the rest of the package needs, looked up once a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

from mcr_lens.errors import InputError
from mcr_lens.models.backend import Backend, Model, backend_of
from mcr_lens.models.self_check import self_check

__all__ = ["ModelFacts", "model_facts", "record_origin", "require"]


@dataclass(frozen=True)
class ModelFacts:
    """What a profile records of a model, and what the hooks need to read it rightly.

    Attributes:
        windows: keys a query may see in each layer; ``None`` where attention is global.
        failed_checks: what the self-check found wrong, by the name of the check; empty when all is well.
        learned_sink: True when patterns sum to less than one because a learned sink logit was dropped.
        processing: ``"raw"``, or what has been done to the weights.
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

    def attributes(self) -> dict[str, Any]:
        """What a result stores about its model."""
        return {
            "model": self.name,
            "revision": self.revision,
            "backend": self.backend,
            "processing": self.processing,
            "dtype": self.dtype,
            "device": self.device,
            "learned_sink": self.learned_sink,
            "failed_checks": dict(self.failed_checks),
            "versions": {
                package: version(package)
                for package in ("mcr-lens", "transformer-lens", "torch", "transformers")
            },
        }


_FACTS: WeakKeyDictionary[Any, ModelFacts] = WeakKeyDictionary()
_ORIGINS: WeakKeyDictionary[Any, tuple[str, str | None]] = WeakKeyDictionary()


def record_origin(model: Model, source: str, revision: str | None) -> None:
    """Remember where ``load_model`` got a model from: its class forgets the revision."""
    _ORIGINS[model] = (source, revision)


def model_facts(model: Model) -> ModelFacts:
    """Facts about a model; runs the self-check the first time a model is seen.

    Raises:
        InputError: for an object that is neither of the two model classes.
    """
    backend = backend_of(model)
    known = _FACTS.get(model)
    # Folding or centring weights makes another model of it: look again.
    if known is None or known.processing != _processing(model, backend):
        _FACTS[model] = known = _look_up(model, backend)
    return known


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


def _look_up(model: Model, backend: Backend) -> ModelFacts:
    cfg = model.cfg
    name, revision = _ORIGINS.get(model, (str(cfg.model_name), None))
    checked = self_check(model)
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
        dtype=str(cfg.dtype).removeprefix("torch."),
        device=str(cfg.device),
        processing=_processing(model, backend),
        learned_sink=checked.learned_sink,
        failed_checks=checked.failed,
    )


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


def _processing(model: Model, backend: Backend) -> str:
    if backend == "bridge":
        return "compatibility mode" if getattr(model, "compatibility_mode", False) else "raw"
    return "folded norms" if str(model.cfg.normalization_type).endswith("Pre") else "raw"
