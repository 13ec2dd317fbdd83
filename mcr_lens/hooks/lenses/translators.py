"""``Translators``: the affine maps of a tuned lens, and the folder they live in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mcr_lens.errors import InputError, one_line
from mcr_lens.results import atomic_write
from mcr_lens.validate import plain_path

__all__ = ["Translators", "translate"]

_CONFIG, _PARAMS, _PUBLISHED_PARAMS = "config.json", "params.safetensors", "params.pt"
_LENS_TYPE = "linear_tuned_lens"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def translate(
    residual: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, "d_model d_model"],
    bias: Float[Tensor, "d_model"],
) -> Float[Tensor, "*batch d_model"]:
    """``h + A h + b``, in float32 or better, given back in the dtype of ``h``."""
    precise = residual.to(torch.promote_types(residual.dtype, weight.dtype))
    return (precise + precise @ weight.to(precise).T + bias.to(precise)).to(residual.dtype)


@dataclass(frozen=True, eq=False)
class Translators:
    """Affine maps from every depth but the last to the last, ``h -> h + A_l h + b_l``.

    Belrose et al. 2023 (arXiv 2303.08112), with the identity added as in their code: with zeros it is the
    logit lens.

    Attributes:
        weights: ``A_l`` of the depths 0..L-1.
        biases: ``b_l`` of the depths 0..L-1.
        record: whose they are and how they were fitted: ``base_model``, ``revision`` and more.

    Example:
        >>> nothing = Translators(torch.zeros(2, 8, 8), torch.zeros(2, 8))
        >>> nothing.n_layers, nothing.d_model
        (2, 8)
    """

    weights: Float[Tensor, "n_layers d_model d_model"]
    biases: Float[Tensor, "n_layers d_model"]
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights, biases = tuple(self.weights.shape), tuple(self.biases.shape)
        if len(weights) != 3 or weights[1] != weights[2] or biases != weights[:2]:
            raise InputError(
                f"translators with weights {weights} and biases {biases}: give "
                "(layers, d_model, d_model) and (layers, d_model)"
            )
        for name in ("weights", "biases"):
            tensor = getattr(self, name).detach()
            if tensor.dtype not in _DTYPES:
                raise InputError(f"translators with {name} of {tensor.dtype}: use float32 or another float")
            precise = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            object.__setattr__(self, name, precise)

    @property
    def n_layers(self) -> int:
        """Number of translators: one a depth, the last depth has none."""
        return self.weights.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.weights.shape[1]

    def to(self, device: str | torch.device) -> Translators:
        """The same on another device."""
        return Translators(self.weights.to(device), self.biases.to(device), self.record)

    def translate(
        self, state: Float[Tensor, "*batch d_model"], depth: int
    ) -> Float[Tensor, "*batch d_model"]:
        """A state of a depth but the last, as the last depth would have it."""
        return translate(state, self.weights[depth].to(state.device), self.biases[depth].to(state.device))

    def save(self, folder: str | Path) -> Path:
        """Write ``params.safetensors`` and ``config.json`` into a folder of their own.

        The folder appears when both are complete. One that holds saved translators is replaced.

        Raises:
            InputError: when the place cannot be written or holds anything else; it is left as it was.
        """
        folder = plain_path(folder)
        if os.path.exists(folder) and not (folder.is_dir() and _names(folder) in (set(), {_CONFIG, _PARAMS})):
            raise InputError(f"{folder}: something else stands there; choose another folder")
        tensors = {"weights": self.weights.cpu().contiguous(), "biases": self.biases.cpu().contiguous()}
        with atomic_write(folder, is_folder=True) as partial:
            partial.mkdir()
            (partial / _PARAMS).write_bytes(save(tensors))
            (partial / _CONFIG).write_text(json.dumps(self._config(), indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, allow_pickle: bool = False) -> Translators:
        """Read a folder that ``save`` wrote, or a published tuned lens (``config.json`` and ``params.pt``).

        In a published one, translator ``i`` (``"i.weight"``, ``"i.bias"``) belongs to hidden state ``i``,
        which is depth ``i``.

        Args:
            allow_pickle: read ``params.pt``, which is pickled, of a source you trust; nothing but tensors
                is taken from it. What you ``save`` then is not pickled.

        Raises:
            InputError: for a folder that is incomplete, of another lens type, or not of the shape it states.
        """
        folder = plain_path(folder)
        config = _read_config(folder)
        if (folder / _PARAMS).is_file():
            weights, biases = _read_own(folder / _PARAMS)
        elif (folder / _PUBLISHED_PARAMS).is_file():
            if not allow_pickle:
                raise InputError(
                    f"{folder}: {_PUBLISHED_PARAMS} is pickled; where you trust its source, "
                    "Translators.load(folder, allow_pickle=True).save(new) makes safetensors of it"
                )
            weights, biases = _read_published(folder / _PUBLISHED_PARAMS, config)
        else:
            raise InputError(f"{folder}: neither {_PARAMS} nor {_PUBLISHED_PARAMS} is there")
        published = {
            "base_model": config.get("base_model_name_or_path"),
            "revision": config.get("base_model_revision"),
            "unembed_hash": config.get("unembed_hash"),
        }
        record = config.get("record", published)
        try:
            lens = cls(weights, biases, record if isinstance(record, dict) else published)
        except InputError as error:
            raise InputError(f"{folder}: {error}") from error
        stated = (config.get("num_hidden_layers"), config.get("d_model"))
        if stated != (lens.n_layers, lens.d_model):
            raise InputError(
                f"{folder}: {_CONFIG} states {stated[0]} layers of width {stated[1]}, the file has "
                f"{lens.n_layers} of width {lens.d_model}"
            )
        return lens

    def _config(self) -> dict[str, Any]:
        """The keys of a published lens, and the whole record beside them."""
        return {
            "base_model_name_or_path": self.record.get("base_model"),
            "base_model_revision": self.record.get("revision"),
            "d_model": self.d_model,
            "num_hidden_layers": self.n_layers,
            "bias": True,
            "lens_type": _LENS_TYPE,
            "record": dict(self.record),
        }


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long
        raise InputError(f"{folder}: no {_CONFIG} there; give the folder of a tuned lens")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({one_line(error)})") from error
    if not isinstance(config, dict) or config.get("lens_type", _LENS_TYPE) != _LENS_TYPE:
        raise InputError(f"{path}: not the configuration of a {_LENS_TYPE!r}")
    return config


def _read_own(path: Path) -> tuple[Tensor, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from error
    if set(tensors) != {"weights", "biases"}:
        raise InputError(f"{path}: holds {', '.join(sorted(tensors))}; expected weights, biases")
    return tensors["weights"], tensors["biases"]


def _read_published(path: Path, config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The state dictionary of a list of linear maps; their package loads it strictly, and so do we."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling a foreign file may raise
        raise InputError(f"{path}: not a plain file of tensors ({one_line(error, 120)})") from error
    kinds = ("weight", "bias") if config.get("bias", True) else ("weight",)
    layers, width = config.get("num_hidden_layers"), config.get("d_model")
    if not isinstance(layers, int) or not isinstance(width, int) or min(layers, width) < 1:
        raise InputError(f"{path.parent / _CONFIG}: num_hidden_layers {layers}, d_model {width}: no lens")
    shapes = {"weight": (width, width), "bias": (width,)}
    expected = {f"{i}.{kind}": shapes[kind] for i in range(layers) for kind in kinds}
    found = state if isinstance(state, dict) else {}
    there = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in found.items()}
    odd = [str(name) for name in {**expected, **there} if expected.get(name) != there.get(name)]
    if odd:
        raise InputError(
            f"{path}: expected 0.weight, 0.bias .. {layers - 1}.bias for {layers} layers of width {width}; "
            f"missing, unknown or of another shape: {', '.join(odd[:4])}{' ...' if len(odd) > 4 else ''}"
        )
    weights = torch.stack([state[f"{i}.weight"] for i in range(layers)])
    if "bias" not in kinds:
        return weights, torch.zeros(layers, width)
    return weights, torch.stack([state[f"{i}.bias"] for i in range(layers)])
